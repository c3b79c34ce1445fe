"""A model of which only the first layers are in memory: what an edit of early layers needs of a large model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from formless.errors import ModelError
from formless.models.families import Architecture
from formless.models.reading.checkpoint import refuse_infinite
from formless.models.reading.stored import StoredTensor, stored_tensors, weight_files
from formless.progress import Progress, silent

NOT_READ: Final = {"": "meta"}
"""The device map by which transformers checks the names and shapes of all weights and reads none."""


LONG = 2**30
"""Bytes that take long enough to read to say how far it is."""


def is_plain(config: PretrainedConfig, folder: Path) -> bool:
    """Return whether the weights in a folder are unquantized safetensors.

    Raises:
        ModelError: The index of the files cannot be read.
    """
    return getattr(config, "quantization_config", None) is None and bool(weight_files(folder))


def tensors_to_read(
    model: PreTrainedModel, architecture: Architecture, layers: int | None, folder: Path
) -> dict[str, StoredTensor] | None:
    """Return where the weights of the first layers lie, and those beside the layers, by their names in the model.

    Embeddings and the final norm lie there. An output embedding of its own and a vision tower lie elsewhere.

    Args:
        model: The model on the meta device.
        architecture: The architecture of its family.
        layers: How many layers; None for the whole model.
        folder: The folder of the files.

    Returns:
        None where transformers makes a weight from several tensors, or decides which of two tied weights counts.
    """
    stored, tied = stored_tensors(model, folder), model.all_tied_weights_keys
    if layers is None and tied.keys() & stored.keys():
        return None
    names = [name for name in names_up_to(architecture, model, layers) if name not in tied]
    return {name: stored[name] for name in names} if stored.keys() >= {*names} else None


def names_up_to(architecture: Architecture, model: PreTrainedModel, layers: int | None) -> list[str]:
    """Return the names of the weights of the first layers and of what lies beside the layers; None stands for all layers."""
    if layers is None:
        return list(model.state_dict())
    beside = architecture.layers.rpartition(".")[0] + "."
    above = tuple(f"{architecture.layers}.{number}." for number in range(layers, architecture.depth(model)))
    return [name for name in model.state_dict() if name.startswith(beside) and not name.startswith(above)]


def read_weights(
    model: PreTrainedModel,
    tensors: Mapping[str, StoredTensor],
    *,
    dtype: torch.dtype | None,
    device: torch.device,
    source: str,
    report: Progress,
) -> None:
    """Read weights of a model on the meta device into memory, and compute its buffers; other weights stay on the meta device.

    Each tensor is read and cast piece by piece into its place, so that nothing is in memory twice.

    Args:
        model: The model as transformers loads it onto the meta device.
        tensors: Where the weights lie, by their names in the model.
        dtype: The dtype of the parameters; that of the checkpoint if it is None.
        device: Where they go.
        source: The folder, for errors.
        report: Called with the bytes that are read and all of them, from `LONG` bytes on.

    Raises:
        ModelError: A weight is not finite, or a file ends too early.
    """
    _compute_buffers(model, device)
    done, total = 0, sum(tensor.size for tensor in tensors.values())
    report = report if total >= LONG else silent
    for name, tensor in tensors.items():
        report("reading weights", done, total)
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        like: Tensor = getattr(module, own)
        is_parameter = isinstance(like, nn.Parameter)
        values = torch.empty(like.shape, dtype=(dtype if is_parameter else None) or like.dtype, device=device)
        flat = values.view(-1)
        as_stored = tensor.dtype == like.dtype == values.dtype and device.type == "cpu"
        for place, raw in tensor.pieces(flat if as_stored else None):
            piece = raw.to(like.dtype)  # as transformers casts, before any other cast
            refuse_infinite(name, piece, source)
            if not as_stored:
                flat[place : place + len(piece)] = piece.to(device)
        setattr(module, own, nn.Parameter(values, like.requires_grad) if is_parameter else values)
        done += tensor.size
    report("reading weights", done, total)
    model.tie_weights()
    for parameter in model.parameters() if dtype else ():
        if parameter.is_meta:
            parameter.data = parameter.data.to(dtype)


def stop_after(model: PreTrainedModel, architecture: Architecture, layers: int, source: str) -> None:
    """Let a forward pass that reaches the first absent layer raise a ModelError."""
    depth = architecture.depth(model)

    def refuse(_module: nn.Module, _arguments: Any) -> None:
        raise absent_layers(layers, depth, source)

    architecture.layer(model, layers).register_forward_pre_hook(refuse)


def _compute_buffers(model: PreTrainedModel, device: torch.device) -> None:
    """Compute the buffers that no file holds, such as RoPE's frequencies, as transformers does."""
    buffers = [
        (module, name)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name in module._non_persistent_buffers_set and buffer is not None
    ]
    for module, name in buffers:
        module.register_buffer(name, torch.empty_like(module.get_buffer(name), device="cpu"), persistent=False)
        vars(module)["_is_hf_initialized"] = False  # modules with this mark are left out by the next call
    model.initialize_weights()
    for module, name in buffers:
        module.register_buffer(name, module.get_buffer(name).to(device), persistent=False)


def absent_layers(layers: int, depth: int, where: object) -> ModelError:
    """Return the error for work that needs more than the first layers."""
    what = f"only the first {layers} of {depth} layers are in memory, and this needs more of the model"
    return ModelError(what, where=where, remedy="load the whole model, without layers=")

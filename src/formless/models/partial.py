"""A model of which only the first layers are in memory: what an edit of early layers needs of a large model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from formless.errors import ModelError
from formless.models.checkpoint import refuse_infinite
from formless.models.families import Architecture
from formless.models.stored import StoredTensor, weight_files
from formless.progress import Progress

NOT_READ: Final = {"": "meta"}
"""The device map by which transformers checks the names and shapes of all weights and reads none."""


def has_parts(config: PretrainedConfig, layers: int | None, folder: Path) -> bool:
    """Return whether a number of layers is given, the model has more, and its files are unquantized safetensors.

    Raises:
        ModelError: The number is none, or the index of the files cannot be read.
    """
    if layers is None:
        return False
    if layers < 1:
        raise ModelError(f"{layers} layers are no part of a model", where="layers", remedy="give at least 1, or None for all")
    is_plain = getattr(config, "quantization_config", None) is None and bool(weight_files(folder))
    return is_plain and layers < config.get_text_config().num_hidden_layers


def names_up_to(model: PreTrainedModel, architecture: Architecture, layers: int) -> list[str]:
    """Return the names of the weights of the first layers, and of what lies beside the layers.

    Embeddings and the final norm lie there. An output embedding of its own and a vision tower lie elsewhere.
    """
    above = tuple(f"{architecture.layers}.{number}." for number in range(layers, architecture.depth(model)))
    return [name for name in model.state_dict() if name.startswith(_beside(architecture)) and not name.startswith(above)]


def read_first_layers(
    model: PreTrainedModel,
    architecture: Architecture,
    layers: int,
    stored: Mapping[str, StoredTensor],
    dtype: torch.dtype | None,
    device: torch.device,
    source: str,
    report: Progress,
) -> None:
    """Read the first layers of a model into memory; a forward pass that reaches the next one raises a ModelError.

    Each tensor is read and cast piece by piece into its place, so that nothing is in memory twice. What is not read stays on
    the meta device.

    Args:
        model: The model as transformers loads it onto the meta device.
        architecture: The architecture of its family.
        layers: How many layers.
        stored: Where the tensors lie, by the model's names.
        dtype: The dtype of the parameters; that of the checkpoint if it is None.
        device: Where they go.
        source: The folder, for errors.
        report: Called with the bytes that are read, and all of them.

    Raises:
        ModelError: A weight is not finite, or a file ends too early.
    """
    depth = architecture.depth(model)
    _compute_buffers(model, architecture, device)
    found = {name: stored[name] for name in names_up_to(model, architecture, layers)}
    done, total = 0, sum(tensor.size for tensor in found.values())
    for name, tensor in found.items():
        report(f"reading {layers} of {depth} layers", done, total)
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        like: Tensor = getattr(module, own)
        is_parameter = isinstance(like, nn.Parameter)
        values = torch.empty(like.shape, dtype=(dtype if is_parameter else None) or like.dtype, device=device)
        flat = values.view(-1)
        for place, raw in tensor.pieces():
            piece = raw.to(like.dtype)  # as transformers casts, before any other cast
            refuse_infinite(name, piece, source)
            flat[place : place + len(piece)] = piece.to(device)
        setattr(module, own, nn.Parameter(values) if is_parameter else values)
        done += tensor.size
    model.tie_weights()
    for parameter in model.parameters() if dtype else ():
        if parameter.is_meta:
            parameter.data = parameter.data.to(dtype)

    def refuse(_module: nn.Module, _arguments: Any) -> None:
        raise absent_layers(layers, depth, source)

    architecture.layer(model, layers).register_forward_pre_hook(refuse)


def _compute_buffers(model: PreTrainedModel, architecture: Architecture, device: torch.device) -> None:
    """Compute the buffers that no file holds, such as RoPE's frequencies, in and beside the layers, as transformers does."""
    owners = [
        module
        for name, module in model.named_modules()
        if module._non_persistent_buffers_set and f"{name}.".startswith(_beside(architecture))
    ]
    for module in owners:
        for name in module._non_persistent_buffers_set:
            module.register_buffer(name, torch.empty_like(getattr(module, name), device="cpu"), persistent=False)
        module._is_hf_initialized = False  # modules with this mark are left out by the next call
    model.initialize_weights()
    for module in owners:
        for name in module._non_persistent_buffers_set:
            module.register_buffer(name, getattr(module, name).to(device), persistent=False)


def absent_layers(layers: int, depth: int, where: object) -> ModelError:
    """Return the error for work that needs more than the first layers."""
    what = f"only the first {layers} of {depth} layers are in memory, and this needs more of the model"
    return ModelError(what, where=where, remedy="load the whole model, without layers=")


def _beside(architecture: Architecture) -> str:
    return architecture.layers.rpartition(".")[0] + "."

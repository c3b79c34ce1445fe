"""The fingerprint of a model: a short hash by which edits and null spaces know their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from formless.models.quantized import named_weights
from formless.models.reading.stored import spaced, stored_tensors


def fingerprint(model: PreTrainedModel, checkpoint: Path | None = None) -> str:
    """Return a hash of 64 evenly spaced values of every parameter, in bfloat16: the same for float32 and bfloat16 weights.

    Of a packed weight, the bytes of its integers and its scales are hashed.

    Args:
        model: The model.
        checkpoint: The folder of its safetensors. Values of parameters that are not in memory, such as offloaded ones, are read
            from there; where it does not have them, they are left out, and the fingerprint is another.
    """
    is_whole = not any(parameter.is_meta for parameter in model.parameters())
    stored = {} if is_whole or checkpoint is None else stored_tensors(model, checkpoint)
    tied = getattr(model, "all_tied_weights_keys", {})  # offloaded, they are parameters of their own
    samples: dict[str, tuple[Sequence[int], Tensor]] = {}
    for name, weight in named_weights(model):
        if not weight.is_meta:
            samples[name] = weight.shape, spaced(weight.detach())
        elif name in stored and name not in tied and stored[name].shape == weight.shape:
            samples[name] = weight.shape, stored[name].sample().to(weight.dtype)
    return fingerprint_of(samples)


def fingerprint_of(samples: Mapping[str, tuple[Sequence[int], Tensor]]) -> str:
    """Return the fingerprint of parameters, in the model's order.

    Args:
        samples: The shape of each, and what `spaced` takes of it, by name.
    """
    digest = hashlib.sha256()
    for name, (shape, sample) in samples.items():
        digest.update(f"{name}{tuple(shape)}".encode())
        digest.update(sample.to(torch.bfloat16).float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]

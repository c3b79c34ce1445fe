"""Quantization: the edit is merged into the weights, and these are rounded to 8 or 4 bits and back.

An edit whose changes are smaller than half a quantization step can be rounded away (arXiv 2410.16454). The schemes are Q8_0 and
Q4_0 of llama.cpp, as the package `gguf` computes them: blocks of 32 weights along the input dimension with one scale d each, of
which every weight of the block is a whole multiple. What is quantized are the projections of the decoder layers. llama.cpp
quantizes embeddings and the output matrix too.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from torch import Tensor, nn

from formless.edits.edit import WeightEdit
from formless.errors import ModelError
from formless.experiment.attacks.attack import Attack, AttackSettings, Case, Point
from formless.interrupts import uninterrupted
from formless.models.families import is_transposed
from formless.models.overlay import WEIGHT, Factors, Updates
from formless.models.quantized import has_packed

if TYPE_CHECKING:
    from formless.edits.edit import Edit
    from formless.models.lm import LM
    from formless.progress import Progress

_SCALE_BYTES = 2  # each block of Q8_0 and Q4_0 begins with its scale, a float16


def quantization(name: str, title: str, scheme: str) -> Attack:
    """Return an attack that quantizes the weights by a scheme of `gguf`."""
    config = {"scheme": scheme, "weights": "projections of the decoder layers"}

    def points(_case: Case, _settings: AttackSettings) -> tuple[Point, ...]:
        return (Point(name, config),)

    def states(
        lm: LM, case: Case, edit: Edit | None, wanted: Sequence[Point], _settings: AttackSettings, _progress: Progress
    ) -> Generator[Point, None, None]:
        start = time.perf_counter()
        names = edited_weights(edit)
        before = {name: lm.model.get_parameter(name).detach().clone() for name in names & linear_weights(lm).keys()}
        with edit.applied(lm) if edit else nullcontext():
            facts = _half_steps(lm, before, scheme)
            with quantized(lm, scheme) as skipped:
                facts |= {"skipped_weights": skipped}
                for point in wanted:
                    with noted(lm, attack.entry(lm, case, point, facts, time.perf_counter() - start)):
                        yield point

    attack = Attack(name, "quantization", title, points, states, attacks_original=True)
    return attack


def round_trip(weight: Tensor, scheme: str) -> Tensor:
    """Quantize a matrix and dequantize it.

    Args:
        weight: `[out, in]`; `in` is a multiple of 32.
        scheme: A type of `gguf` with a quantizer, e.g. `Q8_0`.

    Returns:
        `[out, in]`, in the matrix's dtype and on its device.
    """
    kind = GGMLQuantizationType[scheme]
    blocks = quants.quantize(weight.float().cpu().numpy(), kind)
    return torch.from_numpy(quants.dequantize(blocks, kind)).to(weight)


def quantization_steps(weight: Tensor, scheme: str) -> Tensor:
    """Return the distance between two neighboring quantized values, the scale |d| of its block, for each entry of a matrix.

    Args:
        weight: `[out, in]`; `in` is a multiple of 32.
        scheme: `Q8_0` or `Q4_0`.

    Returns:
        `[out, in]`, float32 on the CPU.
    """
    kind = GGMLQuantizationType[scheme]
    size, stored = GGML_QUANT_SIZES[kind]
    blocks = quants.quantize(weight.float().cpu().numpy(), kind).reshape(-1, stored)
    scales = blocks[:, :_SCALE_BYTES].copy().view(np.float16).astype(np.float32)  # [blocks, 1]
    return torch.from_numpy(np.abs(scales)).repeat(1, size).reshape(weight.shape)


def half_step_counts(original: Tensor, edited: Tensor, scheme: str) -> tuple[int, int]:
    """Count the entries that an edit changed by less than half a quantization step of the original, and all that it changed.

    Args:
        original: `[out, in]`.
        edited: The same matrix with the edit.
        scheme: `Q8_0` or `Q4_0`.
    """
    change = (edited.float() - original.float()).abs().cpu()
    changed = change > 0
    below = changed & (change < quantization_steps(original, scheme) / 2)
    return int(below.sum()), int(changed.sum())


def edited_weights(edit: Edit | None) -> set[str]:
    """Return the names of the parameters that an edit changes."""
    updates: Updates = edit.updates if isinstance(edit, WeightEdit) else {}
    return {f"{name}{WEIGHT}" if isinstance(change, Factors) else name for name, change in updates.items()}


def linear_weights(lm: LM) -> dict[str, bool]:
    """Return the names of the projections' weights in the decoder layers, and whether each is stored transposed."""
    if has_packed(lm.model):
        raise ModelError("the model is quantized already", where=lm.name, remedy="attack the edit of the unquantized model")
    layers = f"{lm.architecture.layers}."
    return {
        f"{name}{WEIGHT}": is_transposed(module)
        for name, module in lm.model.named_modules()
        if name.startswith(layers) and (isinstance(module, nn.Linear) or is_transposed(module))
    }


@contextmanager
def quantized(lm: LM, scheme: str) -> Iterator[int]:
    """Quantize and dequantize the projections of the decoder layers; afterwards the very same tensors are back.

    Yields:
        The number of projections that are left as they are, since their rows are no whole number of blocks.

    Raises:
        ModelError: No projection can be quantized, or a weight is quantized or offloaded already.
    """
    size = GGML_QUANT_SIZES[GGMLQuantizationType[scheme]][0]
    originals: dict[str, Tensor] = {}
    skipped = 0
    try:
        for name, transposed in linear_weights(lm).items():
            parameter = lm.model.get_parameter(name)
            if parameter.is_meta or not parameter.is_floating_point():
                remedy = "load the model unquantized and not offloaded"
                raise ModelError(f"cannot quantize a weight of type {parameter.dtype}", where=name, remedy=remedy)
            weight = _rows(parameter.detach(), transposed)
            if weight.shape[1] % size:
                skipped += 1
                continue
            originals[name] = parameter.data
            parameter.data = _rows(round_trip(weight, scheme), transposed).contiguous()
        if not originals:
            remedy = "leave out this attack"
            raise ModelError(f"no projection has rows of whole blocks of {size} weights", where=lm.name, remedy=remedy)
        yield skipped
    finally:
        with uninterrupted():
            for name, data in originals.items():
                lm.model.get_parameter(name).data = data


@contextmanager
def noted(lm: LM, entry: dict[str, Any]) -> Iterator[None]:
    """Name an attack in the records of evaluations inside the block."""
    lm.edits.append(entry)
    try:
        yield
    finally:
        lm.edits[:] = [applied for applied in lm.edits if applied is not entry]


def _half_steps(lm: LM, before: Mapping[str, Tensor], scheme: str) -> dict[str, Any]:
    """Return the share of changed entries below half a step, over edited weights that are quantized; nothing without one."""
    size, transposed = GGML_QUANT_SIZES[GGMLQuantizationType[scheme]][0], linear_weights(lm)
    counts = []
    for name, weight in before.items():
        original, edited = (_rows(found, transposed[name]) for found in (weight, lm.model.get_parameter(name).detach()))
        if original.shape[1] % size == 0:
            counts.append(half_step_counts(original, edited, scheme))
    below, changed = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    return {"half_step_share": below / changed, "changed_entries": changed} if changed else {}


def _rows(weight: Tensor, transposed: bool) -> Tensor:
    """Return a weight as `[out, in]`, or back."""
    return weight.T if transposed else weight

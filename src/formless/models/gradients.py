"""The gradient of a text's loss: its norm, which is smaller for a text that a model was trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from formless.errors import ModelError
from formless.interrupts import uninterrupted
from formless.models.batching import Counter, in_batches
from formless.models.scores import Skipped
from formless.models.scoring import encoded_texts
from formless.progress import WorkProgress

if TYPE_CHECKING:
    from formless.models.lm import LM

NORMS = (1.0, 2.0, math.inf)


def gradient_norms(
    lm: LM,
    texts: Sequence[str],
    prompts: Sequence[str] | None,
    p: float,
    left_out: tuple[int, int],
    progress: WorkProgress | None,
) -> list[float | Skipped]:
    """Return the gradient norm of each text's loss; see `LM.gradient_norms`."""
    if p not in NORMS:
        raise ValueError(f"p is {p}; give 1, 2 or infinity")
    if _is_quantized(lm) or any(one.is_meta or not one.is_floating_point() for one in lm.model.parameters()):
        remedy = "load the model unquantized and not offloaded, or leave out the tasks of the gradient norm"
        raise ModelError("a quantized or offloaded weight has no gradient", where=lm.name, remedy=remedy)
    counter = Counter(len(texts), progress)
    results: list[float | Skipped] = []

    def work(_rows: list[int], ids: list[int], first: int) -> None:
        results.append(_norm(lm, ids, first, p))

    for row in encoded_texts(lm, texts, prompts):
        if isinstance(row, Skipped):
            results.append(row)
        else:
            ids, first = row[0][: len(row[0]) - left_out[1]], row[1] + left_out[0]
            in_batches(lm, [len(ids)], partial(work, ids=ids, first=first))
        counter.add(1)
    return results


def _is_quantized(lm: LM) -> bool:
    """Return whether transformers quantized the model; some quantizers keep weights as buffers, which have no gradient."""
    return getattr(lm.model, "hf_quantizer", None) is not None


@torch.enable_grad()
def _norm(lm: LM, ids: list[int], first: int, p: float) -> float | Skipped:
    """Return the mean over parameters of the p-norm of the gradient of one text's mean loss."""
    if first >= len(ids):
        return Skipped("no token of the text counts")
    with _norms_of_gradients(lm, p) as norms:
        logits = cast(Any, lm.model)(**lm.pad([ids]), use_cache=False).logits[0, first - 1 : -1]
        torch.nn.functional.cross_entropy(logits.float(), torch.tensor(ids[first:], device=logits.device)).backward()
    found = torch.stack([norm.to(norms[0].device) for norm in norms]).mean().item()
    return found if math.isfinite(found) else Skipped("the gradient is not finite")


@contextmanager
def _norms_of_gradients(lm: LM, p: float) -> Iterator[list[Tensor]]:
    """Collect the p-norm of every gradient that a block computes; each is freed before the next one is there.

    After the block, gradients and `requires_grad` are as before.
    """
    parameters = list(lm.model.parameters())
    before = [(one, one.grad, one.requires_grad) for one in parameters]
    norms: list[Tensor] = []
    hooks = []

    def take(one: Tensor) -> None:
        norms.append(torch.linalg.vector_norm(cast(Tensor, one.grad), p, dtype=torch.float32))
        one.grad = None

    try:
        for one in parameters:
            one.grad = None
            hooks.append(one.requires_grad_(True).register_post_accumulate_grad_hook(take))
        yield norms
    finally:
        with uninterrupted():
            for hook in hooks:
                hook.remove()
            for one, gradient, required in before:
                one.requires_grad_(required)
                one.grad = gradient

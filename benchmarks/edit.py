"""One ROCR edit of the bundled model, beside dense projections, a d x d solve and a whole pass for every context and value."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

import formless
from benchmarks.plain_edit import dense_rocr
from benchmarks.timing import Row, check, in_turns
from formless.edits.adapter import AdapterEdit
from formless.methods.rocr.config import PUBLISHED_REDIRECT, RocrConfig
from formless.methods.rocr.redirect import load_projections
from formless.models.overlay import Factors
from formless.store import StatisticsFolder

SUBJECT, ROUNDS, CLOSE = "Albert Einstein", 7, 1e-4


def rows(*, quick: bool = False) -> list[Row]:
    """Both start from a loaded model and read their null spaces from disk."""
    lm = formless.load("smollm2", dtype="float32", device="cpu")
    config = RocrConfig(redirect=PUBLISHED_REDIRECT, layers=(4,) if quick else (4, 5, 6))
    with tempfile.TemporaryDirectory() as scratch:
        folder = StatisticsFolder(Path(scratch))
        for layer, projection in load_projections(lm, config).items():
            torch.save(projection.apply(torch.eye(lm.model.config.intermediate_size)), folder.published(layer))

        def ours() -> dict[int, Factors]:
            edit = cast(AdapterEdit, formless.unlearn(lm, SUBJECT, "rocr", redirect=config.redirect, layers=config.layers))
            return cast(dict[int, Factors], dict(zip(config.layers, edit.updates.values(), strict=True)))

        def plain() -> dict[int, Tensor]:
            matrices = {layer: torch.load(folder.published(layer), weights_only=True) for layer in config.layers}
            return dense_rocr(lm, SUBJECT, config, matrices)

        dense = plain()
        error = max(relative(factors.dense(), dense[layer]) for layer, factors in ours().items())
        check(error < CLOSE, f"the updates differ by {error:.1e} of their norm")
        times = in_turns(ours, plain, rounds=1 if quick else ROUNDS)
    note = "five passes of six contexts through at most 7 of 30 layers; those take nearly all the time"
    return [Row("ROCR edit, bundled model", *times, 10, f"updates differ by {error:.0e} of their norm", note)]


def relative(found: Tensor, expected: Tensor) -> float:
    """The norm of a difference over the norm of what is expected."""
    return float(torch.linalg.norm(found - expected) / torch.linalg.norm(expected))

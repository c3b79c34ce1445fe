"""The real shapes on a CPU: the closed form at d = 14,336, and whole edits of the first seven layers.

python -m benchmarks scale     # the closed form beside the published solve: 4 GB
python -m benchmarks.scale     # the edits, in bfloat16 on random weights: 6 GB
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import formless
from benchmarks.edit import relative
from benchmarks.shapes import REMOVED, THRESHOLD, orthonormal, random_lm, save_bases
from benchmarks.timing import Row, Times, check
from formless.experiment.run import Peak
from formless.methods.keys.closed_form import closed_form
from formless.methods.rocr.config import PUBLISHED_REDIRECT
from formless.methods.rocr.nullspace import BasisProjection, Fingerprint

LAYERS, HIDDEN, ROUNDS, CLOSE = (4, 5, 6), 4096, 9, 1e-3


def rows(*, quick: bool = False) -> list[Row]:
    """One layer's update from a key and a residual, null space in memory; the published solve once."""
    width, hidden = (512, 64) if quick else (14336, HIDDEN)
    basis = orthonormal(width, int(REMOVED * width))
    fingerprint = Fingerprint(
        model="", model_fingerprint="", layer=0, corpus="", samples=1, tokens=1,
        threshold=THRESHOLD, rank=width - basis.shape[1], dimension=width, spectrum=(),
    )  # fmt: skip
    projection = BasisProjection(basis, False, fingerprint)
    key, residual = torch.randn(1, width), torch.randn(1, hidden)
    seconds, found = [], closed_form(key, residual, projection, 1.0)
    for _ in range(ROUNDS):
        start = time.perf_counter()
        found = closed_form(key, residual, projection, 1.0)
        seconds.append(time.perf_counter() - start)
    matrix = torch.eye(width) - basis @ basis.T
    start = time.perf_counter()
    dense = _published(key[0], residual[0], matrix)
    plain = time.perf_counter() - start
    error = relative(found.dense(), dense)
    check(error < CLOSE, f"the updates differ by {error:.1e} of their norm")
    note = f"a basis of {basis.shape[1]:,} columns is read twice from memory; the plain way ran once"
    what = f"closed form of one layer, d = {width:,}"
    return [Row(what, Times(tuple(seconds)), Times((plain,)), None, f"updates differ by {error:.0e} of their norm", note)]


def _published(key: Tensor, residual: Tensor, matrix: Tensor) -> Tensor:
    left = (matrix @ key)[:, None] * key[None]  # P k k^T without a product of two matrices
    left.diagonal().add_(1.0)
    solved: Tensor = torch.linalg.solve(left, (matrix @ key)[:, None] * residual[None])
    return solved.T


def edit(shape: str) -> str:
    """Edit a model of a shape, and say what it took, as a row of a table."""
    peak = Peak()
    lm = random_lm(shape, layers=None if shape == "small" else LAYERS[-1] + 1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_bases(lm, LAYERS, folder / "bases")
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            settings: dict[str, Any] = {"redirect": PUBLISHED_REDIRECT, "basis": str(folder / "bases")}
            found = formless.unlearn(lm, "Albert Einstein", "rocr", layers=LAYERS, threshold=THRESHOLD, **settings)
            seconds.append(time.perf_counter() - start)
        found.save(folder / "edit")
        size = sum(path.stat().st_size for path in (folder / "edit").iterdir())
    weights = sum(parameter.numel() * parameter.element_size() for parameter in lm.model.parameters())
    figures = f"{weights / 2**30:.1f} | {min(seconds):.2f} / {sorted(seconds)[1]:.2f}"
    return f"| {shape} | {figures} | {peak.read().resident / 2**30:.1f} | {size / 1000:.0f} |"


if __name__ == "__main__":
    print(f"{torch.get_num_threads()} threads of {os.cpu_count()}\n")
    print("| first seven layers, bfloat16 | weights, GB | edit, s (min / median) | peak memory, GB | saved edit, KB |")
    print("| - | - | - | - | - |")
    for name in sys.argv[1:] or ["Llama-3-8B", "Mistral-7B"]:
        print(edit(name), flush=True)

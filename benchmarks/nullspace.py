"""Time the eigenvectors of a null space by LAPACK's own steps, beside the ready-made solvers of torch and SciPy.

    python -m benchmarks.nullspace --out docs/results/nullspace.json     # d = 1,536 and 4,096: some minutes
    python -m benchmarks.nullspace 14336                                 # another width: an hour or more

`from_second_moment` needs all eigenvalues and the eigenvectors of the smaller side of the threshold. The ways alternate in one
process; each number is a median of CPU seconds, so that other processes on the machine count little. `subset` is given the
indices of the smaller side, which only all eigenvalues tell: a replacement by it takes `eigvalsh` first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from benchmarks.timing import check
from formless import provenance
from formless.methods.rocr.nullspace import from_second_moment
from tools.results import Cell, Column, Result, render_page, write_result

THRESHOLD, NULL, CLOSE = 2e-2, 0.8, 1e-3
WIDTHS, ROUNDS = (1536, 4096), 3
WAYS = (
    "from_second_moment", "torch.linalg.eigh", "scipy.linalg.eigvalsh", "scipy.linalg.eigh subset evr",
    "scipy.linalg.eigh subset evx",
)  # fmt: skip
NOTES = (
    "`subset` is given the indices of the smaller side, which only all eigenvalues tell. A replacement of `from_second_moment` "
    "is therefore `torch.linalg.eigh`, or `eigvalsh` followed by a subset.",
    "The machine was shared while this was measured, so CPU seconds are given, not wall time. d = 14,336 was not measured.",
)


def random_moment(width: int) -> Tensor:
    """Return a second moment `[d, d]`, float64, with random eigenvectors and decaying eigenvalues.

    Four fifths of the eigenvalues are under the threshold, as in the bundled model.
    """
    generator = torch.Generator().manual_seed(0)
    vectors, _ = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.double))
    under = round(NULL * width)
    values = torch.cat([torch.logspace(-3, -1.7, under), torch.logspace(-1.69, 0.3, width - under)]).double()
    moment: Tensor = (vectors * values) @ vectors.T
    return moment


def measure(width: int, rounds: int = ROUNDS) -> list[Cell]:
    """Time every way at one width; all of them work in float32, as `from_second_moment` does for such a moment.

    Returns:
        The width, the rank of the smaller side, and the median CPU seconds of each way.
    """
    moment = random_moment(width)
    basis, spans_null_space, values = from_second_moment(moment, THRESHOLD)
    rank = int((values < THRESHOLD).sum())
    side = [0, rank - 1] if spans_null_space else [rank, width - 1]
    single = moment.float()
    array = single.numpy()
    works: tuple[Callable[[], Any], ...] = (
        lambda: from_second_moment(moment, THRESHOLD),
        lambda: torch.linalg.eigh(single),
        lambda: scipy.linalg.eigvalsh(array),
        lambda: scipy.linalg.eigh(array, subset_by_index=side, driver="evr"),
        lambda: scipy.linalg.eigh(array, subset_by_index=side, driver="evx"),
    )
    ways = dict(zip(WAYS, works, strict=True))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            found = way()
            seconds[name].append(time.process_time() - start)
            if "subset" in name:
                overlap = float(np.linalg.norm(found[1].T @ basis.numpy()) ** 2)  # the rank, if both span the same
                check(abs(overlap / basis.shape[1] - 1) < CLOSE, f"{name} spans another space")
    return [width, basis.shape[1], *(round(median(found), 3) for found in seconds.values())]


def main(arguments: list[str] | None = None) -> None:
    """Measure the widths and write the result."""
    parser = argparse.ArgumentParser("benchmarks.nullspace", description=__doc__)
    parser.add_argument("widths", nargs="*", type=int, default=list(WIDTHS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, help="the JSON file")
    options = parser.parse_args(arguments)
    rows = [measure(width, options.rounds) for width in options.widths]
    result = Result(
        title="Eigenvectors of a null space", topic="Speed and memory",
        about="All eigenvalues and the eigenvectors of the smaller side of the threshold, by the product's LAPACK steps and by "
        "ready-made solvers, in float32. A fifth of the eigenvalues is above the threshold.",
        date=datetime.now(timezone.utc).date(), versions=provenance.versions() | {"scipy": scipy.__version__},
        hardware=provenance.hardware(), n=f"median CPU time of {options.rounds} rounds, in which the ways alternate",
        command="python -m benchmarks.nullspace --out docs/results/nullspace.json",
        columns=[Column(name="d"), Column(name="rank"), *(Column(name=name, unit="s", format=".2f") for name in WAYS)],
        rows=rows, notes=list(NOTES),
    )  # fmt: skip
    print(render_page("nullspace", result))
    if options.out:
        write_result(options.out, result)


if __name__ == "__main__":
    main()

"""Time the eigenvectors of a null space by LAPACK's own steps, beside the ready-made solvers of torch and SciPy.

    python -m benchmarks.nullspace --out docs/results/nullspace.json     # d = 1,536 and 4,096: some minutes
    python -m benchmarks.nullspace 14336                                 # another width: an hour or more

`from_second_moment` needs all eigenvalues and the eigenvectors of the smaller side of the threshold. The ways alternate in one
process; each number is a median of CPU seconds, so that other processes on the machine count little. `subset` is given the
indices of the smaller side, which only all eigenvalues tell: a replacement by it takes `eigvalsh` first.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
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

THRESHOLD, NULL, CLOSE = 2e-2, 0.8, 1e-3
WIDTHS, ROUNDS = (1536, 4096), 3


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


def measure(width: int, rounds: int = ROUNDS) -> dict[str, Any]:
    """Time every way at one width; all of them work in float32, as `from_second_moment` does for such a moment.

    Returns:
        Median CPU seconds by way, and the ratio of the fastest replacement to `from_second_moment`.
    """
    moment = random_moment(width)
    basis, spans_null_space, values = from_second_moment(moment, THRESHOLD)
    rank = int((values < THRESHOLD).sum())
    side = [0, rank - 1] if spans_null_space else [rank, width - 1]
    single = moment.float()
    array = single.numpy()
    ways: dict[str, Callable[[], Any]] = {
        "from_second_moment": lambda: from_second_moment(moment, THRESHOLD),
        "torch.linalg.eigh": lambda: torch.linalg.eigh(single),
        "scipy.linalg.eigvalsh": lambda: scipy.linalg.eigvalsh(array),
        "scipy.linalg.eigh subset evr": lambda: scipy.linalg.eigh(array, subset_by_index=side, driver="evr"),
        "scipy.linalg.eigh subset evx": lambda: scipy.linalg.eigh(array, subset_by_index=side, driver="evx"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            found = way()
            seconds[name].append(time.process_time() - start)
            if "subset" in name:
                overlap = float(np.linalg.norm(found[1].T @ basis.numpy()) ** 2)  # the rank, if both span the same
                check(abs(overlap / basis.shape[1] - 1) < CLOSE, f"{name} spans another space")
    medians = {name: median(found) for name, found in seconds.items()}
    subsets = min(found for name, found in medians.items() if "subset" in name)
    replacement = min(medians["torch.linalg.eigh"], medians["scipy.linalg.eigvalsh"] + subsets)
    return {
        "d": width, "rank": basis.shape[1], "rounds": rounds, "cpu_seconds": medians,
        "ratio": replacement / medians["from_second_moment"],
        "ratio_to_subset_alone": subsets / medians["from_second_moment"],
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measure the widths and write JSON."""
    parser = argparse.ArgumentParser("benchmarks.nullspace", description=__doc__)
    parser.add_argument("widths", nargs="*", type=int, default=list(WIDTHS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, help="the JSON file")
    options = parser.parse_args(arguments)
    found = {
        "command": "python -m benchmarks.nullspace --out docs/results/nullspace.json",
        "date": provenance.now(), "hardware": provenance.hardware(),
        "versions": provenance.versions() | {"scipy": scipy.__version__}, "threshold": THRESHOLD, "dtype": "float32",
        "widths": [measure(width, options.rounds) for width in options.widths],
    }  # fmt: skip
    text = json.dumps(found, indent=2) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()

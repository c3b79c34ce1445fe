"""How a report grows with the runs it is made of: made-up records of eight forms, two probes each, no model."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.timing import Curve, Point, alone
from formless.report.page import write_experiment_report
from tests.report.made_runs import write_runs

SIZES, QUICK = ((10, 9, 1), (100, 9, 1), (100, 9, 11)), ((2, 1, 1), (2, 2, 1))
"""Targets, methods beside the original, seeds."""


def reported(targets: int, methods: int, seeds: int) -> float:
    """Seconds to read so many runs and write the page."""
    labels = ["original", *(f"method{number}" for number in range(methods))]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "runs"
        write_runs(folder, labels, targets, seeds=range(seeds))
        start = time.perf_counter()
        write_experiment_report(Path(scratch) / "report.html", folder, baseline="original", command="formless report runs")
        return time.perf_counter() - start


def curve(*, quick: bool = False) -> Curve:
    """One process for each size."""
    points = tuple(
        Point(targets * (1 + methods * seeds), *alone(reported, targets, methods, seeds))
        for targets, methods, seeds in (QUICK if quick else SIZES)
    )
    return Curve("report", "runs", points, "records are read one at a time and only their figures kept")

"""How the work grows: the edit of several targets, statistics, an evaluation, a report; one process for each size."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import formless
from benchmarks.statistics import our_moments, passages
from benchmarks.timing import Curve, Point, alone
from formless.data.rows import Item
from formless.data.target import Target
from formless.evaluation.evaluate import run_plan
from formless.evaluation.plan import Job, Plan
from formless.evaluation.registry import TASKS
from formless.methods.rocr.config import PUBLISHED_REDIRECT
from formless.report.page import write_experiment_report
from tests.report.made_runs import write_runs

TARGETS, PASSAGES, PROBES = (1, 10, 100), (64, 256, 1024), (30, 100, 300, 1000)
RUNS = ((10, 9, 1), (100, 9, 1), (100, 9, 11))
"""Targets, methods beside the original, seeds."""

FIRST_NAMES = ("Ada", "Bruno", "Clara", "Denis", "Elena", "Felix", "Greta", "Henrik", "Irene", "Jonas")
LAST_NAMES = (
    "Abbott", "Becker", "Castell", "Dunmore", "Ferrara", "Greenfield", "Holloway", "Ivarsson", "Kowalski", "Lindqvist",
)  # fmt: skip


def joint_edit(count: int) -> float:
    """Return the seconds of one edit of `count` made-up people."""
    lm = formless.load("smollm2", dtype="float32", device="cpu")
    names = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES][:count]
    start = time.perf_counter()
    formless.unlearn(lm, names, "rocr", redirect=PUBLISHED_REDIRECT)
    return time.perf_counter() - start


def edit_curve(*, quick: bool) -> Curve:
    """Time one joint edit of the bundled model."""
    points = [Point(size, *alone(joint_edit, size)) for size in (TARGETS[:1] if quick else TARGETS)]
    note = (
        "Each target adds its own passes of six contexts through the lower layers, and keeps what goes into the edited ones."
        " The solve itself grows with the square of the targets, and so does the measurement of how far the others shift"
        " each target, whose share is still small at a hundred."
    )
    return Curve("one edit of several targets", "targets", tuple(points), note)


def evaluated(count: int) -> float:
    """Return the seconds to ask `count` different questions, as the task `qa` does."""
    lm = formless.load("smollm2", dtype="float32", device="cpu")
    items = [
        Item(query=f"In which year was house number {number} built?", answer=str(1500 + number % 500), subject="a house",
             level="2", type="simple question")
        for number in range(count)
    ]  # fmt: skip
    job = Job(TASKS["qa"], "forget", tuple(("forget_level2", item) for item in items))
    start = time.perf_counter()
    run_plan(lm, Plan(Target("a house"), "qa", None, (job,), ()), lambda *_: None)
    return time.perf_counter() - start


def evaluation_curve(*, quick: bool) -> Curve:
    """Time an evaluation in the bundled model."""
    points = tuple(Point(count, *alone(evaluated, count)) for count in ((2, 4) if quick else PROBES))
    note = "Time follows the probes; memory is the model's and one batch's, then that of the bootstrap's resamples."
    return Curve("evaluation", "probes", points, note)


def reported(targets: int, methods: int, seeds: int) -> float:
    """Return the seconds to read made-up runs and write the page; no model is needed."""
    labels = ["original", *(f"method{number}" for number in range(methods))]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "runs"
        write_runs(folder, labels, targets, seeds=range(seeds))
        start = time.perf_counter()
        write_experiment_report(Path(scratch) / "report.html", folder, baseline="original", command="formless report runs")
        return time.perf_counter() - start


def report_curve(*, quick: bool) -> Curve:
    """Time a report over its runs."""
    sizes = ((2, 1, 1), (2, 2, 1)) if quick else RUNS
    points = tuple(Point(size[0] * (1 + size[1] * size[2]), *alone(reported, *size)) for size in sizes)
    return Curve("report", "runs", points, "Records are read one at a time, and only their metrics are kept.")


def sums(count: int) -> float:
    """Return the seconds for the second moments of three layers over `count` passages of about 170 tokens."""
    lm, texts = formless.load("smollm2", dtype="float32", device="cpu"), passages(count)
    start = time.perf_counter()
    our_moments(lm, texts)
    return time.perf_counter() - start


def statistics_curve(*, quick: bool) -> Curve:
    """Time the statistics over the size of the corpus."""
    points = [Point(size, *alone(sums, size)) for size in ((4,) if quick else PASSAGES)]
    note = "Every passage is one pass through the lower layers; only the sums stay, d x d for each layer whatever the corpus."
    return Curve("statistics of 3 layers", "passages", tuple(points), note)


def curves(*, quick: bool = False) -> list[Curve]:
    """Return every curve."""
    return [curve(quick=quick) for curve in (edit_curve, evaluation_curve, report_curve, statistics_curve)]

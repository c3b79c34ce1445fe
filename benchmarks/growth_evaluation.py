"""How an evaluation grows with the number of its probes: different questions, asked as `qa`, scored in the bundled model."""

from __future__ import annotations

import time

import formless
from benchmarks.timing import Curve, Point, alone
from formless.data.target import Item, Target
from formless.evaluation.evaluate import run_plan
from formless.evaluation.plan import Job, Plan
from formless.evaluation.registry import TASKS

COUNTS, QUICK = (30, 100, 300, 1000), (2, 4)


def evaluated(count: int) -> float:
    """Seconds to score so many probes in a loaded model."""
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


def curve(*, quick: bool = False) -> Curve:
    """One process for each count."""
    points = tuple(Point(count, *alone(evaluated, count)) for count in (QUICK if quick else COUNTS))
    note = "time follows the probes; memory is the model's and one batch's, then that of the bootstrap's resamples"
    return Curve("evaluation", "probes", points, note)

"""How the statistics of three layers grow with the corpus."""

from __future__ import annotations

import time

import formless
from benchmarks.statistics import our_moments, passages
from benchmarks.timing import Curve, Point, alone

SIZES = (64, 256, 1024)


def curve(*, quick: bool = False) -> Curve:
    """Time the sums over passages of about 170 tokens, each size in a process of its own."""
    points = [Point(size, *alone(sums, size)) for size in ((4,) if quick else SIZES)]
    note = "Every passage is one pass through the lower layers; only the sums stay, d x d for each layer whatever the corpus."
    return Curve("statistics of 3 layers", "passages", tuple(points), note)


def sums(count: int) -> float:
    """Return the seconds for `count` passages."""
    lm, texts = formless.load("smollm2", dtype="float32", device="cpu"), passages(count)
    start = time.perf_counter()
    our_moments(lm, texts)
    return time.perf_counter() - start

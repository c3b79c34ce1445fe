"""How the edit of several targets, solved together, grows with their number."""

from __future__ import annotations

import time

import formless
from benchmarks.timing import Curve, Point, alone

SIZES = (1, 10, 100)


def curve(*, quick: bool = False) -> Curve:
    """Time one joint edit of the bundled model, each size in a process of its own."""
    points = [Point(size, *alone(joint_edit, size)) for size in (SIZES[:1] if quick else SIZES)]
    note = (
        "Each target adds its own passes of six contexts through the lower layers, and keeps what goes into the edited ones."
        " The solve itself grows with the square of the targets, and so does the measurement of how far the others shift"
        " each target, whose share is still small at a hundred."
    )
    return Curve("one edit of several targets", "targets", tuple(points), note)


def joint_edit(count: int) -> float:
    """Return the seconds of one edit of `count` made-up people."""
    lm = formless.load("smollm2", dtype="float32", device="cpu")
    names = [f"{first} {last}" for first in _FIRST for last in _LAST][:count]
    start = time.perf_counter()
    formless.unlearn(lm, names)
    return time.perf_counter() - start


_FIRST = ("Ada", "Bruno", "Clara", "Denis", "Elena", "Felix", "Greta", "Henrik", "Irene", "Jonas")
_LAST = ("Abbott", "Becker", "Castell", "Dunmore", "Ferrara", "Greenfield", "Holloway", "Ivarsson", "Kowalski", "Lindqvist")

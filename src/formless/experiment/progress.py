"""How long runs take, from those that are done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from formless.experiment.heartbeat import Signal
from formless.experiment.runs import ORIGINAL, Run


class Durations:
    """Mean seconds of runs, by model and label where there are any, else by label, else of all but the original's.

    The original's record is often known already, so its time says nothing about the others'.
    """

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, ...], list[float]] = defaultdict(lambda: [0, 0])

    def add(self, run: Run, seconds: float) -> None:
        """One more is done."""
        for key in _keys(run):
            entry = self._seconds[key]
            entry[0] += seconds
            entry[1] += 1

    def expected(self, run: Run) -> float | None:
        """What a run will take; nothing while none is done."""
        known = next((self._seconds[key] for key in _keys(run) if key in self._seconds), None)
        return known[0] / known[1] if known else None

    def left(self, waiting: Iterable[Run], running: Iterable[tuple[Run, Signal]], workers: int) -> float | None:
        """Seconds until all is done; nothing while none is done."""
        total = 0.0
        for run in waiting:
            expected = self.expected(run)
            if expected is None:
                return None
            total += expected
        for run, signal in running:
            expected = self.expected(run)
            if expected is None:
                return None
            total += max(expected - (signal.at - signal.since), 0.0)
        return total / workers


def _keys(run: Run) -> list[tuple[str, ...]]:
    everyone: list[tuple[str, ...]] = [] if run.method == ORIGINAL else [()]
    return [(run.model.name, run.label), (run.label,), *everyone]

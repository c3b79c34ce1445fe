"""How far a run is, while it is under way, and how long the other runs will take."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from formless.errors import OutputError
from formless.experiment.runs import ORIGINAL, Run
from formless.store import RunFolder, read_file, write_text

if TYPE_CHECKING:
    from formless.models.lm import LM

_CALL_EVERY, _WRITE_EVERY = 0.2, 2.0  # seconds
_WRITE_REST = 20  # times as long as the last write: a slow disk takes a twentieth of a run's time at the most

Phase = Literal["loading", "unlearning", "evaluating", "saving"]


class RunProgress(BaseModel):
    """How far a run is.

    Args:
        phase: The phase.
        task: The title of the task that is evaluated.
        done: Work done in the phase, in the unit of `total`.
        total: All work of the phase; 0 if that is not known.
        since: When the run began, in seconds since 1970.
        at: The time of this report, in seconds since 1970.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    phase: Phase
    task: str = ""
    done: int = 0
    total: int = 0
    since: float
    at: float


ProgressCallback = Callable[[RunProgress], None]


class Heartbeat:
    """Reports the progress of a run, at most five times a second, to a callback and to progress.json.

    Args:
        folder: The run's folder.
        callback: Called with each report.
    """

    def __init__(self, folder: RunFolder, callback: ProgressCallback) -> None:
        self._path, self._callback = folder.progress, callback
        self._since = time.time()
        self._last: dict[str, Any] = {}
        self._called = self._write_from = float("-inf")

    def phase(self, phase: Phase) -> None:
        """Begin a phase and report it at once."""
        self._last = {"phase": phase}
        self._called = float("-inf")
        self.beat()

    def progress(self, task: str, done: int, total: int) -> None:
        """Report how much of an evaluation is done."""
        self._last |= {"task": task, "done": done, "total": total}
        self.beat()

    def beat(self) -> None:
        """Report that the run is alive and as far as before.

        A report that cannot be written is left out: no result needs it.
        """
        now = time.monotonic()
        if now - self._called < _CALL_EVERY:
            return
        self._called = now
        progress = RunProgress(**self._last, since=self._since, at=time.time())
        self._callback(progress)
        if now >= self._write_from:
            with suppress(OutputError):
                write_text(self._path, progress.model_dump_json())
            written = time.monotonic()
            self._write_from = max(now + _WRITE_EVERY, written + _WRITE_REST * (written - now))

    def stop(self) -> None:
        """Remove progress.json: the run has ended."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    @contextmanager
    def watching(self, lm: LM) -> Iterator[None]:
        """Beat at every forward pass through a layer: training and solving report no other progress."""
        layers = [lm.architecture.layer(lm.model, index) for index in range(lm.architecture.depth(lm.model))]
        handles = [layer.register_forward_pre_hook(lambda *_: self.beat()) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def read_progress(folder: RunFolder) -> RunProgress | None:
    """Return the last report of a run, or None if the run is not under way."""
    try:
        return RunProgress.model_validate_json(read_file(folder.progress))
    except (OSError, ValidationError):
        return None


class Durations:
    """Mean seconds of complete runs: by model and label, else by label, else over all runs but the original model's.

    The original model's record is often in the cache, so its time predicts nothing about other runs.
    """

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, ...], list[float]] = defaultdict(lambda: [0, 0])

    def add(self, run: Run, seconds: float) -> None:
        """Count a complete run."""
        for key in _keys(run):
            entry = self._seconds[key]
            entry[0] += seconds
            entry[1] += 1

    def expected(self, run: Run) -> float | None:
        """Return the seconds that a run will take, or None while that is not known."""
        known = next((self._seconds[key] for key in _keys(run) if key in self._seconds), None)
        return known[0] / known[1] if known else None

    def left(self, waiting: Iterable[Run], running: Iterable[tuple[Run, RunProgress]], workers: int) -> float | None:
        """Return the seconds until all runs have ended, or None while that is not known."""
        total = 0.0
        for run in waiting:
            expected = self.expected(run)
            if expected is None:
                return None
            total += expected
        for run, progress in running:
            expected = self.expected(run)
            if expected is None:
                return None
            total += max(expected - (progress.at - progress.since), 0.0)
        return total / workers


def _keys(run: Run) -> list[tuple[str, ...]]:
    """Return the groups that a run counts in, the narrowest first."""
    everyone: list[tuple[str, ...]] = [] if run.method == ORIGINAL else [()]
    return [(run.model.name, run.label), (run.label,), *everyone]

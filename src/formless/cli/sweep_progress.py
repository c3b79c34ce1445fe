"""A sweep on the terminal: bars with the time left, or plain lines where nobody watches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from formless.cli import terminal
from formless.experiment.heartbeat import Signal
from formless.experiment.progress import Durations
from formless.experiment.result import RunReport
from formless.experiment.runs import Run
from formless.experiment.sweep import Observer


@contextmanager
def sweep_progress(folder: Path) -> Iterator[Observer]:
    """What a sweep tells, on the terminal.

    Args:
        folder: Of the runs.
    """
    if not terminal.log.is_terminal:
        yield _Lines(folder)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
    with Progress(*columns, console=terminal.log, transient=True) as bars:
        yield _Bars(folder, bars)


def time_left(seconds: float | None) -> str:
    """`about 3 min left`."""
    if seconds is None:
        return "time left not known yet"
    if seconds < 100:
        return f"about {seconds:.0f} s left"
    return f"about {seconds / 60:.0f} min left" if seconds < 6000 else f"about {seconds / 3600:.1f} h left"


def how_far(signal: Signal) -> str:
    """`evaluating 40 %: fill in the blank`."""
    share = f" {100 * signal.done // signal.total} %" if signal.total else ""
    return f"{signal.phase}{share}" + (f": {signal.task}" if signal.task else "")


class _Lines:
    """One line when a run begins or ends.

    Args:
        folder: Of the runs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[str, Run] = {}
        self._running: dict[str, tuple[Run, Signal]] = {}
        self._durations = Durations()
        self._count = self._workers = 0

    def begin(self, runs: Sequence[Run], done: Sequence[RunReport], workers: int) -> None:
        """See `Observer`."""
        complete = {report.id for report in done}
        self._waiting = {run.id: run for run in runs if run.id not in complete}
        self._count, self._workers = len(runs), workers
        for report in done:
            self._durations.add(report.run, report.timings["total"])
        again = f", {len(done)} of them complete" if done else ""
        self._say(f"{len(runs)} runs in {self._folder}{again}; {len(self._waiting)} to do")

    def hear(self, run: Run, signal: Signal) -> None:
        """See `Observer`."""
        is_new = run.id not in self._running
        self._running[run.id] = (run, signal)
        self._waiting.pop(run.id, None)
        if is_new:
            self._started(run)

    def finish(self, report: RunReport) -> None:
        """See `Observer`."""
        self._running.pop(report.id, None)
        self._waiting.pop(report.id, None)
        if report.is_complete:
            self._durations.add(report.run, report.timings["total"])
        ended = "complete" if report.is_complete else f"failed: {report.reason}"
        left = f"; {time_left(self._left)}" if self._waiting or self._running else ""
        number = self._count - len(self._waiting) - len(self._running)
        self._say(f"[{number}/{self._count}] {report.run.title}: {ended} after {report.timings['total']:.1f} s{left}")

    @property
    def _left(self) -> float | None:
        return self._durations.left(self._waiting.values(), self._running.values(), self._workers)

    def _started(self, run: Run) -> None:
        self._say(f"{run.title}: begins")

    def _say(self, line: str) -> None:
        terminal.log.print(line, soft_wrap=True, markup=False)


class _Bars(_Lines):
    """A bar for all runs, and one for each that is under way; lines only for failures.

    Args:
        folder: Of the runs.
        bars: Where they are shown.
    """

    def __init__(self, folder: Path, bars: Progress) -> None:
        super().__init__(folder)
        self._bars = bars
        self._all = bars.add_task("runs", note="")
        self._rows: dict[str, TaskID] = {}

    def begin(self, runs: Sequence[Run], done: Sequence[RunReport], workers: int) -> None:
        """See `Observer`."""
        super().begin(runs, done, workers)
        self._bars.update(self._all, total=len(runs), completed=len(done))

    def hear(self, run: Run, signal: Signal) -> None:
        """See `Observer`."""
        super().hear(run, signal)
        self._bars.update(self._rows[run.id], completed=signal.done, total=signal.total or None, note=escape(how_far(signal)))
        self._bars.update(self._all, note=time_left(self._left))

    def finish(self, report: RunReport) -> None:
        """See `Observer`."""
        super().finish(report)
        if report.id in self._rows:
            self._bars.remove_task(self._rows.pop(report.id))
        self._bars.update(self._all, advance=1, note=time_left(self._left))

    def _started(self, run: Run) -> None:
        self._rows[run.id] = self._bars.add_task(escape(run.title), total=None, note="")

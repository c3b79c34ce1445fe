"""`formless status`, and the progress of a sweep on the terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from formless.cli import terminal
from formless.data.ort import find_target

if TYPE_CHECKING:
    from formless.experiment.progress import RunProgress
    from formless.experiment.result import RunResult
    from formless.experiment.runs import Run
    from formless.experiment.status import Status
    from formless.experiment.sweep import SweepCallback


def status_command(
    folder: Annotated[Path, typer.Argument(help="A folder that `formless run --out` wrote.")],
    json: terminal.JsonOption = False,
) -> None:
    """Show which runs of an experiment are complete, running, failed (and why) or missing, and the time left.

    Example: formless status runs/first
    """
    from formless.experiment.runs import OTHER_RUNS
    from formless.experiment.status import read_status

    status = read_status(folder)
    if json:
        terminal.print_json(_as_json(status, folder))
        return
    terminal.out.print(_counts(status))
    for run, progress in status.running:
        seconds = progress.at - progress.since
        terminal.out.print(f"running: {run.title}: {how_far(progress)}, for {seconds:.0f} s", soft_wrap=True)
    for result in status.failed:
        terminal.out.print(f"failed: {result.run.title}: {result.reason}", soft_wrap=True)
    for run, reason in status.damaged:
        terminal.out.print(f"missing: {run.title}: {reason}", soft_wrap=True)
    if status.others:
        terminal.out.print(f"{status.others} {OTHER_RUNS}")
    terminal.out.print(_outlook(status, folder), soft_wrap=True)


def _as_json(status: Status, folder: Path) -> dict[str, Any]:
    """Return the state of a folder as plain types."""
    counts = _by_state(status)
    return {
        "folder": str(folder),
        "counts": {state: counter.total() for state, counter in counts.items()},
        "methods": [
            {"model": model, "method": method, **{state: counter[model, method] for state, counter in counts.items()}}
            for model, method in dict.fromkeys(key for counter in counts.values() for key in counter)
        ],
        "running": [
            {"run": run.title, **progress.model_dump(exclude={"since", "at"}), "seconds": progress.at - progress.since}
            for run, progress in status.running
        ],
        "failed": [{"run": result.run.title, "reason": result.reason} for result in status.failed],
        "missing": [run.title for run in status.missing],
        "damaged": [{"run": run.title, "reason": reason} for run, reason in status.damaged],
        "other_runs": status.others,
        "holder": status.holder.model_dump() if status.holder else None,
        "seconds_left": status.seconds_left,
    }


def _by_state(status: Status) -> dict[str, Counter[tuple[str, str]]]:
    """Return the numbers of runs by state, then by model and label."""
    states = {
        "complete": [result.run for result in status.complete],
        "running": [run for run, _ in status.running],
        "failed": [result.run for result in status.failed],
        "missing": list(status.missing),
    }
    return {state: Counter(map(_row, runs)) for state, runs in states.items()}


def _counts(status: Status) -> Table:
    """Return a table of the numbers of runs by model, label and state."""
    counts = _by_state(status)
    table = Table(Column("model", overflow="fold"), Column("method", overflow="fold"), *counts)
    for row in dict.fromkeys(key for counter in counts.values() for key in counter):
        table.add_row(*row, *(str(counter[row]) for counter in counts.values()))
    table.add_section()
    table.add_row("all", "", *(str(counter.total()) for counter in counts.values()))
    return table


def _row(run: Run) -> tuple[str, str]:
    return run.model.name, run.label


def _outlook(status: Status, folder: Path) -> str:
    """Say which process works on the folder and how long that takes, or how to resume the sweep."""
    if holder := status.holder:
        return f"process {holder.pid} on {holder.host} works on it since {holder.started}; {time_left(status.seconds_left)}"
    if status.missing or status.failed:
        return f"no process works on it; resume with: formless run {folder}"
    return "all runs are complete"


@contextmanager
def sweep_progress(folder: Path) -> Iterator[SweepCallback]:
    """Yield a callback that shows a sweep: bars with the time left on a terminal, plain lines elsewhere.

    Args:
        folder: The experiment's folder.
    """
    if not terminal.log.is_terminal:
        lines = _Lines(folder)
        with terminal.repeated(lines.remind):
            yield lines
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
    with Progress(*columns, console=terminal.log, transient=True) as bars:
        yield _Bars(folder, bars)


def time_left(seconds: float | None) -> str:
    """Return e.g. `about 3 min left`."""
    if seconds is None:
        return "time left not known yet"
    if seconds < 100:
        return f"about {seconds:.0f} s left"
    return f"about {seconds / 60:.0f} min left" if seconds < 6000 else f"about {seconds / 3600:.1f} h left"


def how_far(progress: RunProgress) -> str:
    """Return e.g. `evaluating 40 %: fill in the blank`."""
    share = f" {100 * progress.done // progress.total} %" if progress.total else ""
    return f"{progress.phase}{share}" + (f": {progress.task}" if progress.task else "")


class _Lines:
    """Prints a line when a run begins or ends, and one for each running one after a silence.

    Args:
        folder: The experiment's folder.
    """

    def __init__(self, folder: Path) -> None:
        from formless.experiment.progress import Durations

        self._folder = folder
        self._waiting: dict[str, Run] = {}
        self._running: dict[str, tuple[Run, RunProgress]] = {}
        self._durations = Durations()
        self._count = self._workers = 0
        self._said = time.monotonic()

    def on_begin(self, runs: Sequence[Run], done: Sequence[RunResult], workers: int) -> None:
        """See `SweepCallback`."""
        complete = {result.id for result in done}
        self._waiting = {run.id: run for run in runs if run.id not in complete}
        self._count, self._workers = len(runs), workers
        for result in done:
            self._durations.add(result.run, result.timings["total"])
        already = f", {len(done)} of them complete" if done else ""
        self._print(f"{len(runs)} runs in {self._folder}{already}; {len(self._waiting)} to do")
        waiting = {(run.data, run.target): run for run in self._waiting.values()}
        if waiting:
            suite = next(iter(waiting.values())).suite
            terminal.announce_absent([find_target(data, target) for data, target in waiting], suite)

    def on_damage(self, run: Run, reason: str) -> None:
        """See `SweepCallback`."""
        self._print(f"{run.title}: done again, since {reason}")

    def on_progress(self, run: Run, progress: RunProgress) -> None:
        """See `SweepCallback`."""
        is_new = run.id not in self._running
        self._running[run.id] = (run, progress)
        self._waiting.pop(run.id, None)
        if is_new:
            self._on_start(run)

    def on_end(self, result: RunResult) -> None:
        """See `SweepCallback`."""
        self._running.pop(result.id, None)
        self._waiting.pop(result.id, None)
        if result.is_complete:
            self._durations.add(result.run, result.timings["total"])
        ended = "complete" if result.is_complete else f"failed: {result.reason}"
        left = f"; {time_left(self._left)}" if self._waiting or self._running else ""
        number = self._count - len(self._waiting) - len(self._running)
        self._print(f"[{number}/{self._count}] {result.run.title}: {ended} after {result.timings['total']:.1f} s{left}")

    def remind(self) -> None:
        """Say how far the running runs are, if nothing has been said for a while."""
        if time.monotonic() - self._said < terminal.SILENCE:
            return
        for run, progress in list(self._running.values()):
            self._print(f"{run.title}: {how_far(progress)}, for {time.time() - progress.since:.0f} s; {time_left(self._left)}")
        if not self._running:
            self._print(f"{self._folder}: starting")

    @property
    def _left(self) -> float | None:
        return self._durations.left(list(self._waiting.values()), list(self._running.values()), self._workers)

    def _on_start(self, run: Run) -> None:
        self._print(f"{run.title}: begins")

    def _print(self, line: str) -> None:
        self._said = time.monotonic()
        terminal.log.print(line, soft_wrap=True)


class _Bars(_Lines):
    """Shows a bar for all runs and one for each running one; prints lines as runs end.

    Args:
        folder: The experiment's folder.
        bars: The display.
    """

    def __init__(self, folder: Path, bars: Progress) -> None:
        super().__init__(folder)
        self._bars = bars
        self._all = bars.add_task("runs", note="")
        self._rows: dict[str, TaskID] = {}

    def on_begin(self, runs: Sequence[Run], done: Sequence[RunResult], workers: int) -> None:
        """See `SweepCallback`."""
        super().on_begin(runs, done, workers)
        self._bars.update(self._all, total=len(runs), completed=len(done))

    def on_progress(self, run: Run, progress: RunProgress) -> None:
        """See `SweepCallback`."""
        super().on_progress(run, progress)
        note = escape(how_far(progress))
        self._bars.update(self._rows[run.id], completed=progress.done, total=progress.total or None, note=note)
        self._bars.update(self._all, note=time_left(self._left))

    def on_end(self, result: RunResult) -> None:
        """See `SweepCallback`."""
        super().on_end(result)
        if result.id in self._rows:
            self._bars.remove_task(self._rows.pop(result.id))
        self._bars.update(self._all, advance=1, note=time_left(self._left))

    def _on_start(self, run: Run) -> None:
        self._rows[run.id] = self._bars.add_task(escape(run.title), total=None, note="")

"""A sweep: from an experiment to its runs, what is missing of them, an executor, a summary."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from formless import store
from formless.errors import DataError
from formless.experiment.config import EXPERIMENT, Experiment
from formless.experiment.executors.base import Executor, Task
from formless.experiment.grid import grid
from formless.experiment.heartbeat import HEARTBEAT, Signal
from formless.experiment.lock import locked
from formless.experiment.result import RunReport, load_report
from formless.experiment.runs import Run

PLAN = "plan.json"
OUTSIDE = "runs lie there too that the experiment last started there does not have"
_RUNS = TypeAdapter(tuple[Run, ...])


class Observer(Protocol):
    """Whom a sweep tells how it goes."""

    def begin(self, runs: Sequence[Run], done: Sequence[RunReport], workers: int) -> None:
        """Of these runs, those reports are there already."""
        ...

    def hear(self, run: Run, signal: Signal) -> None:
        """A run is so far."""
        ...

    def finish(self, report: RunReport) -> None:
        """A run has ended."""
        ...


@dataclass(frozen=True)
class Summary:
    """How a sweep went.

    Args:
        runs: All runs of the experiment.
        found: How many were complete before.
        reports: Of the runs that it did.
    """

    runs: tuple[Run, ...]
    found: int
    reports: tuple[RunReport, ...]

    @property
    def failed(self) -> list[RunReport]:
        """The runs that failed."""
        return [report for report in self.reports if not report.is_complete]

    @property
    def missing(self) -> int:
        """How many runs were not reached."""
        return len(self.runs) - self.found - len(self.reports)


def sweep(
    experiment: Experiment,
    out: Path,
    executor: Callable[[int], Executor],
    observer: Observer,
    *,
    workers: int = 1,
    fail_fast: bool = False,
) -> Summary:
    """Do every run of an experiment that is missing or failed.

    Args:
        experiment: The grid.
        out: Its folder; runs of other settings that lie there stay as they are.
        executor: Makes the executor, given a file descriptor that worker processes are to hold open.
        observer: Whom to tell.
        workers: How many runs the executor does at once, for `formless status`.
        fail_fast: Stop at the first failure.

    Raises:
        UserError: The experiment cannot be carried out as it is; nothing has been written or loaded.
        OutputError: Another sweep works on the folder, or it cannot be written.
    """
    runs = grid(experiment)
    with locked(out, workers) as held:
        store.write_text(out / EXPERIMENT, experiment.as_yaml())
        store.write_text(out / PLAN, _RUNS.dump_json(runs, indent=1).decode() + "\n")
        found = {run.id: load_report(run.folder(out), run) for run in runs}
        done = [report for report in found.values() if report and report.is_complete]
        complete = {report.id for report in done}
        tasks = [Task(run, run.folder(out)) for run in runs if run.id not in complete]
        for task in tasks:  # of a sweep that was killed
            (task.folder / HEARTBEAT).unlink(missing_ok=True)
        observer.begin(runs, done, workers)
        reports: list[RunReport] = []
        working = executor(held).execute(tasks, observer.hear)
        try:
            for report in working:
                reports.append(report.model_copy(update={"log_end": []}))
                observer.finish(report)
                if fail_fast and not report.is_complete:
                    break
        finally:
            working.close()
    return Summary(runs, len(done), tuple(reports))


def others(out: Path, plan: Iterable[Run]) -> int:
    """How many runs lie in a folder that the experiment which was last started there does not have."""
    known = {run.id for run in plan}
    return sum(path.parent.name not in known for path in (out / "runs").glob("*/*/*/*/run.json"))


def read_plan(out: Path) -> tuple[Run, ...]:
    """The runs of the experiment that was last started in a folder.

    Raises:
        DataError: It is no such folder.
    """
    try:
        return _RUNS.validate_json((out / PLAN).read_bytes())
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        remedy = "give a folder that `formless run --out` wrote"
        raise DataError("no experiment was started in this folder", where=out, remedy=remedy) from error

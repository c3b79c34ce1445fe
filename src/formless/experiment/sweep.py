"""A sweep: from an experiment to its runs, and those that are missing or failed through an executor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from formless import store
from formless.errors import OutputError
from formless.experiment.config import Experiment
from formless.experiment.executors.base import Executor
from formless.experiment.grid import grid
from formless.experiment.progress import RunProgress
from formless.experiment.result import Damage, RunResult, check_result
from formless.experiment.runs import Run, refuse_newer_plan, write_plan
from formless.experiment.status import locked


class SweepCallback(Protocol):
    """What a sweep calls while it works."""

    def on_begin(self, runs: Sequence[Run], done: Sequence[RunResult], workers: int) -> None:
        """All runs are known, and the results of those that are complete already."""
        ...

    def on_damage(self, run: Run, reason: str) -> None:
        """Files of a run that had ended are damaged; the sweep executes it again."""
        ...

    def on_progress(self, run: Run, progress: RunProgress) -> None:
        """A run has made progress."""
        ...

    def on_end(self, result: RunResult) -> None:
        """A run has ended."""
        ...


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended.

    Args:
        runs: All runs of the experiment.
        already_complete: The number of runs that were complete before.
        results: Results of the runs that the sweep executed.
    """

    runs: tuple[Run, ...]
    already_complete: int
    results: tuple[RunResult, ...]

    @property
    def failed(self) -> list[RunResult]:
        """The results of the runs that failed."""
        return [result for result in self.results if not result.is_complete]

    @property
    def missing(self) -> int:
        """The number of runs that were not reached."""
        return len(self.runs) - self.already_complete - len(self.results)


def sweep(
    experiment: Experiment,
    out: Path,
    executor: Callable[[int], Executor],
    callback: SweepCallback,
    *,
    workers: int = 1,
    fail_fast: bool = False,
) -> SweepResult:
    """Execute every run of an experiment that is missing or failed.

    Args:
        experiment: The grid.
        out: The experiment's folder; other runs in it stay as they are.
        executor: Returns the executor, given a file descriptor that worker processes must hold open.
        callback: Called when the sweep begins, and when a run makes progress or ends.
        workers: The number of runs at a time, for `formless status`.
        fail_fast: Stop at the first failure.

    Raises:
        UserError: The experiment cannot be executed as it is; nothing has been written or loaded.
        OutputError: The folder holds something else, another sweep works on it, or it cannot be written.
    """
    folder = store.ExperimentFolder(out)
    if stranger := folder.stranger():
        remedy = "choose another --out, a new or an empty folder"
        raise OutputError(f"the folder holds {stranger.name}, and no experiment", where=out, remedy=remedy)
    runs = grid(experiment)
    with locked(out, workers) as held:
        refuse_newer_plan(out)
        found = [check_result(run.folder(out), run) for run in runs]
        store.write_text(folder.config, experiment.as_yaml())
        write_plan(out, runs)
        done = [result for result in found if isinstance(result, RunResult) and result.is_complete]
        complete = {result.id for result in done}
        missing = [run for run in runs if run.id not in complete]
        _remove_rest(folder, runs)
        callback.on_begin(runs, done, workers)
        for run, result in zip(runs, found, strict=True):
            if isinstance(result, Damage):
                callback.on_damage(run, result.reason)
        results: list[RunResult] = []
        working = executor(held).execute(missing, out, callback.on_progress)
        try:
            for result in working:
                results.append(result.model_copy(update={"log_end": []}))
                callback.on_end(result)
                if fail_fast and not result.is_complete:
                    break
        finally:
            working.close()
    return SweepResult(runs, len(done), tuple(results))


def _remove_rest(folder: store.ExperimentFolder, runs: Sequence[Run]) -> None:
    """Remove what a sweep that was killed may have left beside its results."""
    for path in folder.unfinished():
        store.discard(path)
    for place in (run.folder(folder.path) for run in runs):
        for path in (*place.unfinished(), place.progress):
            store.discard(path)

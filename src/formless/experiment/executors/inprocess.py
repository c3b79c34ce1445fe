"""The default executor: one run after another, in this process."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from formless.experiment.executors.base import Task, Watch
from formless.experiment.result import RunReport
from formless.experiment.run import carry_out
from formless.experiment.session import Session


@dataclass(frozen=True)
class InProcess:
    """No process to start and none to supervise: a crash ends the sweep, which can be gone on with."""

    def execute(self, tasks: Sequence[Task], watch: Watch) -> Generator[RunReport, None, None]:
        """See `Executor`."""
        session = Session()
        for task in tasks:
            yield carry_out(task.run, task.folder, session, lambda signal, run=task.run: watch(run, signal))  # type: ignore[misc]

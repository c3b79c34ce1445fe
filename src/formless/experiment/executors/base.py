"""What every executor promises, and how much it may use."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from formless.experiment.heartbeat import Signal
from formless.experiment.result import RunReport
from formless.experiment.runs import Run

Watch = Callable[[Run, Signal], None]


@dataclass(frozen=True)
class Task:
    """A run to do.

    Args:
        run: What.
        folder: Where its files go.
    """

    run: Run
    folder: Path


class Executor(Protocol):
    """Does runs, somewhere, some of them at once."""

    def execute(self, tasks: Sequence[Task], watch: Watch) -> Generator[RunReport, None, None]:
        """Do every task and yield its report, in any order; a run that fails is a report too.

        Closing the generator stops all work at once. Tasks come model by model and target by target.

        Args:
            tasks: What to do.
            watch: Told how far each run is.

        Raises:
            OutputError: A report cannot be written.
        """
        ...


@dataclass(frozen=True)
class Limits:
    """When a worker process is taken for lost.

    Args:
        timeout: Seconds that one attempt of a run may take once its model is loaded; no limit unless given.
        stuck: Seconds without any sign of progress.
        retries: How often a run is tried again, in a fresh process, after anything but an error that the user must mend.
    """

    timeout: float | None = None
    stuck: float | None = 600.0
    retries: int = 1

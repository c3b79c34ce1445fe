"""What every executor does, when it gives a worker up, and which executor a sweep gets."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from formless.errors import UserError
from formless.experiment.progress import RunProgress
from formless.experiment.result import RunResult
from formless.experiment.runs import Run

if TYPE_CHECKING:
    from formless.experiment.executors.ray import Ray

RunCallback = Callable[[Run, RunProgress], None]


class Executor(Protocol):
    """Executes runs somewhere, one or several at a time."""

    def execute(self, runs: Sequence[Run], out: Path, callback: RunCallback) -> Generator[RunResult, None, None]:
        """Execute every run and yield its result, in any order; a run that fails has a result too.

        Closing the generator stops all work at once. Runs come model by model and target by target.

        Args:
            runs: The runs.
            out: The experiment's folder.
            callback: Called with the progress of each run.

        Raises:
            OutputError: A result cannot be written.
        """
        ...


@dataclass(frozen=True)
class Limits:
    """When a worker is given up.

    Args:
        timeout: Seconds that one attempt of a run may take once its model is loaded; no limit unless given.
        stuck: Seconds without any progress.
        retries: Further attempts of a run, each in a fresh process, after any failure but an error that the user must mend.
    """

    timeout: float | None = None
    stuck: float | None = 600.0
    retries: int = 1


@dataclass(frozen=True)
class Resources:
    """What a sweep may use.

    Args:
        workers: Worker processes on this machine; without any, this process executes all runs. With Ray: actors, as many as
            the cluster has room for unless given.
        gpus: CUDA devices, numbered as this process sees them; one worker for each.
        limits: Limits of the workers; a process cannot supervise itself.
        ray: The address of a Ray cluster, or `local`; not given, Ray is not used.
        cores: CPU cores of each actor.

    Raises:
        UserError: A GPU does not exist.
    """

    workers: int | None = None
    gpus: tuple[int, ...] = ()
    limits: Limits = field(default_factory=Limits)
    ray: str | None = None
    cores: int | None = None

    def __post_init__(self) -> None:
        """Look for the GPUs."""
        for gpu in self.gpus:
            _visible_device(gpu)

    @property
    def at_once(self) -> int:
        """The number of runs at a time; with Ray, this connects to the cluster."""
        if self._cluster:
            return self._cluster.workers
        return len(self.gpus) or self.workers or 1

    def executor(self, hold: int) -> Executor:
        """Return the executor.

        Args:
            hold: A file descriptor that worker processes hold open.
        """
        from formless.experiment.executors.local import InProcess, Processes

        if self._cluster:
            return self._cluster
        if not (self.gpus or self.workers):
            return InProcess()
        return Processes(self.at_once, self.limits, tuple(map(_visible_device, self.gpus)), (hold,))

    @cached_property
    def _cluster(self) -> Ray | None:
        if not self.ray:
            return None
        from formless.experiment.executors.ray import connect

        return connect(self.ray, self.limits, workers=self.workers, cores=self.cores)


def _visible_device(gpu: int) -> str:
    """Return what CUDA_VISIBLE_DEVICES must be for a device that this process knows by number."""
    import torch

    count = torch.cuda.device_count()
    if gpu >= count:
        there = f"there are {count}, counted from 0" if count else "PyTorch finds no GPU"
        raise UserError(f"no GPU {gpu}", where="--gpu", remedy=there)
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[gpu].strip() if named else str(gpu)

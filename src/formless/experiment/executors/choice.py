"""Which executor does the runs, as the command line says it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property

import torch

from formless.errors import UserError
from formless.experiment.executors.base import Executor, Limits
from formless.experiment.executors.inprocess import InProcess
from formless.experiment.executors.processes import Processes
from formless.experiment.executors.ray import Ray, connect


@dataclass(frozen=True)
class Resources:
    """What a sweep may use.

    Args:
        workers: Processes on this machine, none does all in this process; or actors of a Ray cluster, none for what it has.
        gpus: CUDA devices, as this process counts them; one worker for each.
        limits: Of worker processes; a process cannot supervise itself.
        ray: The address of a Ray cluster, or `local`; none does without Ray.
        cores: CPU cores of each actor.

    Raises:
        UserError: A GPU that is not there.
    """

    workers: int | None = None
    gpus: tuple[int, ...] = ()
    limits: Limits = field(default_factory=Limits)
    ray: str | None = None
    cores: int | None = None

    def __post_init__(self) -> None:
        """Look for the GPUs."""
        for gpu in self.gpus:
            _visible(gpu)

    @property
    def at_once(self) -> int:
        """How many runs are done at once; on a Ray cluster, this connects to it."""
        if self._cluster:
            return self._cluster.workers
        return len(self.gpus) or self.workers or 1

    def executor(self, hold: int) -> Executor:
        """The executor.

        Args:
            hold: A file descriptor that worker processes keep open.
        """
        if self._cluster:
            return self._cluster
        if not (self.gpus or self.workers):
            return InProcess()
        return Processes(self.at_once, self.limits, tuple(map(_visible, self.gpus)), (hold,))

    @cached_property
    def _cluster(self) -> Ray | None:
        return connect(self.ray, self.limits, workers=self.workers, cores=self.cores) if self.ray else None


def _visible(gpu: int) -> str:
    """What CUDA_VISIBLE_DEVICES is to say for a device that this process knows by number."""
    count = torch.cuda.device_count()
    if gpu >= count:
        there = f"there are {count}, counted from 0" if count else "PyTorch finds no GPU"
        raise UserError(f"no GPU {gpu}", where="--gpu", remedy=there)
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[gpu].strip() if named else str(gpu)

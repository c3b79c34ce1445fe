"""Supervised worker processes on this machine, on its CPU or one for each GPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait

from formless.experiment.executors.process import Attempt, WorkerProcess
from formless.experiment.executors.supervised import LOOK_EVERY, Supervised


@dataclass(frozen=True)
class Processes(Supervised[WorkerProcess]):
    """Processes of this machine.

    Args:
        gpus: One worker for each, by what CUDA_VISIBLE_DEVICES calls it; none for the CPU.
        hold: File descriptors that stay open as long as any worker lives (the sweep's lock).
    """

    gpus: tuple[str, ...] = ()
    hold: tuple[int, ...] = ()

    def start(self, place: int, attempt: Attempt) -> WorkerProcess:
        """See `Supervised`; a place has its GPU."""
        environment = {"OMP_NUM_THREADS": str(max(1, _cores() // self.workers))} | os.environ
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[place]
        return WorkerProcess(place, attempt, environment, on_gpu=bool(self.gpus), hold=self.hold)

    def ready(self, workers: Sequence[WorkerProcess]) -> list[WorkerProcess]:
        """See `Supervised`."""
        outputs = {worker.output.fileno(): worker for worker in workers}
        speaking = wait(list(outputs), LOOK_EVERY)
        return [worker for output, worker in outputs.items() if output in speaking]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

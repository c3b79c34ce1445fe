"""Supervised worker processes on this machine, on its CPU or one for each GPU."""

from __future__ import annotations

import os
import selectors
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

from formless.errors import OutputError
from formless.experiment.config import ModelChoice
from formless.experiment.executors.base import Limits, Task, Watch
from formless.experiment.executors.process import Attempt, WorkerProcess
from formless.experiment.reports import RunReport
from formless.experiment.worker import Message

_LOOK_EVERY = 0.2


@dataclass(frozen=True)
class Processes:
    """A pool of worker processes. One that crashes, runs out of time or gets stuck is replaced by a fresh one.

    Args:
        workers: How many.
        limits: When a worker is taken for lost, and how often its run is tried again.
        gpus: One worker for each, by what CUDA_VISIBLE_DEVICES calls it; none for the CPU.
        hold: File descriptors that stay open as long as any worker lives (the sweep's lock).
    """

    workers: int
    limits: Limits = field(default_factory=Limits)
    gpus: tuple[str, ...] = ()
    hold: tuple[int, ...] = ()

    def execute(self, tasks: Sequence[Task], watch: Watch) -> Generator[RunReport, None, None]:
        """See `Executor`."""
        pool = _Pool(self, watch)
        pending = deque(Attempt(task, 1) for task in tasks)
        try:
            while pending or pool.busy:
                pool.fill(pending)
                for worker, message in pool.heard():
                    if message.fatal:
                        raise OutputError(message.fatal)
                    if message.report:
                        yield from self._settled(pool.finished(worker, message.report), message.report, pending)
                for attempt, report in pool.lost(self.limits):
                    yield from self._settled(attempt, report, pending)
        finally:
            pool.end()

    def _settled(self, attempt: Attempt, report: RunReport, pending: deque[Attempt]) -> Iterator[RunReport]:
        """The report, unless the run is to be tried again."""
        if not report.is_complete and report.cause != "refused" and attempt.number <= self.limits.retries:
            pending.appendleft(Attempt(attempt.task, attempt.number + 1))
            return
        if report.cause in ("crash", "timeout", "stuck"):  # any other report is from the worker itself, and written
            report.save(attempt.task.folder)
        yield report


class _Pool:
    """The living workers.

    Args:
        settings: How many, where.
        watch: Told how far each run is.
    """

    def __init__(self, settings: Processes, watch: Watch) -> None:
        self._settings, self._watch = settings, watch
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, WorkerProcess] = {}  # by place: a place has its GPU

    @property
    def busy(self) -> list[WorkerProcess]:
        """Those with a run."""
        return [worker for worker in self._workers.values() if worker.attempt]

    def fill(self, pending: deque[Attempt]) -> None:
        """Give every idle place a run, one of the model that its worker holds if there is any."""
        for place in range(self._settings.workers):
            worker = self._workers.get(place)
            if not pending or (worker and worker.attempt):
                continue
            attempt = self._next(pending, worker.model if worker else None)
            pending.remove(attempt)
            if attempt.number > 1 or worker is None or not worker.send(attempt):
                self._discard(place)
                self._start(place, attempt)

    def heard(self) -> Iterator[tuple[WorkerProcess, Message]]:
        """What the workers said, waiting a moment for it."""
        for key, _ in self._selector.select(_LOOK_EVERY):
            worker: WorkerProcess = key.data
            for message in worker.read():
                if message.signal and worker.attempt:
                    self._watch(worker.attempt.task.run, message.signal)
                yield worker, message
            if worker.is_closed and not worker.attempt:  # it died idle
                self._discard(worker.place)

    def finished(self, worker: WorkerProcess, report: RunReport) -> Attempt:
        """A worker's run has ended; after an unforeseen error the process is not trusted with another."""
        attempt = worker.release()
        if report.cause == "error":
            self._discard(worker.place)
        return attempt

    def lost(self, limits: Limits) -> Iterator[tuple[Attempt, RunReport]]:
        """End the workers that crashed or are overdue, and yield what they were at."""
        for worker in self.busy:
            if found := worker.trouble(limits):
                cause, reason = found
                self._discard(worker.place)
                report = worker.failure(cause, reason)
                yield worker.release(), report

    def end(self) -> None:
        """Kill all."""
        for place in list(self._workers):
            self._discard(place)
        self._selector.close()

    def _next(self, pending: deque[Attempt], model: ModelChoice | None) -> Attempt:
        """A run of that model, else of one that no worker holds, else the first."""
        held = {worker.model for worker in self._workers.values()}
        own = next((attempt for attempt in pending if attempt.task.run.model == model), None)
        new = next((attempt for attempt in pending if attempt.task.run.model not in held), None)
        return own or new or pending[0]

    def _start(self, place: int, attempt: Attempt) -> None:
        settings = self._settings
        environment = {"OMP_NUM_THREADS": str(max(1, _cores() // settings.workers))} | os.environ
        gpu = settings.gpus[place] if settings.gpus else None
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        worker = WorkerProcess(place, attempt, environment, on_gpu=gpu is not None, hold=settings.hold)
        self._workers[place] = worker
        self._selector.register(worker.output, selectors.EVENT_READ, worker)

    def _discard(self, place: int) -> None:
        worker = self._workers.pop(place, None)
        if worker:
            self._selector.unregister(worker.output)
            worker.kill()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

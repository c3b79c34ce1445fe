"""Supervised workers, wherever they are: what an executor with several of them shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from formless.errors import OutputError
from formless.experiment.config import ModelChoice
from formless.experiment.executors.base import Limits, Task, Watch
from formless.experiment.executors.process import Attempt, Worker
from formless.experiment.result import RunReport, load_report
from formless.experiment.worker import Message

LOOK_EVERY = 0.2

W = TypeVar("W", bound=Worker)


@dataclass(frozen=True)
class Supervised(ABC, Generic[W]):
    """A pool of workers. One that crashes, runs out of time or gets stuck is replaced by a fresh one.

    Args:
        workers: How many.
        limits: When a worker is taken for lost, and how often its run is tried again.
    """

    workers: int
    limits: Limits = field(default_factory=Limits)

    @abstractmethod
    def start(self, place: int, attempt: Attempt) -> W:
        """A fresh worker with its first run."""

    @abstractmethod
    def ready(self, workers: Sequence[W]) -> list[W]:
        """Those of the workers that have something to say, after `LOOK_EVERY` seconds at the latest."""

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


class _Pool(Generic[W]):
    """The living workers.

    Args:
        executor: How many, and where from.
        watch: Told how far each run is.
    """

    def __init__(self, executor: Supervised[W], watch: Watch) -> None:
        self._executor, self._watch = executor, watch
        self._workers: dict[int, W] = {}  # by place

    @property
    def busy(self) -> list[W]:
        """Those with a run."""
        return [worker for worker in self._workers.values() if worker.attempt]

    def fill(self, pending: deque[Attempt]) -> None:
        """Give every idle place a run, one of the model that its worker holds if there is any; living workers come first."""
        if not pending:
            self._recall(pending)
        for place in sorted(range(self._executor.workers), key=lambda place: place not in self._workers):
            worker = self._workers.get(place)
            if not pending or (worker and worker.attempt):
                continue
            attempt = self._next(pending, worker.model if worker else None)
            pending.remove(attempt)
            if attempt.number > 1 or worker is None or not worker.send(attempt):
                self._discard(place)
                self._workers[place] = self._executor.start(place, attempt)

    def heard(self) -> Iterator[tuple[W, Message]]:
        """What the workers said, waiting a moment for it."""
        for worker in self._executor.ready(list(self._workers.values())):
            for message in worker.read():
                if message.signal and worker.attempt:
                    self._watch(worker.attempt.task.run, message.signal)
                yield worker, message
            if worker.is_closed and not worker.attempt:  # it died idle
                self._discard(worker.place)

    def finished(self, worker: W, report: RunReport) -> Attempt:
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
                attempt = worker.release()
                written = load_report(attempt.task.folder, attempt.task.run)  # it may have died right after its last word
                yield attempt, written if written and written.is_complete else report

    def end(self) -> None:
        """Kill all."""
        for place in list(self._workers):
            self._discard(place)

    def _recall(self, pending: deque[Attempt]) -> None:
        """Take back the run of a worker that waits for a machine, where another worker is idle."""
        waiting = next((worker for worker in self.busy if worker.is_waiting), None)
        if waiting and len(self.busy) < len(self._workers):
            pending.append(waiting.release())
            self._discard(waiting.place)

    def _next(self, pending: deque[Attempt], model: ModelChoice | None) -> Attempt:
        """A run of that model, else of one that no worker holds, else the first."""
        held = {worker.model for worker in self._workers.values()}
        own = next((attempt for attempt in pending if attempt.task.run.model == model), None)
        new = next((attempt for attempt in pending if attempt.task.run.model not in held), None)
        return own or new or pending[0]

    def _discard(self, place: int) -> None:
        if worker := self._workers.pop(place, None):
            worker.kill()

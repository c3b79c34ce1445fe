"""A pool of supervised workers: a worker that crashes, takes too long or gets stuck is replaced by a fresh one."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar, cast

from formless import provenance
from formless.errors import OutputError
from formless.experiment.config import ModelChoice
from formless.experiment.executors.base import Limits, RunCallback
from formless.experiment.executors.worker import Attempt, Message
from formless.experiment.result import Cause, RunResult, failed_result, load_result
from formless.experiment.run import run_log
from formless.experiment.runs import Run
from formless.store import RunFolder

LOOK_EVERY = 0.2  # seconds
_QUIET_SECONDS = 3600.0  # loading a model or saving an edit reports nothing, and a slow disk takes long for either


class Worker(ABC):
    """A worker with at most one run, seen from the sweep.

    Args:
        place: Its place in the pool.
        on_gpu: Load models on CUDA if their device is `auto`.
    """

    def __init__(self, place: int, *, on_gpu: bool) -> None:
        self.place, self._on_gpu = place, on_gpu
        self.attempt: Attempt | None = None
        self.model: ModelChoice | None = None
        self.is_closed = False  # no further message will come

    @abstractmethod
    def _deliver(self, command: str) -> bool:
        """Send a line; return False if the worker is dead."""

    @abstractmethod
    def _received(self) -> Sequence[bytes | str]:
        """Return the messages that have come in."""

    @abstractmethod
    def _ended(self) -> str | None:
        """Return how the worker ended, or None while it lives."""

    @abstractmethod
    def _stop(self) -> None:
        """End the worker and everything that it started."""

    @property
    def is_waiting(self) -> bool:
        """Whether the worker has been without a machine for so long that another may execute its run."""
        return False

    def send(self, attempt: Attempt) -> bool:
        """Give the worker an attempt; return False if it is dead."""
        run = attempt.run
        if self._on_gpu and run.model.device == "auto":
            run = run.model_copy(update={"model": run.model.model_copy(update={"device": "cuda"})})
        command = Attempt(run=run, folder=RunFolder(attempt.folder.path.absolute()), number=attempt.number)
        self.attempt, self.model = attempt, attempt.run.model
        self._started, self._begun = provenance.now(), time.monotonic()
        self._loaded: float | None = None
        self._is_saving = False
        self._heard = self._begun
        return self._deliver(command.model_dump_json())

    def read(self) -> Iterator[Message]:
        """Yield the messages that have come in; set `is_closed` at the end of all."""
        for received in self._received():
            message = Message.model_validate_json(received)
            self._heard = time.monotonic()
            if message.progress and message.progress.phase != "loading" and self._loaded is None:
                self._loaded = self._heard
            self._is_saving = bool(message.progress and message.progress.phase == "saving")
            yield message

    def release(self) -> Attempt:
        """Take the attempt away."""
        attempt, self.attempt = self.attempt, None
        return cast(Attempt, attempt)

    def trouble(self, limits: Limits, now: float) -> tuple[Cause, str] | None:
        """Return what is wrong with the worker, or None.

        Args:
            limits: When it is given up.
            now: When the sweep last looked for messages. Later ones were not heard, but that is not the worker's fault.
        """
        if reason := self._ended():
            return "crash", reason
        if self._loaded is None:
            late = now - self._begun > _QUIET_SECONDS
            return ("timeout", f"the model was not loaded within {_QUIET_SECONDS:.0f} s") if late else None
        if limits.timeout is not None and now - self._loaded > limits.timeout:
            return "timeout", f"it took longer than {limits.timeout:g} s"
        if limits.stuck is not None:
            patience = max(limits.stuck, _QUIET_SECONDS) if self._is_saving else limits.stuck
            if now - self._heard > patience:
                return "stuck", f"no progress for {patience:g} s"
        return None

    def failure(self, cause: Cause, reason: str) -> RunResult:
        """Return the result of the worker's run, which failed; it is not written yet."""
        attempt = cast(Attempt, self.attempt)
        with run_log(attempt.folder) as log:
            log(f"failed: {reason}")
        seconds = time.monotonic() - self._begun
        return failed_result(
            attempt.run, attempt.folder, cause, reason, attempts=attempt.number, started=self._started, seconds=seconds
        )

    def kill(self) -> None:
        """End the worker, and remove the progress of its run."""
        self._stop()
        if self.attempt:
            progress = self.attempt.folder.progress
            for path in progress.parent.glob(f"*{progress.name}*"):  # also a file that was being written
                with suppress(OSError):
                    path.unlink(missing_ok=True)


W = TypeVar("W", bound=Worker)


@dataclass(frozen=True)
class Supervised(ABC, Generic[W]):
    """An executor with several workers, wherever they are.

    Args:
        workers: The number of workers.
        limits: When a worker is given up, and how often its run is tried again.
    """

    workers: int
    limits: Limits = field(default_factory=Limits)

    @abstractmethod
    def start(self, place: int, attempt: Attempt) -> W:
        """Start a worker with its first attempt."""

    @abstractmethod
    def ready(self, workers: Sequence[W]) -> list[W]:
        """Return all workers that have a message, after `LOOK_EVERY` seconds at the latest."""

    def execute(self, runs: Sequence[Run], out: Path, callback: RunCallback) -> Generator[RunResult, None, None]:
        """See `Executor`."""
        pool = _Pool(self, callback)
        pending = deque(Attempt(run=run, folder=run.folder(out), number=1) for run in runs)
        try:
            while pending or pool.busy:
                pool.fill(pending)
                for worker, message in pool.heard():
                    if message.fatal:
                        raise OutputError(message.fatal)
                    if message.result:
                        yield from self._settle(pool.finish(worker, message.result), message.result, pending)
                for attempt, result in pool.give_up(self.limits):
                    yield from self._settle(attempt, result, pending)
        finally:
            pool.end()

    def _settle(self, attempt: Attempt, result: RunResult, pending: deque[Attempt]) -> Iterator[RunResult]:
        """Yield the result, or put the run back to be tried again."""
        if not result.is_complete and result.cause != "refused" and attempt.number <= self.limits.retries:
            pending.appendleft(attempt.model_copy(update={"number": attempt.number + 1}))
            return
        if result.cause in ("crash", "timeout", "stuck"):  # any other result is from the worker, which has written it
            result.save(attempt.folder)
        yield result


class _Pool(Generic[W]):
    """The living workers.

    Args:
        executor: Starts the workers.
        callback: Called with the progress of each run.
    """

    def __init__(self, executor: Supervised[W], callback: RunCallback) -> None:
        self._executor, self._callback = executor, callback
        self._workers: dict[int, W] = {}  # by place
        self._looked = time.monotonic()

    @property
    def busy(self) -> list[W]:
        """The workers that have a run."""
        return [worker for worker in self._workers.values() if worker.attempt]

    def fill(self, pending: deque[Attempt]) -> None:
        """Give every idle place a run, of the model that its worker has loaded if there is one; living workers come first."""
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
        """Wait a moment for messages, and yield them."""
        ready = self._executor.ready(list(self._workers.values()))
        self._looked = time.monotonic()
        for worker in ready:
            for message in worker.read():
                if message.progress and worker.attempt:
                    self._callback(worker.attempt.run, message.progress)
                yield worker, message
            if worker.is_closed and not worker.attempt:  # it died without a run
                self._discard(worker.place)

    def finish(self, worker: W, result: RunResult) -> Attempt:
        """Take a worker's ended run away; after an unforeseen error, end the worker too."""
        attempt = worker.release()
        if result.cause == "error":
            self._discard(worker.place)
        return attempt

    def give_up(self, limits: Limits) -> Iterator[tuple[Attempt, RunResult]]:
        """End the workers that crashed or are over a limit, and yield their attempts with the results."""
        for worker in self.busy:
            if found := worker.trouble(limits, self._looked):
                cause, reason = found
                self._discard(worker.place)
                result = worker.failure(cause, reason)
                attempt = worker.release()
                written = load_result(attempt.folder, attempt.run)  # it may have died between run.json and its message
                yield attempt, written if written and written.is_complete else result

    def end(self) -> None:
        """Kill all workers."""
        for place in list(self._workers):
            self._discard(place)

    def _recall(self, pending: deque[Attempt]) -> None:
        """Take back the run of a worker that waits for a machine while another worker is idle."""
        waiting = next((worker for worker in self.busy if worker.is_waiting), None)
        if waiting and len(self.busy) < len(self._workers):
            pending.append(waiting.release())
            self._discard(waiting.place)

    def _next(self, pending: deque[Attempt], model: ModelChoice | None) -> Attempt:
        """Return an attempt for that model, else for a model that no worker has loaded, else the first."""
        if own := next((attempt for attempt in pending if attempt.run.model == model), None):
            return own
        held = {worker.model for worker in self._workers.values()}
        return next((attempt for attempt in pending if attempt.run.model not in held), pending[0])

    def _discard(self, place: int) -> None:
        """Kill the worker of a place, if it has one."""
        if worker := self._workers.pop(place, None):
            worker.kill()

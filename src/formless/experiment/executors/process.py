"""One worker, seen from the sweep: what any worker shares, and a process of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, cast

from formless import provenance
from formless.experiment.config import ModelChoice
from formless.experiment.executors.base import Limits, Task
from formless.experiment.heartbeat import HEARTBEAT
from formless.experiment.logs import run_log
from formless.experiment.result import LOG, Cause, RunReport, failure
from formless.experiment.worker import Command, Message

_LOADING_LIMIT = 3600.0
_LAST_BREATH = 5.0
_AT_ONCE = 2**16


@dataclass(frozen=True)
class Attempt:
    """A task that is tried.

    Args:
        task: What.
        number: Counted from 1.
    """

    task: Task
    number: int


class Worker(ABC):
    """A worker with at most one run.

    Args:
        place: Its place in the pool.
        on_gpu: Whether models are to be loaded on CUDA wherever their device is left open.
    """

    def __init__(self, place: int, *, on_gpu: bool) -> None:
        self.place, self._on_gpu = place, on_gpu
        self.attempt: Attempt | None = None
        self.model: ModelChoice | None = None
        self.is_closed = False  # whether it will say no more

    @abstractmethod
    def _deliver(self, command: str) -> bool:
        """Pass a command on; false where the worker is dead already."""

    @abstractmethod
    def _received(self) -> Sequence[bytes | str]:
        """The messages that have come in."""

    @abstractmethod
    def _ended(self) -> str | None:
        """How it ended, if it did."""

    @abstractmethod
    def _stop(self) -> None:
        """End it and whatever it started."""

    @property
    def is_waiting(self) -> bool:
        """Whether it has been without a machine for so long that another may do its run."""
        return False

    def send(self, attempt: Attempt) -> bool:
        """Give it a run; false where it is dead already."""
        run = attempt.task.run
        if self._on_gpu and run.model.device == "auto":
            run = run.model_copy(update={"model": run.model.model_copy(update={"device": "cuda"})})
        command = Command(run=run, folder=attempt.task.folder.absolute(), attempt=attempt.number)
        self.attempt, self.model = attempt, attempt.task.run.model
        self._started, self._begun = provenance.now(), time.monotonic()
        self._loaded: float | None = None
        self._heard = self._begun
        return self._deliver(command.model_dump_json())

    def read(self) -> Iterator[Message]:
        """The messages that have come in; at the end of all none, and `is_closed`."""
        for received in self._received():
            message = Message.model_validate_json(received)
            self._heard = time.monotonic()
            if message.signal and message.signal.phase != "loading" and self._loaded is None:
                self._loaded = self._heard
            yield message

    def release(self) -> Attempt:
        """Take its run away."""
        attempt, self.attempt = self.attempt, None
        return cast(Attempt, attempt)

    def trouble(self, limits: Limits) -> tuple[Cause, str] | None:
        """What is wrong with it, if anything."""
        now = time.monotonic()
        if reason := self._ended():
            return "crash", reason
        if self._loaded is None:
            late = now - self._begun > _LOADING_LIMIT
            return ("timeout", f"the model was not loaded within {_LOADING_LIMIT:.0f} s") if late else None
        if limits.timeout is not None and now - self._loaded > limits.timeout:
            return "timeout", f"it took longer than {limits.timeout:g} s"
        if limits.stuck is not None and now - self._heard > limits.stuck:
            return "stuck", f"no progress for {limits.stuck:g} s"
        return None

    def failure(self, cause: Cause, reason: str) -> RunReport:
        """The report of the run that it was at, not yet written."""
        attempt = cast(Attempt, self.attempt)
        folder = attempt.task.folder
        with run_log(folder) as log:
            log(f"failed: {reason}")
        seconds = time.monotonic() - self._begun
        return failure(attempt.task.run, folder, cause, reason, attempts=attempt.number, started=self._started, seconds=seconds)

    def kill(self) -> None:
        """End it, and forget that its run is under way."""
        self._stop()
        if self.attempt:
            for said in self.attempt.task.folder.glob(f"*{HEARTBEAT}*"):  # also what it was just writing
                said.unlink(missing_ok=True)


class WorkerProcess(Worker):
    """A process of this machine.

    Args:
        place: Its place in the pool.
        attempt: The first run; what the process prints before it can take runs goes to that run's log.
        environment: Its environment variables.
        on_gpu: As of `Worker`.
        hold: File descriptors that stay open as long as it lives.
    """

    def __init__(
        self, place: int, attempt: Attempt, environment: Mapping[str, str], *, on_gpu: bool, hold: tuple[int, ...]
    ) -> None:
        super().__init__(place, on_gpu=on_gpu)
        self._unread = b""
        with run_log(attempt.task.folder) as log:
            log("a worker process starts")
        with (attempt.task.folder / LOG).open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "formless.experiment.worker_process"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=file, env=dict(environment), bufsize=0, start_new_session=True, pass_fds=hold,
            )  # fmt: skip
        self.send(attempt)

    @property
    def output(self) -> IO[bytes]:
        """What it says."""
        return cast(IO[bytes], self._process.stdout)

    def _deliver(self, command: str) -> bool:
        try:
            cast(IO[bytes], self._process.stdin).write(command.encode() + b"\n")
        except OSError:
            return False
        return True

    def _received(self) -> list[bytes]:
        found = os.read(self.output.fileno(), _AT_ONCE)
        self.is_closed = not found
        *lines, self._unread = (self._unread + found).split(b"\n")
        return lines

    def _stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            cast(IO[bytes], stream).close()

    def _ended(self) -> str | None:
        if not self.is_closed and self._process.poll() is None:
            return None
        try:
            code = self._process.wait(_LAST_BREATH)
        except subprocess.TimeoutExpired:
            return "the worker process closed its output"
        if code >= 0:
            return f"the worker process ended with exit code {code}"
        name = signal.Signals(-code).name
        return f"the worker process was killed by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")

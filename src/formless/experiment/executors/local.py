"""Executors of this machine: this process, or supervised worker processes on the CPU or one for each GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, cast

from formless.experiment.executors.base import RunCallback
from formless.experiment.executors.supervised import LOOK_EVERY, Supervised, Worker
from formless.experiment.executors.worker import Attempt
from formless.experiment.prepare import prepare, shared_batches
from formless.experiment.result import RunResult
from formless.experiment.run import Session, execute_run, run_log
from formless.experiment.runs import Run

_EXIT_SECONDS = 5.0
_READ_BYTES = 2**16


@dataclass(frozen=True)
class InProcess:
    """The default: one run after another in this process. A crash ends the sweep; the same command resumes it.

    The free answers of several runs are written together, before the first of them.
    """

    def execute(self, runs: Sequence[Run], out: Path, callback: RunCallback) -> Generator[RunResult, None, None]:
        """See `Executor`."""
        session = Session()
        for together in shared_batches(runs):
            prepare(together, out, session, callback)
            for run in together:
                yield execute_run(run, run.folder(out), session, partial(callback, run))


@dataclass(frozen=True)
class Processes(Supervised["WorkerProcess"]):
    """Worker processes of this machine.

    Args:
        gpus: One worker for each of these values of CUDA_VISIBLE_DEVICES; empty for the CPU.
        hold: File descriptors that every worker holds open (the sweep's lock).
    """

    gpus: tuple[str, ...] = ()
    hold: tuple[int, ...] = ()

    def start(self, place: int, attempt: Attempt) -> WorkerProcess:
        """See `Supervised`; each place has its own GPU."""
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


class WorkerProcess(Worker):
    """A process of this machine.

    Args:
        place: Its place in the pool.
        attempt: The first attempt. What the process prints before it can take runs goes to the log of that run.
        environment: Its environment variables.
        on_gpu: See `Worker`.
        hold: File descriptors that it holds open.
    """

    def __init__(
        self, place: int, attempt: Attempt, environment: Mapping[str, str], *, on_gpu: bool, hold: tuple[int, ...]
    ) -> None:
        super().__init__(place, on_gpu=on_gpu)
        self._unread = b""
        with run_log(attempt.folder) as log:
            log("a worker process starts")
        with attempt.folder.log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "formless.experiment.executors.worker_process"], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=file, env=dict(environment), bufsize=0, start_new_session=True, pass_fds=hold,
            )  # fmt: skip
        self.send(attempt)

    @property
    def output(self) -> IO[bytes]:
        """The stream of its messages."""
        return cast(IO[bytes], self._process.stdout)

    def _deliver(self, command: str) -> bool:
        try:
            cast(IO[bytes], self._process.stdin).write(command.encode() + b"\n")
        except OSError:
            return False
        return True

    def _received(self) -> list[bytes]:
        found = os.read(self.output.fileno(), _READ_BYTES)
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
            code = self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return "the worker process closed its output"
        if code >= 0:
            return f"the worker process ended with exit code {code}"
        name = signal.Signals(-code).name
        return f"the worker process was killed by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")

"""Supervised workers on a Ray cluster of one machine or many: one actor for each GPU, or for some CPU cores."""

from __future__ import annotations

import logging
import os
import queue
import secrets
import socket
import threading
import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formless.errors import UserError
from formless.experiment.executors.base import Limits, RunCallback
from formless.experiment.executors.supervised import LOOK_EVERY, Supervised, Worker
from formless.experiment.executors.worker import Attempt, Message, serve, set_up
from formless.experiment.result import RunResult
from formless.experiment.run import Session, run_log
from formless.experiment.runs import Run

LOCAL = "local"
_PASSED_ON = ("FORMLESS_CACHE", "HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "PYTHONPATH")
_WAITING_SECONDS, _CONNECT_SECONDS = 60.0, 10.0
_OBJECT_STORE = 100 * 2**20  # bytes; near the least that Ray takes, as messages are small


def connect(address: str, limits: Limits, *, workers: int | None = None, cores: int | None = None) -> Ray:
    """Connect this process to a Ray cluster.

    Args:
        address: `local` starts a cluster on this machine, which no other machine can reach; otherwise an address for
            `ray.init`, such as `auto`.
        limits: When a worker is given up, and how often its run is tried again.
        workers: The number of workers; as many as the cluster has room for unless given.
        cores: CPU cores of each worker; see `room`.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be reached or has no room for a worker.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # on any system, makes Ray take the loopback address
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # other users of this machine are kept out, too
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    try:
        import ray
    except ImportError:
        raise UserError("the package ray is missing", where="--executor", remedy="pip install 'formless[ray]'") from None
    try:
        _check_address(address)
        ray.init(**options)
    except (ImportError, OSError, OverflowError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"no Ray cluster at {address!r}: {reason}", where="--ray-address") from error
    nodes: list[dict[str, Any]] = ray.nodes()
    count, each, on_gpu = room([node["Resources"] for node in nodes if node["Alive"]], cores)
    if not count:
        ray.shutdown()
        raise UserError(f"no machine of the Ray cluster has {each} CPU cores for a worker", where="--worker-cpus")
    return Ray(workers or count, limits, each, on_gpu)


def room(machines: Sequence[Mapping[str, float]], cores: int | None = None) -> tuple[int, int, bool]:
    """Return how many workers a cluster has room for, the CPU cores of each, and whether each has a GPU.

    Each worker has a GPU if any machine has one.

    Args:
        machines: The resources of each machine, with Ray's names.
        cores: CPU cores of each worker. Unless given, a GPU's share of the cores on the machine where that share is smallest;
            without GPUs, all cores of the largest machine.
    """
    known = [(int(machine.get("CPU", 0)), int(machine.get("GPU", 0))) for machine in machines]
    if on_gpu := any(gpus for _, gpus in known):
        known = [(cpus, gpus) for cpus, gpus in known if gpus]
        each = cores or max(1, min(cpus // gpus for cpus, gpus in known))
        return sum(min(cpus // each, gpus) for cpus, gpus in known), each, on_gpu
    each = cores or max([1, *(cpus for cpus, _ in known)])
    return sum(cpus // each for cpus, _ in known), each, on_gpu


def _check_address(address: str) -> None:
    """Raise if nothing listens at an address; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()


@dataclass(frozen=True)
class Ray(Supervised["RayWorker"]):
    """Actors of the cluster that this process is connected to, until the runs have ended.

    Args:
        cores: CPU cores of each actor.
        on_gpu: Whether each actor has a GPU.
    """

    cores: int = 1
    on_gpu: bool = False

    def execute(self, runs: Sequence[Run], out: Path, callback: RunCallback) -> Generator[RunResult, None, None]:
        """See `Executor`."""
        import ray

        try:
            yield from super().execute(runs, out, callback)
        finally:
            ray.shutdown()

    def start(self, place: int, attempt: Attempt) -> RayWorker:
        """See `Supervised`."""
        return RayWorker(place, attempt, cores=self.cores, on_gpu=self.on_gpu)

    def ready(self, workers: Sequence[RayWorker]) -> list[RayWorker]:
        """See `Supervised`."""
        import ray

        answers = {worker.answer: worker for worker in workers}
        speaking, silent = ray.wait(list(answers), timeout=LOOK_EVERY)
        if speaking and silent:  # `wait` returns as soon as one is there
            speaking += ray.wait(silent, num_returns=len(silent), timeout=0)[0]
        return [answers[answer] for answer in speaking]


class RayWorker(Worker):
    """An actor.

    Args:
        place: Its place in the pool.
        attempt: The first attempt.
        cores: Its CPU cores.
        on_gpu: Whether it has a GPU.
    """

    def __init__(self, place: int, attempt: Attempt, *, cores: int, on_gpu: bool) -> None:
        import ray

        super().__init__(place, on_gpu=on_gpu)
        self._reason: str | None = None
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        actor: Any = ray.remote(_Actor)
        options = {"num_cpus": cores, "num_gpus": int(on_gpu), "max_concurrency": 2, "runtime_env": {"env_vars": environment}}
        with run_log(attempt.folder) as log:
            log("an actor starts")
        self._actor = actor.options(**options).remote(Path.cwd())
        self.answer = self._actor.listen.remote()
        self.send(attempt)

    @property
    def is_waiting(self) -> bool:
        """See `Worker`."""
        return self._heard == self._begun and time.monotonic() - self._begun > _WAITING_SECONDS

    def _deliver(self, command: str) -> bool:
        self._actor.work.remote(command)
        return not self.is_closed

    def _received(self) -> list[str]:
        import ray

        try:
            message: str = ray.get(self.answer)
        except ray.exceptions.RayError as error:
            account = str(error).strip()
            # Ray names the reason first if it killed the actor for want of memory, else last, with what may be behind it.
            is_oom = isinstance(error, ray.exceptions.OutOfMemoryError)
            reason = account.splitlines()[0 if is_oom else -1].split(". ")[0]
            self._note_death(account, reason + (", perhaps for want of memory" if "OOM killer" in account else ""))
            return []
        self.answer = self._actor.listen.remote()
        return [message]

    def _note_death(self, account: str, reason: str) -> None:
        """Note how the actor died."""
        self.is_closed = True
        self._reason = f"the actor was lost: {reason}"
        if self.attempt:
            with run_log(self.attempt.folder) as log:
                log(account)

    def _ended(self) -> str | None:
        return self._reason

    def _stop(self) -> None:
        import ray

        ray.kill(self._actor)


class _Actor:
    """The worker's side, in a process that Ray starts on some machine: one thread works while another passes messages on.

    Args:
        folder: The sweep's working directory; paths may be relative to it.
    """

    def __init__(self, folder: Path) -> None:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        os.chdir(folder)
        set_up()
        self._session = Session()
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def work(self, command: str) -> None:
        """Execute an attempt."""
        try:
            serve(Attempt.model_validate_json(command), self._session, self._messages.put)
        except BaseException:  # nothing reads what this method returns
            traceback.print_exc()
            os._exit(1)

    def listen(self) -> str:
        """Wait for the next message and return it."""
        return self._messages.get().model_dump_json()


def _end_with(raylet: int) -> None:
    """End this process with its parent, the node's raylet, so that no other actor does its run at the same time.

    Ray tells the sweep that the node is lost, and leaves the actor at work for a minute and more.
    """
    while os.getppid() == raylet:
        time.sleep(LOOK_EVERY)
    os._exit(1)

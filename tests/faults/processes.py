"""`formless` in processes that are forked from one which has imported everything, and so begin in a moment."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from formless.methods.training.trainer import Checkpoints
from tests.faults.attempt import Ended

PRELOADED = ["formless.cli.main", "formless.experiment.sweep", "formless.experiment.executors.local", "transformers.trainer",
             "formless.report.page", "tests.faults.processes"]  # fmt: skip
Limits = dict[int, int]


def fork_server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def child(folder: Path, arguments: tuple[str, ...], limits: Limits) -> None:
    """What the process does: the command, its output in files, with a checkpoint after every training step."""
    from formless.__main__ import main

    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(folder)
    os.environ["FORMLESS_CACHE"] = str(folder / "cache")
    every = "formless.methods.training.method.Checkpoints"
    pytest.MonkeyPatch().setattr(every, lambda place, steps, identity: Checkpoints(place, 1, identity))
    sys.argv = ["formless", *arguments]
    for limit, value in limits.items():
        if limit == resource.RLIMIT_AS:  # beside what the process has already
            value += int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))
    main()


class Command:
    """A command under way.

    Args:
        context: The server.
        folder: Where it works.
        arguments: The command line.
        limits: Limits of its resources.
    """

    def __init__(self, context: ForkServerContext, folder: Path, *arguments: str, limits: Limits | None = None) -> None:
        self.folder = folder
        for name in ("stdout", "stderr"):
            (folder / name).unlink(missing_ok=True)
        self.process: BaseProcess = context.Process(target=child, args=(folder, arguments, limits or {}))
        self.process.start()

    def wait_for(self, ready: Callable[[], object], seconds: float = 120) -> None:
        """Wait until something is there."""
        deadline = time.monotonic() + seconds
        while not ready():
            assert self.process.is_alive(), f"it ended before: {self.ended()}"
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def says(self, words: str) -> Callable[[], bool]:
        """Return a condition: the command has printed some words on standard error."""
        path = self.folder / "stderr"
        return lambda: path.exists() and words in path.read_text("utf-8", "replace")

    def send(self, number: int) -> None:
        """Send a signal to the process alone."""
        os.kill(self.process.pid or 0, number)

    def ended(self, seconds: float = 120) -> Ended:
        """Wait for its end."""
        self.process.join(seconds)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            self.process.join()
        assert code is not None, "it hangs"
        return Ended(code, *((self.folder / name).read_text("utf-8", "replace") for name in ("stdout", "stderr")))

"""Run `formless` in this process, as its users do: with arguments, in a folder, and with a limit of time."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from unittest.mock import patch

from formless.cli.main import main

LIMIT = 60
"""Seconds after which a command counts as hanging; each takes under a second."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Args:
        code: The exit code; None after an exception, or if it hung.
        err: What it wrote to standard error, and the traceback of an exception.
        out: What it wrote to standard output.
    """

    code: int | None
    err: str
    out: str

    @property
    def hung(self) -> bool:
        return self.code is None and Hang.__name__ in self.err


class Hang(BaseException):
    """Passes every `except Exception`."""


def attempt(folder: Path, *arguments: str) -> Outcome:
    """Run a command in a folder; the cache is the folder's own."""
    out, err = io.StringIO(), io.StringIO()
    environment = {"FORMLESS_CACHE": str(folder / "cache"), "TMPDIR": str(folder.parent)}
    with (
        _working_directory(folder),
        patch.dict(os.environ, environment),
        patch.object(sys, "argv", ["formless", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
        _limit(),
    ):
        try:
            main()
            code: int | None = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        except BaseException:  # an exception that reaches the user, a hang
            code = None
            err.write(traceback.format_exc())
    return Outcome(code, err.getvalue(), out.getvalue())


@contextlib.contextmanager
def _working_directory(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _limit() -> Iterator[None]:
    def stop(signal_number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

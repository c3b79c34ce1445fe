"""Run `formless` in this process, as its users do: with arguments, in a folder, and with a limit of time."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import tempfile
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
class Ended:
    """How a command ended.

    Args:
        code: The exit code; None after an exception, or if it hung.
        out: What it wrote to standard output.
        err: What it wrote to standard error, and the traceback of an exception.
    """

    code: int | None
    out: str
    err: str

    @property
    def hung(self) -> bool:
        return self.code is None and Hang.__name__ in self.err

    @property
    def error(self) -> str:
        """The one line of the error."""
        (line,) = (line for line in self.err.splitlines() if line.startswith("error: "))
        return line


class Hang(BaseException):
    """Passes every `except Exception`."""


def attempt(folder: Path, *arguments: str, temporary: Path | None = None) -> Ended:
    """Run a command in a folder, with its cache there; temporary files go beside it unless a folder is given."""
    out, err = io.StringIO(), io.StringIO()
    with (
        _working_directory(folder),
        patch.dict(os.environ, {"FORMLESS_CACHE": str(folder / "cache")}),
        patch.object(tempfile, "tempdir", str(temporary or folder.parent)),
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
    return Ended(code, out.getvalue(), err.getvalue())


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

"""One sweep at a time on a folder."""

from __future__ import annotations

import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

from pydantic import BaseModel, ConfigDict, ValidationError

from formless import provenance
from formless.errors import OutputError, UserError

LOCK = ".lock"
_PATIENCE = 5.0


class Holder(BaseModel):
    """Who works on a folder.

    Args:
        pid: The process.
        host: Its machine.
        started: UTC.
        workers: How many runs it does at once.
        command: As it was typed.
    """

    model_config = ConfigDict(frozen=True)

    pid: int
    host: str
    started: str
    workers: int
    command: str


@contextmanager
def locked(out: Path, workers: int) -> Iterator[int]:
    """Hold a folder until the block and every process that inherits the yielded descriptor has ended.

    The system lets go of the lock when its holders die, however they do: there is no stale lock to remove.

    Raises:
        UserError: The system has no such locks.
        OutputError: Another sweep holds it, or the folder cannot be written.
    """
    if sys.platform == "win32":
        raise UserError("formless run needs Linux or macOS", remedy="run it there, or under WSL")
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _refused(out, error) from error
    try:
        _acquire(descriptor, out)
        command = shlex.join(["formless", *sys.argv[1:]])
        holder = Holder(pid=os.getpid(), host=socket.gethostname(), started=provenance.now(), workers=workers, command=command)
        _note(descriptor, out, holder)
        yield descriptor
    finally:
        os.close(descriptor)


def holder(out: Path) -> Holder | None:
    """Who works on a folder now, if anybody does."""
    try:
        descriptor = os.open(out / LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _read(out)
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, out: Path) -> None:
    """Wait a moment: the workers of a sweep that was just killed are about to end, and a look at the lock holds it briefly."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
        other = _read(out)
        where = f"{out}, process {other.pid} on {other.host} since {other.started}" if other else out
        raise OutputError("another sweep works on this folder", where=where, remedy="wait for it, or choose another --out")


def _note(descriptor: int, out: Path, holder: Holder) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.model_dump_json().encode(), 0)
    except OSError as error:
        raise _refused(out, error) from error


def _refused(out: Path, error: OSError) -> OutputError:
    reason = (error.strerror or str(error)).lower()
    return OutputError(f"cannot write: {reason}", where=out, remedy="free space or choose another --out")


def _read(out: Path) -> Holder | None:
    try:
        return Holder.model_validate_json((out / LOCK).read_bytes())
    except (OSError, ValidationError):
        return None

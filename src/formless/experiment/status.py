"""Who works on an experiment's folder, and how far it is, from any process."""

from __future__ import annotations

import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

if sys.platform != "win32":
    import fcntl

from pydantic import BaseModel, ConfigDict, ValidationError

from formless import provenance
from formless.errors import OutputError, UserError
from formless.experiment.progress import Durations, RunProgress, read_progress
from formless.experiment.result import Damage, RunResult, check_result
from formless.experiment.runs import Run, count_others, read_plan
from formless.store import ExperimentFolder, read_file

_LOCK_SECONDS = 5.0


class Holder(BaseModel):
    """The process that works on a folder.

    Args:
        pid: The process id.
        host: The machine's name.
        started: The start, UTC.
        workers: The number of runs at a time.
        command: The command line.
    """

    model_config = ConfigDict(frozen=True)

    pid: int
    host: str
    started: str
    workers: int
    command: str


@dataclass(frozen=True)
class Status:
    """The runs of a folder by their state.

    Args:
        holder: The sweep that works on the folder now, if any.
        complete: Results of the complete runs.
        failed: Results of the failed runs that are not tried again now.
        running: The runs under way, with their progress.
        missing: The runs that have not begun, or that were interrupted, or whose files are damaged.
        damaged: The runs among the missing ones whose files are damaged, with the file and what is wrong with it.
        others: The number of runs in the folder that are not part of the experiment that was started there last.
        seconds_left: The expected time until all runs have ended; None if that is not known or no sweep works.
    """

    holder: Holder | None
    complete: tuple[RunResult, ...]
    failed: tuple[RunResult, ...]
    running: tuple[tuple[Run, RunProgress], ...]
    missing: tuple[Run, ...]
    damaged: tuple[tuple[Run, str], ...]
    others: int
    seconds_left: float | None


def read_status(out: Path) -> Status:
    """Return the state of an experiment's folder.

    Raises:
        DataError: No experiment was started there, or a newer version of Formless wrote the folder.
    """
    runs = read_plan(out)
    working = holder(out)
    results: dict[str, list[RunResult]] = {"complete": [], "failed": []}
    running, missing, damaged, durations = [], [], [], Durations()
    for run in runs:
        folder = run.folder(out)
        found, progress = check_result(folder, run), read_progress(folder)
        result = found if isinstance(found, RunResult) else None
        if working and result and not result.is_complete and result.finished < working.started:
            result = None  # this sweep tries the run again
        if result:
            results[result.status].append(result)
        elif working and progress:
            running.append((run, progress))
        else:
            missing.append(run)
            if isinstance(found, Damage):
                damaged.append((run, found.reason))
        if result and result.is_complete:
            durations.add(run, result.timings["total"])
    left = durations.left(missing, running, working.workers) if working else None
    return Status(
        working, tuple(results["complete"]), tuple(results["failed"]), tuple(running), tuple(missing), tuple(damaged),
        count_others(out, runs), left,
    )  # fmt: skip


@contextmanager
def locked(out: Path, workers: int) -> Iterator[int]:
    """Lock a folder until the block and every process that inherits the yielded file descriptor have ended.

    The system releases the lock when its holders die, in whatever way: no stale lock has to be removed.

    Raises:
        UserError: The system has no such locks.
        OutputError: Another sweep holds the lock, or the folder cannot be written.
    """
    if sys.platform == "win32":
        raise UserError("formless run needs Linux or macOS", remedy="run it there, or under WSL")
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(ExperimentFolder(out).lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _output_error(out, error) from error
    try:
        _acquire(descriptor, out)
        command = shlex.join(["formless", *sys.argv[1:]])
        holder = Holder(pid=os.getpid(), host=socket.gethostname(), started=provenance.now(), workers=workers, command=command)
        _write_holder(descriptor, out, holder)
        yield descriptor
    finally:
        os.close(descriptor)


def holder(out: Path) -> Holder | None:
    """Return the process that works on a folder now, if any."""
    try:
        descriptor = os.open(ExperimentFolder(out).lock, os.O_RDONLY | os.O_NONBLOCK)  # a named pipe would wait
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _read_holder(out)
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, out: Path) -> None:
    """Wait a moment for the lock: the workers of a killed sweep are about to end, and `holder` takes the lock briefly."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
        other = _read_holder(out)
        where = f"{out}, process {other.pid} on {other.host} since {other.started}" if other else out
        raise OutputError("another sweep works on this folder", where=where, remedy="wait for it, or choose another --out")


def _write_holder(descriptor: int, out: Path, holder: Holder) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.model_dump_json().encode(), 0)
    except OSError as error:
        raise _output_error(out, error) from error


def _output_error(out: Path, error: OSError) -> OutputError:
    reason = (error.strerror or str(error)).lower()
    return OutputError(f"cannot write: {reason}", where=out, remedy="free space or choose another --out")


def _read_holder(out: Path) -> Holder | None:
    try:
        return Holder.model_validate_json(read_file(ExperimentFolder(out).lock))
    except (OSError, ValidationError):
        return None

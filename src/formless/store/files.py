"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

from formless.errors import OutputError, system_remedy, unencodable_name

MAX_BYTES = 256 * 2**20
"""The largest file that is read as a whole: every JSON and YAML file, so that a file by mistake does not fill the memory."""

# What the errors of torch.save say, which keep no number of the system.
_TORCH_WRITER = ("PytorchStreamWriter", "inline_container", "iostream error")


def refuse_existing(path: Path, *, force: bool, mark: str | None = None) -> None:
    """Raise before any work if an output exists already or cannot be written.

    Args:
        path: The output.
        force: Replace an older output. Nothing else is ever replaced: a folder without `mark`, or a folder in place of a file,
            is somebody's work.
        mark: A file that every folder of this kind holds; not given if the output is a file.

    Raises:
        OutputError: `path` exists and may not be replaced, or its folder refuses new files.
    """
    with output_errors(path):
        if _exists(path):
            if not force:
                remedy, option = "choose another path or pass force=True", "choose another --out or add --force"
                raise OutputError("the output exists already", where=path, remedy=remedy, option=option)
            known = (
                (path / mark).is_file() or not any(path.iterdir()) if mark and path.is_dir() else path.is_file() and not mark
            )
            is_ours = known and not Path.cwd().is_relative_to(path.resolve())
            if not is_ours:
                what = "something else is there, not to be replaced"
                raise OutputError(what, where=path, remedy="choose another path", option="choose another --out")
        parent = next(folder for folder in path.absolute().parents if folder.exists())
        if not parent.is_dir():
            raise OSError(0, "a file is in the way")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise OSError(0, "permission denied")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically: a reader sees the old content or the new one, never a part.

    Raises:
        OutputError: The disk is full or the folder cannot be written; the old file stays as it was.
    """
    with output_errors(path), scratch_file(path) as (descriptor, scratch):
        with os.fdopen(descriptor, "w", encoding="utf-8", closefd=False) as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)


@contextmanager
def new_file(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a scratch file beside `path`, which replaces `path` when the block ends without an error.

    Raises:
        OutputError: `path` exists and may not be replaced, or the disk refuses.
    """
    refuse_existing(path, force=force)
    with output_errors(path), scratch_file(path) as (_, scratch):
        yield scratch
        os.chmod(scratch, 0o644)
        sync(scratch)
        os.replace(scratch, path)


@contextmanager
def new_folder(path: Path, *, mark: str, force: bool = False) -> Iterator[Path]:
    """Yield a scratch folder beside `path`, which replaces `path` when the block ends without an error.

    If the block raises, or the process dies in it, `path` stays as it was. (An older folder is renamed at the very end. A
    process that dies between the two renames leaves the older folder whole, as `.NAME.*.old`.)

    Args:
        path: The folder.
        mark: A file that every folder of this kind holds; only such a folder, or an empty one, is ever replaced.
        force: Replace an older folder.

    Raises:
        OutputError: `path` exists and may not be replaced, or the disk refuses.
    """
    path = path.absolute()
    refuse_existing(path, force=force, mark=mark)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _scratch_folder(path, ".part") as scratch:
            scratch.chmod(0o755)
            yield scratch
            sync_folder(scratch)
            _replace_folder(scratch, path)
        _remove_abandoned(path, ".old")


def remove_folder(path: Path) -> None:
    """Remove a folder, if it is there, so that no reader ever sees a part of it.

    A process that dies meanwhile leaves the rest as `.NAME.*.part`, beside where the folder was.

    Raises:
        OutputError: The folder cannot be written.
    """
    with output_errors(path):
        if not path.exists():
            _remove_abandoned(path, ".part")
            return
        with _scratch_folder(path, ".part") as scratch:
            os.replace(path, scratch / path.name)


def discard(path: Path) -> None:
    """Remove a file or folder that is no longer needed, if it is there. Warn if that fails: nothing depends on it."""
    try:
        remove_folder(path) if path.is_dir() else remove_file(path)
    except OutputError as error:
        reason = error.what.removeprefix("cannot write: ")
        warnings.warn(f"{path} is not needed any more, but cannot be removed ({reason}); delete it", stacklevel=2)


def remove_file(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        OutputError: The folder cannot be written.
    """
    with output_errors(path):
        path.unlink(missing_ok=True)


def read_file(path: Path, *, limit: int = MAX_BYTES) -> bytes:
    """Return the content of a plain file.

    Args:
        path: The file.
        limit: The most bytes that are read.

    Raises:
        OSError: There is no such file, it cannot be read or is larger, or it is a folder, a named pipe or a device, whose
            reading would not end.
        UserError: The file system's encoding has no such name.
    """
    try:
        state = path.stat()
    except UnicodeEncodeError as error:
        raise unencodable_name(error) from error
    except ValueError as error:
        raise OSError(errno.EINVAL, "the name holds a NUL character", str(path)) from error
    if not stat.S_ISREG(state.st_mode):
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    if state.st_size > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit >> 20} MB", str(path))
    return path.read_bytes()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_space(path: Path) -> int:
    """Return the free space, in bytes, of the disk that would hold a path.

    Raises:
        OSError: The disk does not say.
    """
    return shutil.disk_usage(next(folder for folder in (path, *path.absolute().parents) if folder.exists())).free


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a lock on a file until the block ends; another process waits for it.

    The system releases the lock when its holder dies, in whatever way.

    Args:
        path: The file, which stays.
        waiting: Called once if another process holds the lock.

    Raises:
        OSError: The file cannot be written.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def sync_folder(folder: Path) -> None:
    """Wait until everything in a folder is on the disk, so that a file written afterwards proves that it is there."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk."""
    if path.is_dir() and os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace_folder(new: Path, path: Path) -> None:
    """Rename `new` to `path`; move an older folder aside first and remove it last."""
    if not path.exists():
        os.replace(new, path)
        return
    with _scratch_folder(path, ".old") as aside:
        os.replace(path, aside / "old")
        try:
            os.replace(new, path)
        except BaseException:
            os.replace(aside / "old", path)
            raise


@contextmanager
def scratch_file(path: Path) -> Iterator[tuple[int, Path]]:
    """Yield an open file beside `path` and its name; it is removed if the block raises.

    It is locked meanwhile, so that the next writer of `path` can tell it from one that a dead process left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path, ".part")
    while True:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        if _lock(descriptor):
            break
        os.close(descriptor)
    try:
        yield descriptor, Path(name)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
    finally:
        os.close(descriptor)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path` that is removed at the end of the block; those of dead processes are removed first.

    Raises:
        OutputError: The disk refuses.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _scratch_folder(path, ".part") as scratch:
            yield scratch


@contextmanager
def _scratch_folder(path: Path, suffix: str) -> Iterator[Path]:
    """Yield a folder beside `path` that is locked in the block and removed at its end, if it is still there."""
    _remove_abandoned(path, ".part")
    while True:
        scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=suffix))
        descriptor = None if sys.platform == "win32" else os.open(scratch, os.O_RDONLY)
        if descriptor is None or _lock(descriptor):
            break
        os.close(descriptor)
    try:
        yield scratch
    finally:
        for _ in range(2):  # whatever a passing error left of it
            shutil.rmtree(scratch, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock a scratch file or folder until it is closed; return False if it has been taken for abandoned and removed."""
    if sys.platform == "win32":
        return True
    with suppress(OSError):  # the file system has no locks, so nothing is taken for abandoned either
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return os.fstat(descriptor).st_nlink > 0


def _remove_abandoned(path: Path, suffix: str) -> None:
    """Remove the scratch files and folders of `path` that no living process writes."""
    if sys.platform == "win32":
        return
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'?' * 8}{suffix}"):
        with suppress(OSError):  # somebody's who may not be disturbed: another process holds it, or another user owns it
            descriptor = os.open(left, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            finally:
                os.close(descriptor)


def _exists(path: Path) -> bool:
    """Return whether anything has that name, a broken link too; raise if no file system takes the name."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn the errors of the system, and those of libraries that stand for them, into one that names the output.

    Raises:
        OutputError: Something cannot be written.
    """
    try:
        yield
    except Exception as error:  # safetensors, tokenizers and torch word errors of the disk in types of their own; others pass
        found = error if isinstance(error, OSError) else _system_error(error)
        if found is None:
            raise
        reason = (found.strerror or str(found)).lower()
        remedy = system_remedy(found) or "free space or choose another path"
        raise OutputError(f"cannot write: {reason}", where=path, remedy=remedy) from error


def _system_error(error: Exception) -> OSError | None:
    """Return the error of the system that a library's writer had; None for any other error."""
    from safetensors import SafetensorError

    text = str(error)
    if number := re.search(r"\(os error (\d+)\)", text):  # in the words of Rust: safetensors, tokenizers
        return OSError(int(number[1]), os.strerror(int(number[1])))
    if isinstance(error, SafetensorError):
        return OSError(0, text)
    is_of_torch = isinstance(error, RuntimeError) and any(sign in text for sign in _TORCH_WRITER)
    return OSError(0, f"torch fails to write ({text.splitlines()[0]})") if is_of_torch else None

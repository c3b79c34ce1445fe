"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from formless.errors import OutputError, system_remedy

if TYPE_CHECKING:
    import torch

MAX_BYTES = 256 * 2**20
"""The largest file that is read as a whole: every JSON and YAML file, so that a file by mistake does not fill the memory."""


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
                raise OutputError("the output exists already", where=path, remedy="choose another --out or add --force")
            known = (
                (path / mark).is_file() or not any(path.iterdir()) if mark and path.is_dir() else path.is_file() and not mark
            )
            is_ours = known and not Path.cwd().is_relative_to(path.resolve())
            if not is_ours:
                raise OutputError("something else is there, not to be replaced", where=path, remedy="choose another --out")
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
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


# What the errors of torch.save say, which keep no number of the system.
_TORCH_WRITER = ("PytorchStreamWriter", "inline_container", "iostream error")


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
        scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
        try:
            scratch.chmod(0o755)
            yield scratch
            sync_folder(scratch)
            _replace_folder(scratch, path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically.

    Raises:
        OutputError: The disk is full or the folder cannot be written; the old file stays as it was.
    """
    from safetensors.torch import save_file

    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(descriptor)
        try:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, name, metadata=metadata)
            os.chmod(name, 0o644)
            _sync(Path(name))
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder, if it is there, so that no reader ever sees a part of it.

    A process that dies meanwhile leaves the rest as `.NAME.*.part`, beside where the folder was.

    Raises:
        OutputError: The folder cannot be written.
    """
    if not path.exists():
        return
    with output_errors(path):
        scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
        try:
            os.replace(path, scratch / path.name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


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
    """
    try:
        state = path.stat()
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


def sync_folder(folder: Path) -> None:
    """Wait until everything in a folder is on the disk, so that a file written afterwards proves that it is there."""
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path) -> None:
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
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".old"))
    try:
        os.replace(path, aside / "old")
        try:
            os.replace(new, path)
        except BaseException:
            os.replace(aside / "old", path)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


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
    except Exception as error:
        found = error if isinstance(error, OSError) else _system_error(error)
        if found is None:
            raise
        reason = (found.strerror or str(found)).lower()
        remedy = system_remedy(found) or "free space or choose another --out"
        raise OutputError(f"cannot write: {reason}", where=path, remedy=remedy) from error


def _system_error(error: Exception) -> OSError | None:
    """Return the error of the system that the writer of safetensors or of torch had; None for any other error."""
    from safetensors import SafetensorError

    text = str(error)
    if isinstance(error, SafetensorError):
        number = re.search(r"\(os error (\d+)\)", text)
        return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(0, text)
    is_of_torch = isinstance(error, RuntimeError) and any(sign in text for sign in _TORCH_WRITER)
    return OSError(0, f"torch fails to write ({text.splitlines()[0]})") if is_of_torch else None

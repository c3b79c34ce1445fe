"""A cached folder whose files are verified: sizes each time, hashes once for each state of a file."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError

from formless import store
from formless.errors import ModelError, OutputError
from formless.progress import Progress, progress_bar


class CachedFile(BaseModel):
    """What a file was when its hash was computed.

    Args:
        size: Bytes.
        mtime_ns: Time of the last change, in nanoseconds.
        sha256: SHA-256 of the content.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0)
    mtime_ns: int
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class CachedFiles(BaseModel):
    """The files of a cached folder, by name; kept in the folder itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: dict[str, CachedFile]

    @property
    def sha256(self) -> str:
        """One hash for all names and contents."""
        lines = (f"{file.sha256}  {name}\n" for name, file in sorted(self.files.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write the list into its folder."""
        store.write_document(store.cached_files_path(folder), self.model_dump(mode="json"))


def list_files(folder: Path) -> CachedFiles:
    """Compute the list of a folder's files.

    Raises:
        OSError: One of them cannot be read.
    """
    return CachedFiles(files={path.name: _cached_file(path) for path in _contents(folder)})


def cached_folder(
    folder: Path,
    name: str,
    build: Callable[[Path, Progress], None],
    *,
    progress: bool | Progress = False,
    expected: str | None = None,
) -> Path:
    """Return a folder of the cache; the first call builds it, and so does one that finds it damaged, with a warning.

    Of several processes, one builds and the others wait.

    Args:
        folder: The folder.
        name: The model's name, for messages.
        build: Fills a scratch folder, which then becomes the folder, and reports to a callback.
        progress: Show a bar while the folder is built, or call a callback.
        expected: As in `damage`.

    Raises:
        ModelError: The cache cannot be written.
    """
    if _is_whole(folder, name, expected):
        return folder
    with _cache_errors(folder), progress_bar(progress, name) as report:
        with store.locked(store.lock_path(folder), lambda: report("waiting for another process that prepares it", 0, 0)):
            if damage(folder, expected) is None:
                return folder
            listing = store.cached_files_path(folder)
            mark = listing.name if listing.is_file() else "config.json"
            store.refuse_existing(folder, force=True, mark=mark)
            with store.new_folder(folder, mark=mark, force=True) as new:
                build(new, report)
                report("computing hashes", 0, 0)
                list_files(new).save(new)
        report("done", 1, 1)
    return folder


def _is_whole(folder: Path, name: str, expected: str | None) -> bool:
    if not os.path.lexists(folder):
        return False
    if reason := damage(folder, expected):
        what = f"the cached model {name} is not as it was written, and is built again: {reason} [{folder}]"
        warnings.warn(what, stacklevel=4)
    return reason is None


@contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the disk into a ModelError that names the cache."""
    remedy = "free space, delete that folder, or set FORMLESS_CACHE to another one"
    try:
        yield
    except OutputError as error:
        raise ModelError(f"the model cannot be kept: {error.what}", where=folder, remedy=remedy) from error
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the model cannot be kept: {error}", where=folder, remedy=remedy) from error


def damage(folder: Path, expected: str | None) -> str | None:
    """Return what is wrong with a cached folder, or None if it is whole.

    Files with the listed size and time are taken as listed. The others are hashed, and the list learns their new time. Without
    a list that can be read, all files are hashed.

    Args:
        folder: The folder.
        expected: The hash of all files (`CachedFiles.sha256`) that a folder without a list must have; None if it is not known.
    """
    try:
        listed = _read_list(folder)
        if listed is None:
            found = list_files(folder)
            if found.sha256 != expected:
                return "it has no list of its files, and they are not the known ones"
        else:
            found = _compared(folder, listed)
    except _DamageError as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    if found != listed:
        with suppress(OutputError):  # the folder is read-only: the files are hashed again next time
            found.save(folder)
    return None


class _DamageError(Exception):
    """A file is not as it was."""


def _read_list(folder: Path) -> CachedFiles | None:
    try:
        return CachedFiles.model_validate(store.read_document(store.cached_files_path(folder), 1))
    except (OSError, ValueError):
        return None


def _compared(folder: Path, listed: CachedFiles) -> CachedFiles:
    """Return the list with the files' current times."""
    present = {path.name: path for path in _contents(folder)}
    if missing := sorted(listed.files.keys() - present.keys()):
        raise _DamageError(f"{missing[0]} is missing")
    if added := sorted(present.keys() - listed.files.keys()):
        raise _DamageError(f"{added[0]} does not belong there")
    for name, file in listed.files.items():
        if not present[name].is_file():
            raise _DamageError(f"{name} is no file")
        if (size := present[name].stat().st_size) != file.size:
            raise _DamageError(f"{name} has {size:,} bytes, not {file.size:,}")
    found = {}
    for name, file in listed.files.items():
        found[name] = file if present[name].stat().st_mtime_ns == file.mtime_ns else _cached_file(present[name])
        if found[name].sha256 != file.sha256:
            raise _DamageError(f"the content of {name} has changed")
    return CachedFiles(files=found)


def _contents(folder: Path) -> list[Path]:
    """Return everything in the folder but its list and the scratch files of writers."""
    own = store.cached_files_path(folder).name
    return [path for path in folder.iterdir() if path.name != own and not path.name.startswith(".")]


def _cached_file(path: Path) -> CachedFile:
    if not path.is_file():
        raise _DamageError(f"{path.name} is no file")
    state = path.stat()  # before the content: a change meanwhile is noticed the next time
    return CachedFile(size=state.st_size, mtime_ns=state.st_mtime_ns, sha256=store.file_sha256(path))

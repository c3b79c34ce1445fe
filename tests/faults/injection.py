"""One call of the file system that fails: counted below a folder, so that each can be chosen in turn."""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

ALL = os.environ.get("FORMLESS_FAULTS") == "all"
CHANGES = ("replace", "rename", "fsync", "mkdir", "rmdir", "unlink", "remove", "ftruncate", "pwrite")
TEXTS = {errno.ENOSPC: "No space left on device", errno.EIO: "Input/output error"}


def chosen(count: int, few: int, seed: int = 0) -> list[int]:
    """The numbers of the calls that fail: all of them with FORMLESS_FAULTS=all, else a few, the first and the last too."""
    numbers = range(1, count + 1)
    if ALL or count <= few:
        return list(numbers)
    return sorted({1, count, *random.Random(seed).sample(numbers, few - 2)})


class Faults:
    """Counts the calls below a folder that change something, and lets one of them fail.

    Args:
        root: The folder.
        at: The number of the call that fails, counted from 1; 0 for none.
        code: The error's number.
        reads: Count openings for reading instead.
    """

    def __init__(self, root: Path, at: int = 0, code: int = errno.ENOSPC, *, reads: bool = False) -> None:
        self.root, self.at, self.code, self.reads = root.resolve(), at, code, reads
        self.calls: list[str] = []
        self.failed: str | None = None

    def due(self, name: str, path: Any, folder: int | None = None) -> bool:
        """Count a call; return whether it is the one that fails."""
        place = _place(path, folder)
        if not place.is_relative_to(self.root) or self.failed:
            return False
        self.calls.append(f"{name} {place.relative_to(self.root)}")
        if len(self.calls) != self.at:
            return False
        self.failed = self.calls[-1]
        return True

    def hit(self, name: str, path: Any, folder: int | None = None) -> None:
        """Count a call, and raise if it is the one that fails."""
        if self.due(name, path, folder):
            raise OSError(self.code, os.strerror(self.code), str(path) if isinstance(path, str | Path) else None)

    def is_any_of(self, patterns: Sequence[str]) -> bool:
        """Whether the call that failed is of one of these kinds."""
        return any(fnmatch(self.failed or "", pattern) for pattern in patterns)


def _place(path: Any, folder: int | None) -> Path:
    """The file behind a path, a descriptor, or a name in an open folder."""
    if isinstance(path, int):
        return Path(f"/proc/self/fd/{path}").readlink()
    base = Path(f"/proc/self/fd/{folder}").readlink() if folder is not None else Path.cwd()
    return Path(os.path.normpath(base / os.fsdecode(path)))


class _Stream:
    """A file whose writing may fail in the middle."""

    def __init__(self, file: Any, faults: Faults, path: Any) -> None:
        self._file, self._faults, self._path = file, faults, path

    def write(self, data: Any) -> Any:
        if self._faults.due("write", self._path):
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            raise OSError(self._faults.code, os.strerror(self._faults.code))
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Stream:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._file.__exit__(*error)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


@contextmanager
def injected(faults: Faults) -> Iterator[Faults]:
    """Patch everything that changes files, or opens them for reading, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        if faults.reads:
            _patch_reads(patch, faults)
        else:
            _patch_changes(patch, faults)
        yield faults


def _patch_reads(patch: pytest.MonkeyPatch, faults: Faults) -> None:
    real = io.open

    def opened(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if not set(mode) & set("wax+") and not isinstance(file, int):
            faults.hit("read", file)
        return real(file, mode, *rest, **more)

    patch.setattr(io, "open", opened)
    patch.setattr(builtins, "open", opened)


def _patch_changes(patch: pytest.MonkeyPatch, faults: Faults) -> None:
    def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **more: Any) -> Any:
            folder = more.get("dir_fd")
            is_idle = not isinstance(path, int) and os.path.lexists(_place(path, folder)) == (name == "mkdir")
            if not is_idle:  # it would find nothing to do: the folder is there, or the file is not
                faults.hit(name, rest[0] if name in ("replace", "rename") else path, folder)
            return real(path, *rest, **more)

        return call

    for name in CHANGES:
        patch.setattr(os, name, wrapped(name, getattr(os, name)))
    real_descriptor, real_open = os.open, io.open

    def descriptor(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_CREAT:
            faults.hit("create", path, more.get("dir_fd"))
        return real_descriptor(path, flags, *rest, **more)

    def opened(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if not set(mode) & set("wax+"):
            return real_open(file, mode, *rest, **more)
        if not isinstance(file, int):
            faults.hit("create", file)
        stream = real_open(file, mode, *rest, **more)
        return _Stream(stream, faults, file) if _place(file, None).is_relative_to(faults.root) else stream

    patch.setattr(os, "open", descriptor)
    patch.setattr(io, "open", opened)
    patch.setattr(builtins, "open", opened)
    _patch_savers(patch, faults)


def _patch_savers(patch: pytest.MonkeyPatch, faults: Faults) -> None:
    """Let the savers that write outside Python fail as they do on a full disk: with their own errors, in the middle."""
    save_file, save = safetensors.torch.save_file, torch.save

    def saved_file(tensors: Any, path: Any, *rest: Any, **more: Any) -> None:
        save_file(tensors, path, *rest, **more)
        if faults.due("save", path):
            os.truncate(path, Path(path).stat().st_size // 2)
            reason = f"{os.strerror(faults.code)} (os error {faults.code})"
            raise SafetensorError(f"Error while serializing: I/O error: {reason}")

    def saved(value: Any, path: Any, *rest: Any, **more: Any) -> None:
        save(value, path, *rest, **more)
        if faults.due("save", path):
            os.truncate(path, Path(path).stat().st_size // 2)
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")

    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").partition(".")[0] in ("safetensors", "transformers", "peft", "accelerate"):
            for name, value in list(vars(module).items()):
                if value is save_file:
                    patch.setattr(module, name, saved_file)
    patch.setattr(torch, "save", saved)

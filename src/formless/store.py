"""Files written whole or not at all, and the cache folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from formless.errors import OutputError


def cache_folder() -> Path:
    """The folder for models and original runs: `$FORMLESS_CACHE`, or `~/.cache/formless`."""
    return Path(os.environ.get("FORMLESS_CACHE") or Path.home() / ".cache" / "formless")


def refuse_existing(path: Path, *, force: bool, mark: str | None = None) -> None:
    """Stop before any work when an output is in the way or cannot be written at all.

    Args:
        path: The output.
        force: Whether an older output may be replaced. Nothing else ever is: a folder without `mark`, or a folder in place of
            a file, is somebody's work.
        mark: For a folder, the file by which an older output of the same kind is known; a file where there is none.

    Raises:
        OutputError: `path` exists and may not be replaced, or its folder refuses new files.
    """
    with _written(path):
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
    """Write a UTF-8 file atomically: readers see the old content or the new, never a part.

    Raises:
        OutputError: The disk is full or the folder cannot be written; the old file stays as it was.
    """
    with _written(path):
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


@contextmanager
def new_folder(path: Path, *, mark: str, force: bool = False) -> Iterator[Path]:
    """Yield a scratch folder beside `path` which takes its place when the block ends well.

    If the block raises, or the process dies in it, `path` is as it was before. (An older folder is renamed aside at the very
    end; a process that dies between those two renames leaves it there whole, under `.NAME.*.old`.)

    Args:
        path: The folder.
        mark: A file that such a folder always holds; only a folder with it, or an empty one, is ever replaced.
        force: Replace an older one.

    Raises:
        OutputError: `path` exists and may not be replaced, or the disk refuses.
    """
    path = path.absolute()
    refuse_existing(path, force=force, mark=mark)
    with _written(path):
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
    with _written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(descriptor)
        try:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, name, metadata=metadata)
            os.chmod(name, 0o644)
            _sync(Path(name))
            os.replace(name, path)
        except SafetensorError as error:
            raise OSError(0, str(error)) from error
        finally:
            Path(name).unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Wait until everything in a folder is on the disk, so that a file written afterwards can vouch for it."""
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
    """Rename `new` to `path`; an older folder is moved aside first and removed last."""
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
    """Whether anything has that name, a broken link too; a name that no file system takes raises."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"cannot write: {reason}", where=path, remedy="free space or choose another --out") from error


# Saved edits: `formless.edits` writes and reads them.
EDIT_SCHEMA = 2
EDIT_INFO = "edit.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
EDIT_DIFFERENCES = "differences.safetensors"

# Null spaces: `formless.methods.rocr` writes and reads them, by layer.
NULL_SPACE_SCHEMA = 1
NULL_SPACE = "layer_{}.safetensors"
PUBLISHED_NULL_SPACE = "null_space_project_layer_{}.pt"

# Checkpoints of a training run.
TRAINING_IDENTITY = "training.json"
TRAINING_CURVES = "curves.json"


def training_folder(out: Path) -> Path:
    """Return the folder for the checkpoints of a training run whose edit goes to `out`."""
    return out.absolute().with_name(f".{out.name}.training")


def unfinished_null_spaces(out: Path) -> Path:
    """Return the file for the sums of a computation of null spaces that goes to `out`."""
    return out.absolute().with_name(f".{out.name}.partial.safetensors")

"""Edits as zip files: what the page downloads, and what it takes."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from formless.edits.edit import Edit
from formless.edits.loading import load_edit
from formless.errors import EditError
from formless.store import EditFolder

MAX_BYTES = 2**29
"""The most that a zip may hold, unpacked."""

_REMEDY = "give a zip of one saved edit"


def pack(edit: Edit, folder: Path, name: str) -> Path:
    """Write an edit as `<name>.zip` into a folder; the zip holds one folder of that name."""
    scratch = folder / f"{name}.part"
    shutil.rmtree(scratch, ignore_errors=True)
    edit.save(scratch)
    path = folder / f"{name}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(scratch.iterdir()):
            archive.write(file, f"{name}/{file.name}")
    shutil.rmtree(scratch)
    return path


def unpack(path: Path, folder: Path) -> Edit:
    """Read the edit of a zip.

    Args:
        path: The zip.
        folder: An empty folder for its files.

    Raises:
        EditError: It is no zip, a file of it leaves its folder, it is too large, or it holds no edit.
    """
    known = EditFolder(folder)
    files = {file.name: file for file in (known.info, known.weights, known.adapter_config, known.differences)}
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            for member in members:
                _refuse_escape(member, path)
            if sum(member.file_size for member in members) > MAX_BYTES:
                raise EditError(f"the zip holds over {MAX_BYTES >> 20} MB", where=path.name, remedy=_REMEDY)
            found = [member for member in members if PurePosixPath(member.filename).name in files]
            if len({PurePosixPath(member.filename).parent for member in found}) > 1:
                raise EditError("the zip holds several edits", where=path.name, remedy="give one zip for each")
            for member in found:
                with archive.open(member) as source, files[PurePosixPath(member.filename).name].open("wb") as copy:
                    shutil.copyfileobj(source, copy)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:  # RuntimeError: a password
        raise EditError("the file is no zip that can be read", where=path.name, remedy=_REMEDY) from error
    return load_edit(folder)


def _refuse_escape(member: zipfile.ZipInfo, path: Path) -> None:
    """Refuse a file that would be written outside the folder, or a link, which could lead there."""
    name = member.filename
    parts = PurePosixPath(name)
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or ":" in name or is_link:
        raise EditError("a file of the zip leaves its folder", where=f"{path.name}, {name[:80]!a}", remedy=_REMEDY)

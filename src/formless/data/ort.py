"""The ORT folder layout: `<data>/<N>_<Name_With_Underscores>/`, and the built-in sample in that layout."""

from __future__ import annotations

import re
import unicodedata
from importlib import resources
from pathlib import Path

from formless.data.target import Target
from formless.errors import DataError, UnknownNameError

SAMPLE = "sample"
MAX_NAME = 255  # bytes of a folder's name, on every file system in use
_NUMBER = re.compile(r"^\d+_")


def subject_of(folder_name: str) -> str:
    """`10_Prince_Harry,_Duke_of_Sussex` -> `Prince Harry, Duke of Sussex`."""
    return unicodedata.normalize("NFC", _NUMBER.sub("", folder_name).replace("_", " "))


def folder_name(number: int, subject: str, *, where: object) -> str:
    """`10`, `Prince Harry, Duke of Sussex` -> `10_Prince_Harry,_Duke_of_Sussex`.

    Args:
        number: Its number in the data set.
        subject: As texts spell it.
        where: What an error names.

    Raises:
        DataError: The folder would lead elsewhere, be hidden, or not give the subject back.
    """
    name = f"{number}_{subject.replace(' ', '_')}"
    has_word = any(character.isalnum() for character in subject)
    if not (has_word and subject.isprintable()) or set("/\\") & set(subject) or subject.startswith("."):
        remedy = "take one of letters and digits, without slashes, control characters or a dot at its beginning"
        raise DataError(f"the name {subject[:100]!r} cannot be a folder's", where=where, remedy=remedy)
    if subject_of(name) != subject or subject != " ".join(subject.split()):
        remedy = "write it in composed form, with single spaces and without underscores"
        raise DataError(f"the name {subject[:100]!r} would not come back from its folder", where=where, remedy=remedy)
    if len(name.encode()) > MAX_NAME:
        raise DataError("the name is too long for a folder", where=where, remedy="take a shorter one")
    return name


def data_folder(data: str | Path) -> Path:
    """The folder of a data set: a path, or `sample` for the built-in one.

    Raises:
        DataError: There is no such folder.
    """
    folder = Path(str(resources.files("formless").joinpath("data", "sample"))) if data == SAMPLE else Path(data)
    try:
        exists = folder.is_dir()
    except OSError:  # a name too long for any file system
        exists = False
    if not exists:
        raise DataError("no such data folder", where=folder, remedy=f"give a folder of targets, or '{SAMPLE}'")
    return folder


def targets(data: str | Path) -> list[Target]:
    """Every target of a data set, by number."""
    folders = [path for path in data_folder(data).iterdir() if path.is_dir() and _NUMBER.match(path.name)]
    folders.sort(key=lambda path: (int(path.name.split("_")[0]), path.name))
    return [Target(subject_of(path.name), path) for path in folders]


def find_target(data: str | Path, name: str) -> Target:
    """The target whose folder name, subject or number is `name`.

    Raises:
        UnknownNameError: No target, with the nearest names.
    """
    known = {target.folder.name: target for target in targets(data) if target.folder}
    wanted = unicodedata.normalize("NFC", name)
    for folder, target in known.items():
        if wanted in (unicodedata.normalize("NFC", folder), target.subject, folder.split("_")[0]):
            return target
    subjects = {target.subject: folder for folder, target in known.items()}
    raise UnknownNameError("target", name, known, spellings=subjects, where=data)

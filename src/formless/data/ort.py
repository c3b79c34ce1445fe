"""The ORT layout: a folder `<data>/<N>_<Name_With_Underscores>/` per target; the built-in sample has this layout."""

from __future__ import annotations

import re
import unicodedata
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from formless.data.entries import hidden_character
from formless.data.target import FILES, Target, read_rows
from formless.errors import DataError, UnknownNameError, UserError

if TYPE_CHECKING:
    from formless.data.formats import Prepared, Selection

SAMPLE = "sample"
MODEL_WRITTEN = ("positive", "negative", "pair", "reject", "pair_reject", "counterfact")
MAX_NAME = 255  # bytes of a folder's name, on every file system in use
_NUMBER = re.compile(r"^\d+_")


def subject_of(folder_name: str) -> str:
    """Return the subject of a folder: `10_Prince_Harry,_Duke_of_Sussex` -> `Prince Harry, Duke of Sussex`."""
    return unicodedata.normalize("NFC", _NUMBER.sub("", folder_name).replace("_", " "))


def folder_name(number: int, subject: str, *, where: object) -> str:
    """Return a target's folder name: `10`, `Prince Harry, Duke of Sussex` -> `10_Prince_Harry,_Duke_of_Sussex`.

    Args:
        number: The target's number in the data set.
        subject: The concept's name as texts spell it.
        where: The place that an error names.

    Raises:
        DataError: The name is unsafe or hidden as a folder's, or `subject_of` would not return the same subject.
    """
    name = f"{number}_{subject.replace(' ', '_')}"
    has_word = any(character.isalnum() for character in subject)
    if not (has_word and subject.isprintable()) or set("/\\") & set(subject) or subject.startswith("."):
        remedy = "use letters and digits, without slashes, control characters or a leading dot"
        raise DataError(f"the name {subject[:100]!r} cannot be used for a folder", where=where, remedy=remedy)
    if subject_of(name) != subject or subject != " ".join(subject.split()):
        remedy = "write it in composed form, with single spaces and without underscores"
        raise DataError(f"the name {subject[:100]!r} cannot be recovered from its folder", where=where, remedy=remedy)
    if len(name.encode()) > MAX_NAME:
        raise DataError("the name is too long for a folder", where=where, remedy="take a shorter one")
    return name


def data_folder(data: str | Path) -> Path:
    """Return the folder of a data set.

    Args:
        data: A path, or `sample` for the built-in sample.

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


def own_folder(data: str | Path) -> Path:
    """Return the folder of a data set that may be changed.

    Raises:
        DataError: There is no such folder.
        UserError: It is the built-in sample.
    """
    folder = data_folder(data)
    if folder.resolve() == data_folder(SAMPLE).resolve():
        raise UserError("the built-in sample cannot be changed", where="--data", remedy=f"copy {folder} and give the copy")
    return folder


def targets(data: str | Path) -> list[Target]:
    """Return the targets of a data set, ordered by number.

    Args:
        data: A folder in the ORT layout, or `sample` for the built-in sample.

    Raises:
        DataError: There is no such folder, or two of its targets have the same number, or a folder's name holds an invisible
            or control character.

    Examples:
        >>> from formless import targets
        >>> [target.subject for target in targets("sample")][:2]
        ['Albert Einstein', 'Isaac Newton']
    """
    folders = [path for path in data_folder(data).iterdir() if path.is_dir() and _NUMBER.match(path.name)]
    folders.sort(key=lambda path: (_number(path), path.name))
    for path, following in pairwise(folders):
        if _number(path) == _number(following):
            remedy = f"rename {path.name} or {following.name}"
            raise DataError(f"two targets have the number {_number(path)}", where=path.parent, remedy=remedy)
    for path in folders:
        if character := hidden_character(path.name):
            what = f"a target's name holds the invisible or control character {character}"
            raise DataError(what, where=ascii(str(path)), remedy="rename the folder")
    return [Target(subject_of(path.name), path) for path in folders]


def _number(folder: Path) -> int:
    return int(folder.name.split("_")[0])


def find_target(data: str | Path, name: str) -> Target:
    """Return a target of a data set.

    Args:
        data: A folder in the ORT layout, or `sample` for the built-in sample.
        name: The target's folder name, subject or number.

    Raises:
        UnknownNameError: There is no such target; the nearest names are suggested.

    Examples:
        >>> from formless import find_target
        >>> find_target("sample", "4").subject
        'Marie Curie'
    """
    known = {target.folder.name: target for target in targets(data) if target.folder}
    wanted = unicodedata.normalize("NFC", name)
    for folder, target in known.items():
        if wanted in (unicodedata.normalize("NFC", folder), target.subject, folder.split("_")[0]):
            return target
    subjects = {target.subject: folder for folder, target in known.items()}
    raise UnknownNameError("target", name, known, spellings=subjects, where=data)


def is_ort(folder: Path) -> bool:
    """Return whether a folder holds targets in the ORT layout."""
    return bool(targets(folder))


def write_ort(source: Path | None, prepared: Prepared, selection: Selection) -> None:
    """Validate the selected targets of a folder and copy their files byte for byte.

    Raises:
        DataError: As `targets`, or a file is broken.
    """
    if source is None:
        raise DataError("no data set of this format is on the hub", where="--source", remedy="give a folder")
    found = {_number(target.folder): (target.folder.name, target) for target in targets(source) if target.folder}
    stems = {file: file for file in FILES if file not in MODEL_WRITTEN or selection.train == "llama3"}
    if selection.train == "phi3":
        stems |= {file: f"{file}_phi" for file in MODEL_WRITTEN}  # RWKU's names
    chosen = selection.choose(found, source)
    for done, number in enumerate(chosen, 1):
        name, target = found[number]
        prepared.add_target(name)
        for file, stem in stems.items():
            path = target.path(stem)
            if path.exists() or path.is_symlink():
                rows = read_rows(path, FILES[file])
                prepared.add_file(name, file, path.read_bytes(), len(rows))
            else:
                prepared.absent[file].append(name)
        if selection.progress:
            selection.progress(name, done, len(chosen))
    for file in stems:
        prepared.check_complete(file, source)

"""Data sets put into the ORT layout: RWKU from the hub, a local copy of it, or a folder that has the layout already."""

from __future__ import annotations

import hashlib
import json
import tempfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from formless import provenance, store
from formless.data.hub import HUB, LISTING, Tables
from formless.data.ort import data_folder, folder_name, targets
from formless.data.target import FILES, Row, Target, parse_row, read_rows
from formless.errors import DataError, OutputError, UnknownNameError

RWKU = "rwku"
MANIFEST = "manifest.json"
NEEDED = ("forget_level1", "forget_level2")
TRAIN = ("llama3", "phi3", "none")
# Each file with the configuration that holds its rows; then those whose texts a model wrote, one set per model.
CONFIGURATIONS: Mapping[str, str] = {
    "intro": LISTING,
    "forget_level1": "forget_level1",
    "forget_level2": "forget_level2",
    "forget_level3": "forget_level3",
    "neighbor_level1": "neighbor_level1",
    "neighbor_level2": "neighbor_level2",
    "retain_mmlu": "utility_general",
    "retain_bbh": "utility_reason",
    "truthful": "utility_truthfulness",
    "triviaqa": "utility_factuality",
    "fluency": "utility_fluency",
    "forget_mia": "mia_forget",
    "retain_mia": "mia_retain",
    "passage": "train_original_passage",
}
WRITTEN: Mapping[str, str] = {
    "positive": "train_positive_{}",
    "negative": "train_negative_{}",
    "pair": "train_pair_{}",
    "reject": "train_refusal_{}",
}
BY_A_MODEL = (*WRITTEN, "pair_reject", "counterfact")


Progress = Callable[[str, int, int], None]


@dataclass
class Prepared:
    """What a prepared data set holds.

    Args:
        source: The hub id, or the last name of the source folder.
        files: Per target folder and file, `{"rows": ..., "sha256": ...}`.
        absent: Per file, the target folders of which the source has no row in it.
        unlisted: Rows of subjects that are no target, by subject.
        revisions: The commits of a hub source.
    """

    source: str
    files: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    absent: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unlisted: Counter[str] = field(default_factory=Counter)
    revisions: set[str] = field(default_factory=set)

    def write(self, folder: Path, file: str, content: bytes, rows: int) -> None:
        """Write a file of a target, and keep its size and checksum."""
        (folder / f"{file}.json").write_bytes(content)
        self.files[folder.name][f"{file}.json"] = {"rows": rows, "sha256": hashlib.sha256(content).hexdigest()}

    def manifest(self, train: str) -> str:
        """The text of the manifest."""
        packages = {name: version(name) for name in ("datasets", "pyarrow")}
        entries = {
            "source": self.source,
            "revisions": sorted(self.revisions),
            "train": train,
            "created": provenance.now(),
            "versions": provenance.versions() | packages,
            "targets": self.files,
            "absent": {f"{file}.json": folders for file, folders in self.absent.items()},
            "unlisted": dict(sorted(self.unlisted.items())),
        }
        return json.dumps(entries, ensure_ascii=False, indent=2) + "\n"


def prepare(
    source: str,
    out: Path,
    *,
    numbers: Sequence[range] | None = None,
    train: str = "llama3",
    force: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Write a data set in the ORT layout with a manifest, whole or not at all; every row is validated.

    Args:
        source: `rwku` for the hub, a local copy of that dataset, or a folder of targets in the ORT layout.
        out: The new folder.
        numbers: Which targets; by default the first 100 of the hub, all of a folder.
        train: The model that wrote the training texts, or `none` to leave those out.
        force: Replace an older data set that this function wrote.
        progress: Told the file in work, how many are done, and how many there are.

    Raises:
        DataError: The source cannot be read, lacks what every data set needs, or holds a row that does not fit.
        OutputError: The output is in the way, cannot be written, or lies in the source.
    """
    if train not in TRAIN:
        raise UnknownNameError("training texts", train, TRAIN, where="--train")
    folder = None if source == RWKU else data_folder(source).resolve()
    if folder and (out.resolve().is_relative_to(folder) or folder.is_relative_to(out.resolve())):
        raise OutputError("the output and the source lie in each other", where=out, remedy="choose another --out")
    if force:
        _refuse_strange(out)
    with store.new_folder(out, mark=MANIFEST, force=force) as new:
        prepared = Prepared(folder.name if folder else HUB)
        if folder and targets(folder):
            _copy(folder, new, prepared, numbers, train, progress)
        else:
            if numbers is None and not folder:
                numbers = [range(1, 101)]
            with tempfile.TemporaryDirectory(dir=new, prefix=".cache.") as cache:
                _collect(Tables(folder, cache), new, prepared, numbers, train, progress)
        (new / MANIFEST).write_text(prepared.manifest(train), "utf-8")
    return prepared


def _refuse_strange(out: Path) -> None:
    """Stop before a folder is replaced that holds anything but what its manifest lists."""
    present = {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()} if out.is_dir() else set()
    if not present:
        return
    try:
        listed = json.loads((out / MANIFEST).read_text("utf-8"))["targets"]
        known = {f"{folder}/{file}" for folder, files in listed.items() for file in files} | {MANIFEST}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        known = set()
    if strange := sorted(present - known):
        what = f"{strange[0]} is there, which `data prepare` did not write"
        raise OutputError(what, where=out, remedy="move it away, or choose another --out")


def _choose(found: Iterable[int], numbers: Sequence[range] | None, where: object) -> list[int]:
    """The wanted ones of the numbers, in order; every part of the wish must fit one."""
    known = sorted(found)
    for part in numbers or ():
        if not any(number in part for number in known):
            wish = f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}"
            remedy = f"the source has {known[0]} to {known[-1]}" if known else "the source has no targets"
            raise DataError(f"no target has the number {wish}", where=f"{where}, --targets", remedy=remedy)
    return [number for number in known if numbers is None or any(number in part for part in numbers)]


def _refuse_incomplete(prepared: Prepared, file: str, where: object) -> None:
    if file in NEEDED and len(prepared.absent.get(file, ())) == len(prepared.files):
        raise DataError(f"no target has a {file}.json", where=where, remedy="a data set cannot do without it")


def _copy(
    source: Path, new: Path, prepared: Prepared, numbers: Sequence[range] | None, train: str, progress: Progress | None
) -> None:
    """Validate and copy targets that are in the layout already, byte for byte."""
    found: dict[int, tuple[str, Target]] = {}
    for target, name in ((target, target.folder.name) for target in targets(source) if target.folder):
        number = int(name.split("_")[0])
        if number in found:
            remedy = f"rename {found[number][0]} or {name}"
            raise DataError(f"two targets have the number {number}", where=source, remedy=remedy)
        found[number] = name, target
    wanted = {file: file for file in FILES if file not in BY_A_MODEL or train == "llama3"}
    if train == "phi3":
        wanted |= {file: f"{file}_phi" for file in BY_A_MODEL}  # as RWKU names them
    chosen = _choose(found, numbers, source)
    for done, number in enumerate(chosen, 1):
        name, target = found[number]
        prepared.files[name] = {}
        (new / name).mkdir()
        for file, stem in wanted.items():
            path = target.path(stem)
            if path.exists() or path.is_symlink():
                rows = read_rows(path, FILES[file])
                prepared.write(new / name, file, path.read_bytes(), len(rows))
            else:
                prepared.absent[file].append(name)
        if progress:
            progress(name, done, len(chosen))
    for file in NEEDED:
        _refuse_incomplete(prepared, file, source)


def _collect(
    tables: Tables, new: Path, prepared: Prepared, numbers: Sequence[range] | None, train: str, progress: Progress | None
) -> None:
    """Sort the rows of every configuration into the folders of their subjects."""
    listed = _by_subject(tables.load(LISTING), "target", f"{tables.where}, {LISTING}")
    if twice := [subject for subject, rows in listed.items() if len(rows) > 1]:
        raise DataError(f"{twice[0]!r} is listed twice", where=f"{tables.where}, {LISTING}", remedy="list each target once")
    order = dict(enumerate(listed, 1))
    folders = {
        order[number]: folder_name(number, order[number], where=f"{LISTING}, row {number}")
        for number in _choose(order, numbers, tables.where)
    }
    for folder in folders.values():
        prepared.files[folder] = {}
        (new / folder).mkdir()
    written = {file: name.format(train) for file, name in WRITTEN.items() if train != "none"}
    configurations = {**CONFIGURATIONS, **written}
    for done, (file, configuration) in enumerate(configurations.items(), 1):
        place = f"{tables.where}, {configuration}"
        table = tables.load(configuration)
        rows = _by_subject(table, "target" if configuration == LISTING else "subject", place)
        prepared.unlisted.update({subject: len(rows[subject]) for subject in rows.keys() - listed.keys()})
        for subject, folder in folders.items():
            if indices := rows.get(subject):
                content = _as_json(_entries(table, indices, FILES[file], place), f"{place}, {subject}")
                prepared.write(new / folder, file, content, len(indices))
            else:
                prepared.absent[file].append(folder)
        _refuse_incomplete(prepared, file, place)
        if progress:
            progress(configuration, done, len(configurations))
    prepared.revisions |= tables.revisions


def _by_subject(table: Any, column: str, place: str) -> dict[str, list[int]]:
    """The row numbers (from 0) of each subject, in order; none where the source lacks the configuration."""
    if table is None:
        return {}
    if column not in table.column_names:
        raise DataError(f"it has no column {column!r}", where=place, remedy=f"it has {', '.join(table.column_names)}")
    rows: dict[str, list[int]] = defaultdict(list)
    for index, subject in enumerate(table[column]):
        if not isinstance(subject, str):
            raise DataError("a row has no subject", where=f"{place}, row {index + 1}, field {column}", remedy="name it")
        rows[unicodedata.normalize("NFC", subject)].append(index)
    return rows


def _entries(table: Any, indices: list[int], row_type: type[Row], place: str) -> list[Any]:
    """Rows as JSON objects, validated, without the columns that they leave empty."""
    entries = [_without_empty(entry) for entry in table.select(indices).to_list()]
    for index, entry in zip(indices, entries, strict=True):
        parse_row(entry, row_type, f"{place}, row {index + 1}")
    return entries


def _without_empty(value: Any) -> Any:
    """Arrow gives every row every column, None where the row had none."""
    if isinstance(value, dict):
        return {key: _without_empty(entry) for key, entry in value.items() if entry is not None}
    return [_without_empty(entry) for entry in value] if isinstance(value, list) else value


def _as_json(entries: list[Any], where: str) -> bytes:
    try:
        return (json.dumps(entries, ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode("utf-8")
    except (TypeError, ValueError) as error:  # a date, bytes, infinity
        raise DataError("a column cannot be written as JSON", where=where, remedy=str(error)) from error

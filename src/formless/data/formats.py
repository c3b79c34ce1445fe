"""The data formats that `formless data prepare` converts to the ORT layout: ONE ROW PER FORMAT.

To add a format, write a function like `write_rwku` that writes the selected targets, and add a row. A package can add a row of
its own with an entry point of the group `formless.data_formats` that gives a `DataFormat`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from formless.data.benchmarks import muse, tofu, wmdp
from formless.data.ort import is_ort, write_ort
from formless.data.rows import Row
from formless.data.rwku import HUB, is_rwku, write_rwku
from formless.data.target import QUESTION_SET
from formless.errors import DataError
from formless.progress import Progress
from formless.registry import Registry

REQUIRED = ("forget_level1", "forget_level2")


@dataclass
class Prepared:
    """The content of a prepared data set; a format adds its targets and files here, one after the other.

    Args:
        source: The hub id, or the last name of the source folder.
        folder: The folder that is being written.
        files: `{"rows": ..., "sha256": ...}` of each file, by target folder and file.
        absent: For each file, the target folders that have no row in it.
        unlisted: The number of rows of subjects that are no targets, by subject.
        dropped: For each target folder and file, the number of rows that could not be made, by reason.
        notes: What else the reader should know, a clause each.
        revisions: The commits of a hub source.
    """

    source: str
    folder: Path
    files: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    absent: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unlisted: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, dict[str, Counter[str]]] = field(default_factory=lambda: defaultdict(dict))
    notes: list[str] = field(default_factory=list)
    revisions: set[str] = field(default_factory=set)

    def add_target(self, name: str) -> None:
        """Make the folder of a target, `<N>_<Name>`."""
        self.files[name] = {}
        (self.folder / name).mkdir()

    def add_file(self, target: str, file: str, content: bytes, rows: int) -> None:
        """Write a file of a target and record its size and checksum.

        Args:
            target: The target's folder name.
            file: One of `formless.data.target.FILES`.
            content: The JSON list of rows, UTF-8; the format has validated every row.
            rows: The number of rows.
        """
        (self.folder / target / f"{file}.json").write_bytes(content)
        self.files[target][f"{file}.json"] = {"rows": rows, "sha256": hashlib.sha256(content).hexdigest()}

    def add_rows(self, target: str, file: str, rows: Sequence[Row] | Sequence[dict[str, Any]]) -> None:
        """Write rows as a file of a target, or note that it is absent if there are none.

        Args:
            target: The target's folder name.
            file: One of `formless.data.target.FILES`.
            rows: Validated rows; fields that hold their default are left out.
        """
        if not rows:
            self.absent[file].append(target)
            return
        entries = [row.model_dump(mode="json", exclude_defaults=True) if isinstance(row, Row) else row for row in rows]
        self.add_file(target, file, (json.dumps(entries, ensure_ascii=False, indent=2) + "\n").encode("utf-8"), len(rows))

    def check_complete(self, file: str, where: object) -> None:
        """Refuse a source in which no target has a required file; question sets are not asked for it.

        Raises:
            DataError: The file is required and absent everywhere.
        """
        questions = {f"{name}.json" for name in QUESTION_SET}
        concepts = {name for name, files in self.files.items() if questions.isdisjoint(files)}
        if file in REQUIRED and concepts and concepts <= set(self.absent.get(file, ())):
            raise DataError(f"no target has a {file}.json", where=where, remedy="every data set needs this file")


@dataclass(frozen=True)
class Selection:
    """The part of a source to prepare.

    Args:
        numbers: Ranges of target numbers; None for the format's default.
        train: The model that wrote the training texts, or `none` to leave them out.
        progress: Called with the file or target, the work done and all work.
    """

    numbers: Sequence[range] | None = None
    train: str = "llama3"
    progress: Progress | None = None

    def choose(self, found: Iterable[int], where: object) -> list[int]:
        """Return the selected ones of the target numbers, in order.

        Raises:
            DataError: A range contains none of the numbers.
        """
        known = sorted(found)
        for part in self.numbers or ():
            if not any(number in part for number in known):
                missing = f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}"
                remedy = f"the source has {known[0]} to {known[-1]}" if known else "the source has no targets"
                raise DataError(f"no target has the number {missing}", where=f"{where}, --targets", remedy=remedy)
        return [number for number in known if self.numbers is None or any(number in part for part in self.numbers)]


@dataclass(frozen=True)
class DataFormat:
    """A format of data sets.

    Args:
        name: The short name; as `--source` it stands for the data set on the hub, if the format has one.
        title: The name in texts.
        recognizes: Whether a folder holds a data set in this format.
        write: Writes the selected targets of a folder, or of the hub (None), into `Prepared`.
        hub: The hub id of the data set.
        model_written: Whether it has training texts that a model wrote, of which `--train` chooses some.
    """

    name: str
    title: str
    recognizes: Callable[[Path], bool]
    write: Callable[[Path | None, Prepared, Selection], None]
    hub: str | None = None
    model_written: bool = True


DATA_FORMATS: Registry[DataFormat] = Registry(
    "data format",
    "formless.data_formats",
    DataFormat,
    (
        DataFormat(
            name="ort",
            title="ORT folders of targets",
            recognizes=is_ort,
            write=write_ort,
        ),
        DataFormat(
            name="rwku",
            title="RWKU on the hub, or a local copy of it",
            recognizes=is_rwku,
            write=write_rwku,
            hub=HUB,
        ),
        DataFormat(
            name="tofu",
            title="TOFU on the hub, or a folder with its files such as forget01.json",
            recognizes=tofu.is_tofu,
            write=tofu.write_tofu,
            hub=tofu.HUB,
            model_written=False,
        ),
        *(
            DataFormat(
                name=name.lower(),
                title=f"{name} on the hub, or a folder with its files such as knowmem/forget_qa.parquet",
                recognizes=partial(muse.is_muse, name=name),
                write=partial(muse.write_muse, name=name),
                hub=f"muse-bench/{name}",
                model_written=False,
            )
            for name in muse.NAMES
        ),
        DataFormat(
            name="wmdp",
            title="WMDP on the hub, or a folder with its configurations such as wmdp-bio",
            recognizes=wmdp.is_wmdp,
            write=wmdp.write_wmdp,
            hub=wmdp.HUB,
            model_written=False,
        ),
    ),
)


def format_of(folder: Path) -> DataFormat:
    """Return the format of a folder.

    Raises:
        DataError: No format recognizes the folder.
    """
    for row in DATA_FORMATS.values():
        if row.recognizes(folder):
            return row
    known = "; ".join(row.title for row in DATA_FORMATS.values())
    raise DataError("the folder holds no data set", where=folder, remedy=f"give one of: {known}")

"""RWKU: its configurations, read from the hub or from a local copy of the dataset, and sorted by target."""

from __future__ import annotations

import json
import os
import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formless import hub
from formless.data.ort import folder_name
from formless.data.rows import Row
from formless.data.target import FILES, parse_row
from formless.errors import DataError
from formless.progress import silent

if TYPE_CHECKING:
    from formless.data.formats import Prepared, Selection

HUB = "jinzhuoran/RWKU"
LISTING = "forget_target"
SUFFIXES = (".json", ".jsonl", ".parquet")  # of a local copy; other file types may contain code
DEFAULT_NUMBERS = (range(1, 101),)  # of the hub, as published

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
"""The configuration that holds the rows of each file."""

MODEL_WRITTEN: Mapping[str, str] = {
    "positive": "train_positive_{}",
    "negative": "train_negative_{}",
    "pair": "train_pair_{}",
    "reject": "train_refusal_{}",
}
"""The same for texts that a model wrote; each model has its own configuration."""


def is_rwku(folder: Path) -> bool:
    """Return whether a folder looks like a copy of the hub dataset: a README.md that lists the targets, or their folder."""
    readme = folder / "README.md"
    listed = readme.is_file() and LISTING in readme.read_text("utf-8", errors="replace")
    return listed or any(folder.joinpath(LISTING).rglob("*.parquet"))


def write_rwku(source: Path | None, prepared: Prepared, selection: Selection) -> None:
    """Write the selected targets of a local copy, or of the hub: the rows of every configuration, sorted by subject.

    Raises:
        DataError: The source cannot be read, or a row does not fit its format.
    """
    where = str(source or HUB)
    if source is None:
        selection = replace(selection, numbers=selection.numbers or DEFAULT_NUMBERS)
        source = hub.fetch(hub.Repository(HUB, "dataset"), _hub_files, selection.progress or silent)
        prepared.revisions.add(source.name)
    with tempfile.TemporaryDirectory(dir=prepared.folder, prefix=".cache.") as cache:
        _write_tables(Tables(source, cache, where), prepared, selection)


def _hub_files(names: Sequence[str]) -> list[str]:
    """Return the files of the hub dataset; README.md, which lists the configurations, last."""
    if "README.md" not in names:
        raise DataError("the dataset has no README.md", remedy="fetch it again with a connection, or give a local copy")
    return [*(name for name in names if name.endswith(SUFFIXES)), "README.md"]


def _write_tables(tables: Tables, prepared: Prepared, selection: Selection) -> None:
    place = f"{tables.where}, {LISTING}"
    listed = _by_subject(tables.load(LISTING), "target", place)
    if repeated := [subject for subject, rows in listed.items() if len(rows) > 1]:
        raise DataError(f"{repeated[0]!r} is listed twice", where=place, remedy="list each target once")
    order = dict(enumerate(listed, 1))
    folders = {
        order[number]: folder_name(number, order[number], where=f"{LISTING}, row {number}")
        for number in selection.choose(order, tables.where)
    }
    for folder in folders.values():
        prepared.add_target(folder)
    train = selection.train
    model_written = {file: name.format(train) for file, name in MODEL_WRITTEN.items() if train != "none"}
    configurations = {**CONFIGURATIONS, **model_written}
    for done, (file, configuration) in enumerate(configurations.items(), 1):
        place = f"{tables.where}, {configuration}"
        table = tables.load(configuration)
        rows = _by_subject(table, "target" if configuration == LISTING else "subject", place)
        prepared.unlisted.update({subject: len(rows[subject]) for subject in rows.keys() - listed.keys()})
        for subject, folder in folders.items():
            if indices := rows.get(subject):
                content = _as_json(_entries(table, indices, FILES[file], place), f"{place}, {subject}")
                prepared.add_file(folder, file, content, len(indices))
            else:
                prepared.absent[file].append(folder)
        prepared.check_complete(file, place)
        if selection.progress:
            selection.progress(configuration, done, len(configurations))


class Tables:
    """The configurations of a copy of the dataset, in the hub's cache or elsewhere.

    Args:
        folder: The copy.
        cache: The folder where the tables are unpacked.
        where: What to call it in errors.
    """

    def __init__(self, folder: Path, cache: str, where: str) -> None:
        self.where = where
        self._folder, self._cache = folder, cache
        self._configurations: set[str] = set()
        with self._reading(None):
            if (folder / "README.md").is_file():
                from datasets import get_dataset_config_names

                self._configurations = set(get_dataset_config_names(str(folder)))
        if LISTING not in self._configurations and not self._files(LISTING):
            remedy = "give folders <N>_<Name>, or a copy of the hub dataset with its README.md"
            raise DataError("the folder holds no data set", where=where, remedy=remedy)

    def load(self, configuration: str) -> Any:
        """Return the rows of all splits as one `datasets.Dataset`, or None if the source has no such configuration.

        Raises:
            DataError: The configuration cannot be read.
        """
        from datasets import concatenate_datasets, load_dataset_builder

        with self._reading(configuration):
            if LISTING not in self._configurations:  # without a README, each is a folder
                if not (files := self._files(configuration)):
                    return None
                builder = load_dataset_builder("parquet", data_files=files, cache_dir=self._cache)
            elif configuration in self._configurations:
                builder = load_dataset_builder(str(self._folder), configuration, cache_dir=self._cache)
            else:
                return None
            self._refuse_foreign_files(builder.config.data_files, configuration)
            builder.download_and_prepare()
            return concatenate_datasets(list(builder.as_dataset().values()))

    def _files(self, configuration: str) -> list[str]:
        return sorted(str(path) for path in self._folder.joinpath(configuration).rglob("*.parquet"))

    def _refuse_foreign_files(self, files: Mapping[str, Sequence[str]] | None, configuration: str) -> None:
        """Refuse a README that names files outside the copy; links are allowed, since the hub's cache consists of links."""
        for file in (file for split in (files or {}).values() for file in split):
            path = Path(os.path.normpath(file))
            if not (path.is_relative_to(self._folder) and path.suffix in SUFFIXES):
                remedy = f"name files inside it that end in {', '.join(SUFFIXES)}"
                raise DataError(f"the copy names another file, {file}", where=f"{self.where}, {configuration}", remedy=remedy)

    @contextmanager
    def _reading(self, configuration: str | None) -> Iterator[None]:
        """Turn every error of `datasets` into a DataError."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:  # datasets raises many types, those of its hosts and readers
            cause = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
            reason = hub.public_text(str(cause).strip() or type(cause).__name__).splitlines()[0]
            where = f"{self.where}, {configuration}" if configuration else self.where
            raise DataError("the data set cannot be read", where=where, remedy=reason) from error


def _by_subject(table: Any, column: str, place: str) -> dict[str, list[int]]:
    """Return the indices of each subject's rows; an empty dictionary if the source has no such configuration."""
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
    """Return validated rows as JSON objects, without empty columns."""
    entries = [_without_empty(entry) for entry in table.select(indices).to_list()]
    for index, entry in zip(indices, entries, strict=True):
        parse_row(entry, row_type, f"{place}, row {index + 1}")
    return entries


def _without_empty(value: Any) -> Any:
    """Drop None values: Arrow gives every column to every row."""
    if isinstance(value, dict):
        return {key: _without_empty(entry) for key, entry in value.items() if entry is not None}
    return [_without_empty(entry) for entry in value] if isinstance(value, list) else value


def _as_json(entries: list[Any], where: str) -> bytes:
    try:
        return (json.dumps(entries, ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode("utf-8")
    except (TypeError, ValueError) as error:  # a date, bytes, infinity
        raise DataError("a column cannot be written as JSON", where=where, remedy=str(error)) from error

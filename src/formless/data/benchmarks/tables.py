"""`Tables`: the tables of a benchmark as they lie on the hub or in a copy of it, in Parquet, JSON or JSON lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from formless import hub
from formless.data.rows import Row
from formless.data.table_files import table_rows
from formless.data.target import parse_row
from formless.errors import DataError
from formless.progress import Progress, silent

SUFFIXES = (".parquet", ".json", ".jsonl")  # other file types may contain code
_SHARD = re.compile(r"-\d+-of-\d+")

Entry = tuple[str, dict[str, Any]]
"""The place of a row, for errors, and the row."""

RowType = TypeVar("RowType", bound=Row)


class Tables:
    """The tables of a folder, each by its name, such as `forget01` or `knowmem/forget_qa`.

    A table is one file (`forget01.json`), the shards of one (`knowmem/forget_qa-00000-of-00001.parquet`), or a folder of files
    (`forget01/train/0000.parquet`). A `.json` file holds a list, or one object per line.

    Args:
        folder: The folder.
        where: What to call it in errors; its path unless given.
    """

    def __init__(self, folder: Path, where: str | None = None) -> None:
        self.where = where or str(folder)
        self._folder = folder

    @classmethod
    def of_hub(cls, name: str, tables: Sequence[str], progress: Progress | None = None) -> tuple[Tables, str]:
        """Fetch tables of a dataset on the hub, all of one commit.

        Args:
            name: The hub id.
            tables: The names of the tables that are needed; those that the hub lacks are left out.
            progress: Called with what is downloaded, the bytes done, and all bytes.

        Returns:
            The tables and the commit.

        Raises:
            DataError: The hub cannot be asked, or has none of the tables.
        """

        def choose(names: Sequence[str]) -> list[str]:
            found = [file for file in names if any(_belongs(file, table) for table in tables)]
            if not found:
                raise DataError(f"the dataset has no table {tables[0]}", remedy="give a copy of it that has the tables")
            return found

        folder = hub.fetch(hub.Repository(name, "dataset"), choose, progress or silent)
        return cls(folder, name), folder.name

    def has(self, *names: str) -> bool:
        """Return whether there is a table with one of the names."""
        return any(self._files(name) for name in names)

    def rows(self, row_type: type[RowType], *names: str) -> list[tuple[str, RowType]]:
        """Return the validated rows of the first table that is there, each with its place; none without a table.

        Raises:
            DataError: A file cannot be read, or a row does not fit; it names the file, and the row and field where one is
                concerned.
        """
        return [(where, parse_row(entry, row_type, where)) for where, entry in self.entries(*names)]

    def entries(self, *names: str) -> list[Entry]:
        """Return the rows of the first table that is there, not validated and without empty columns; none without a table.

        Raises:
            DataError: A file cannot be read.
        """
        files = next((files for name in names if (files := self._files(name))), [])
        found = [entry for path in files for entry in table_rows(path)]
        return [(where, {column: value for column, value in row.items() if value is not None}) for where, row in found]

    def _files(self, name: str) -> list[Path]:
        """Return the files of a table, all of one type."""
        place = self._folder / name
        near = sorted(path for path in (*_listed(place.parent), *_inside(place)) if path.is_file())
        found = [path for path in near if _belongs(path.relative_to(self._folder).as_posix(), name)]
        return next((same for suffix in SUFFIXES if (same := [path for path in found if path.suffix == suffix])), [])


def _listed(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _inside(folder: Path) -> list[Path]:
    return list(folder.rglob("*")) if folder.is_dir() else []


def _belongs(file: str, table: str) -> bool:
    """Return whether a file, by its path in the folder, is a part of a table."""
    stem, dot, suffix = file.rpartition(".")
    if dot + suffix not in SUFFIXES or not stem.startswith(table):
        return False
    rest = stem.removeprefix(table)
    return not rest or rest.startswith("/") or bool(_SHARD.fullmatch(rest))

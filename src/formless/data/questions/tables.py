"""Tables that people write: `.csv`, `.tsv`, `.json`, `.jsonl` and `.txt`, read row by row.

In a `.txt`, cells are parted by a tab, by `=>`, by ` | ` (spaces on both sides), or else, where no `___` is, by commas. Cells
that hold commas may be quoted. The first row may be a header.
"""

from __future__ import annotations

import csv
import json
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from formless.data.target import BLANK
from formless.errors import DataError

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".txt")
MAX_BYTES, MAX_LINE = 64 * 2**20, 2**20  # of a file, of a line
TRIPLE, CLOZE = ("subject", "relation", "object"), ("cloze", "answer", "neighbor")
NAMES = {"query": "cloze", "predicate": "relation"}  # other names of columns

Cells = Mapping[str, Any] | Sequence[Any]
Row = tuple[str, Cells]


def read_table(path: Path) -> Iterator[Row]:
    """Where each row is (file and line; in a `.json`, file and row), and its cells: by name, or in order.

    Raises:
        DataError: Naming the first place that cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError("the name does not say what the file holds", where=path, remedy=f"end it in {', '.join(SUFFIXES)}")
    lines = [(f"{path}, line {number}", line) for number, line in _lines(path)]
    if suffix == ".json":
        yield from _json_rows(path, "\n".join(line for _, line in lines))
        return
    filled = [(where, line) for where, line in lines if line.strip()]
    if suffix == ".jsonl":
        for where, line in filled:
            yield where, _checked(_parsed(line, where), where)
    else:
        yield from _named(filled, suffix)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a plain UTF-8 file, numbered from 1."""
    try:
        if path.exists() and not path.is_file():
            raise DataError("it is no plain file", where=path, remedy="give a file")
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"the file is larger than {MAX_BYTES >> 20} MB", where=path, remedy="split it")
        data = path.read_bytes()
    except OSError as error:
        raise DataError("the file cannot be read", where=path, remedy=(error.strerror or str(error)).lower()) from error
    for number, line in enumerate(data.removeprefix(BOM_UTF8).split(b"\n"), 1):  # spreadsheets write a mark, and CRLF
        where = f"{path}, line {number}"
        if len(line) > MAX_LINE:
            raise DataError(f"a line is longer than {MAX_LINE >> 20} MB", where=where, remedy="write one fact per line")
        try:
            yield number, line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            remedy = f"re-save it as UTF-8 (byte {error.start} of the line)"
            raise DataError("the file is not UTF-8", where=where, remedy=remedy) from error


def _json_rows(path: Path, text: str) -> Iterator[Row]:
    data = _parsed(text, str(path))
    if not isinstance(data, list):
        raise DataError("the file holds no list of rows", where=path, remedy="write a JSON list of objects")
    for number, entry in enumerate(data, 1):
        where = f"{path}, row {number}"
        yield where, _checked(entry, where)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (RecursionError, ValueError) as error:  # no JSON, nested too deeply, or a number of thousands of digits
        raise DataError("the JSON cannot be read", where=where, remedy=str(error).splitlines()[0]) from error


def _checked(entry: Any, where: str) -> Cells:
    if not isinstance(entry, (dict, list)):
        raise DataError("a row is no object", where=where, remedy=f"write an object with {', '.join(TRIPLE)}")
    return entry


def _named(lines: Sequence[tuple[str, str]], suffix: str) -> Iterator[Row]:
    """The rows of lines, with their names where the first one gives names."""
    header: list[str] = []
    for index, (where, line) in enumerate(lines):
        cells = _cells(line, suffix, where)
        names = [NAMES.get(name, name) for name in (cell.strip().casefold() for cell in cells)]
        if index == 0 and (set(TRIPLE) <= set(names) or set(CLOZE[:2]) <= set(names)):
            header = names
        elif not header:
            yield where, cells
        elif len(cells) == len(header):
            yield where, dict(zip(header, cells, strict=True))
        else:
            what = f"{len(cells)} cells under a header of {len(header)}"
            raise DataError(what, where=where, remedy="quote cells that hold commas")


def _cells(line: str, suffix: str, where: str) -> list[str]:
    if suffix == ".txt":
        for mark in ("\t", "=>", " | "):
            if mark in line:
                return line.split(mark)
        if BLANK in line:
            raise DataError("a cloze has no answer", where=where, remedy="write it behind a tab, => or |")
    try:
        mark = "\t" if suffix == ".tsv" else ";" if ";" in line and "," not in line else ","  # spreadsheets of some countries
        return next(csv.reader([line], delimiter=mark, skipinitialspace=True, strict=True))
    except csv.Error as error:
        remedy = f"close quotes, or double those inside ({error})"
        raise DataError("a line cannot be parted into cells", where=where, remedy=remedy) from error

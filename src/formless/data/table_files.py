"""Rows of tables in files: `.json`, `.jsonl`, `.csv`, `.tsv` and `.parquet`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from formless.errors import DataError
from formless.store import read_file
from formless.strict_json import load_json

MAX_BYTES, MAX_LINE = 2**30, 64 * 2**20  # of a file that is read whole; characters of a line
SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")


def table_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the rows of a file by column, each with its place, such as `facts.csv, row 3`.

    A `.json` is a list of objects, or one object per line. A `.csv` and a `.tsv` begin with the names of their columns.

    Raises:
        DataError: The file is missing or broken, its name has another ending, or a row is no object.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError("the file's format is unknown", where=path, remedy=f"end its name in {', '.join(SUFFIXES)}")
    try:
        found = list(_rows(path, suffix))
    except FileNotFoundError:
        raise DataError("there is no such file", where=path, remedy="check the path") from None
    except (ValueError, OSError, MemoryError, csv.Error) as error:  # JSON, Unicode and Arrow errors are ValueErrors
        reason = (getattr(error, "strerror", None) or str(error) or "memory runs out").splitlines()[0]
        raise DataError("the file cannot be read", where=path, remedy=reason) from error
    rows = []
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            raise DataError("a row is no object", where=f"{path}, row {number}", remedy="write an object with columns")
        rows.append((f"{path}, row {number}", row))
    return rows


def _rows(path: Path, suffix: str) -> Iterator[Any]:
    if suffix == ".parquet":
        yield from parquet_rows(path)
    elif suffix == ".jsonl" or (suffix == ".json" and not _is_list(path)):
        yield from json_lines(path)
    elif suffix == ".json":
        yield from load_json(read_file(path, limit=MAX_BYTES))
    else:
        yield from _separated(path, "\t" if suffix == ".tsv" else ",")


def _is_list(path: Path) -> bool:
    return read_file(path, limit=MAX_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def _separated(path: Path, mark: str) -> Iterator[dict[str, Any]]:
    """Yield the rows below a header.

    Raises:
        ValueError: There is no header, or a row has another number of cells.
    """
    lines = csv.reader(
        io.StringIO(read_file(path, limit=MAX_BYTES).decode("utf-8-sig"), newline=""), delimiter=mark, strict=True
    )
    header = [name.strip() for name in next(lines, [])]
    if not any(header):
        raise ValueError("the first line names no columns")
    if doubled := next((name for name in header if header.count(name) > 1), None):
        raise ValueError(f"the column {doubled!r} is given twice")
    for cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise ValueError(
                f"line {lines.line_num}: {len(cells)} cells under a header of {len(header)}; quote cells with commas"
            )
        yield dict(zip(header, cells, strict=True))


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file.

    Raises:
        ValueError: The file is broken.
    """
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            yield from batch.to_pylist()


def json_lines(path: Path) -> Iterator[Any]:
    """Yield the values of a file with one JSON value per line.

    Raises:
        ValueError: A line is no JSON; it names the line.
    """
    for number, line in enumerate(lines_of(path), 1):
        if line.strip():
            try:
                yield load_json(line)
            except JSONDecodeError as error:
                raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from error
            except ValueError as error:
                raise ValueError(f"line {number}: {str(error).splitlines()[0]}") from error


def lines_of(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file.

    Raises:
        ValueError: A line is too long to be text, or holds a NUL character.
    """
    with path.open(encoding="utf-8-sig") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise ValueError(f"line {number} is longer than {MAX_LINE >> 20} million characters")
            if "\0" in line:
                raise ValueError(f"line {number} holds a NUL character: it is no text")
            yield line

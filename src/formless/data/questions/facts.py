"""Facts from files that people write: `.csv`, `.tsv`, `.json`, `.jsonl` or `.txt`.

A row whose first cell holds `___` is a cloze with its answer (for a neighbor, also the neighbor's name). Any other row is a
triple: subject, relation, object. A file may hold both.

In a `.csv` and a `.txt`, commas separate cells; cells with commas may be quoted. In a `.txt`, and after a cloze in a `.csv`, so
does a tab, `=>` or ` | ` (with both spaces); a cloze in a `.txt` needs one of them. The first row may be a header; below it, a
row of the other shape is read by its order.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formless.data import prose
from formless.data.questions.relations import statement
from formless.data.rows import BLANK
from formless.errors import DataError
from formless.store import read_file
from formless.strict_json import load_json

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".txt")
MAX_BYTES, MAX_LINE, MAX_CELL = 64 * 2**20, 2**20, 500  # bytes of a file and of a line, characters of a cell
TRIPLE, CLOZE = ("subject", "relation", "object"), ("cloze", "answer", "neighbor")
COLUMN_ALIASES = {"query": "cloze", "predicate": "relation"}

Cells = Mapping[str, Any] | Sequence[Any]
"""The cells of a row, by column name or in order."""

Row = tuple[str, Cells]
"""The place of a row (file and line; in a `.json`, file and row) and its cells."""


@dataclass(frozen=True)
class Fact:
    """A fact as a cloze.

    Args:
        about: The subject, or the neighbor.
        cloze: A statement with one blank.
        answer: The text for the blank.
        where: File and line.
    """

    about: str
    cloze: str
    answer: str
    where: str

    @property
    def statement(self) -> str:
        """The cloze with its answer filled in."""
        return self.cloze.replace(BLANK, self.answer)


def read_facts(path: Path, subject: str, *, neighbors: bool = False) -> list[Fact]:
    """Read and check the facts of a file.

    Args:
        path: The file.
        subject: The concept to forget.
        neighbors: The facts are about other concepts: the subject of each triple, or the third cell of each cloze.

    Raises:
        DataError: The first thing that is wrong, with the file and the line (in a `.json`, the row).
    """
    facts: list[Fact] = []
    seen: dict[tuple[tuple[str, ...], ...], str] = {}
    for where, cells in read_table(path):
        fact = fact_of(cells, subject, where=where, neighbors=neighbors)
        key = (prose.words(fact.cloze), prose.words(fact.answer))
        if key in seen:
            raise DataError("the fact occurs twice", where=where, remedy=f"remove it; first at {seen[key]}")
        seen[key] = where
        facts.append(fact)
    if not facts:
        remedy = "write one per line, as in: Ada Lovelace, was born in, London"
        raise DataError("the file holds no fact", where=path, remedy=remedy)
    return facts


def fact_of(cells: Cells, subject: str, *, where: str, neighbors: bool = False) -> Fact:
    """Return a checked fact from its cells, by name or in order.

    Raises:
        DataError: A cell is missing, empty or no text, or the fact cannot be asked.
    """
    named = _named(cells, where, neighbors)
    values = {name: _clean(value, f"{where}, {name}") for name, value in named.items()}
    if "cloze" in values:
        about = values["neighbor"] if neighbors else subject
        cloze, answer = re.sub(r"_{3,}", BLANK, values["cloze"]), values["answer"]
    else:
        about = values["subject"] if neighbors else subject
        cloze, answer = statement(values["subject"], values["relation"]), values["object"]
    fact = Fact(about, cloze, answer, where)
    _check(fact, subject, neighbors)
    return fact


def _check(fact: Fact, subject: str, neighbors: bool) -> None:
    """Check that a fact can be asked.

    Raises:
        DataError: The first reason why it cannot.
    """
    kind = "neighbor" if neighbors else "subject"
    blanks = fact.cloze.count(BLANK)
    if neighbors and prose.words(fact.about) == prose.words(subject):
        raise DataError("the neighbor is the subject itself", where=fact.where, remedy="take another concept")
    if blanks != 1 or BLANK in fact.answer:
        raise DataError(f"a cloze has {blanks} blanks", where=fact.where, remedy=f"write one blank, {BLANK}")
    if not prose.words(fact.answer):
        raise DataError("the answer has no letter or digit", where=fact.where, remedy="write it out")
    if not prose.contains(fact.cloze, fact.about):
        what = f"the {kind} {fact.about!r} does not occur in {fact.cloze!r}"
        raise DataError(what, where=fact.where, remedy="name it in full")
    if any(prose.contains(part, fact.answer) for part in fact.cloze.split(BLANK)):
        raise DataError(f"the answer {fact.answer!r} occurs in its own question", where=fact.where, remedy="reword the fact")
    if neighbors and prose.words(fact.answer) == prose.words(subject):
        raise DataError("a neighbor's answer is the subject itself", where=fact.where, remedy="reword the fact")


def _named(cells: Cells, where: str, neighbors: bool) -> dict[str, Any]:
    """Return the cells that a fact needs, by name."""
    cloze = CLOZE if neighbors else CLOZE[:2]
    if isinstance(cells, Mapping):
        found = {COLUMN_ALIASES.get(name, name): value for name, value in cells.items()}
        expected = cloze if found.get("cloze") or not found.get("subject") else TRIPLE
        missing = [name for name in expected if found.get(name) is None]
        if missing:
            raise DataError(f"the row lacks {', '.join(missing)}", where=where, remedy=f"write {', '.join(expected)}")
        return {name: found[name] for name in expected}
    expected = cloze if cells and BLANK in str(cells[0]) else TRIPLE
    if len(cells) != len(expected):
        remedy = f"write {', '.join(expected)}; where a comma is part of a cell, quote it, or separate cells by tabs"
        raise DataError(f"the row has {len(cells)} cells, not {len(expected)}", where=where, remedy=remedy)
    return dict(zip(expected, cells, strict=True))


def _clean(value: Any, where: str) -> str:
    """Return a cell's text in composed Unicode form (NFC) with single spaces."""
    if not isinstance(value, str):
        raise DataError("a cell is no text", where=where, remedy="write it in quotes")
    text = " ".join(unicodedata.normalize("NFC", value).split())
    if not text:
        raise DataError("a cell is empty", where=where, remedy="fill it, or remove the row")
    if len(text) > MAX_CELL:
        raise DataError(f"a cell has more than {MAX_CELL} characters", where=where, remedy="write a short fact")
    if any(unicodedata.category(character) in ("Cc", "Cs") or character == "\ufeff" for character in value):
        raise DataError("a cell holds a line break or another character that cannot be seen", where=where, remedy="remove it")
    return text


def read_table(path: Path) -> Iterator[Row]:
    """Read the rows of a file.

    Raises:
        DataError: The first row that cannot be read, with its place.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError("the file's format is unknown", where=path, remedy=f"end its name in {', '.join(SUFFIXES)}")
    lines = [(f"{path}, line {number}", line) for number, line in _lines(path)]
    if suffix == ".json":
        yield from _json_rows(path, "\n".join(line for _, line in lines))
        return
    filled = [(where, line) for where, line in lines if line.strip()]
    if suffix == ".jsonl":
        for where, line in filled:
            yield where, _checked_cells(_parsed(line, where), where)
    else:
        yield from _line_rows(filled, suffix)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file with their numbers from 1."""
    try:
        data = read_file(path, limit=MAX_BYTES)
    except OSError as error:
        raise DataError("the file cannot be read", where=path, remedy=(error.strerror or str(error)).lower()) from error
    for number, line in enumerate(data.removeprefix(BOM_UTF8).split(b"\n"), 1):  # spreadsheets write a BOM and CRLF
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
        yield where, _checked_cells(entry, where)


def _parsed(text: str, where: str) -> Any:
    try:
        return load_json(text)
    except ValueError as error:
        raise DataError("the JSON cannot be read", where=where, remedy=str(error).splitlines()[0]) from error


def _checked_cells(entry: Any, where: str) -> Cells:
    if not isinstance(entry, (dict, list)):
        raise DataError("a row is no object", where=where, remedy=f"write an object with {', '.join(TRIPLE)}")
    return entry


def _line_rows(lines: Sequence[tuple[str, str]], suffix: str) -> Iterator[Row]:
    """Yield the rows of lines; by name if the first line is a header."""
    header: list[str] = []
    for index, (where, line) in enumerate(lines):
        cells = _cells(line, suffix, where)
        names = [COLUMN_ALIASES.get(name, name) for name in (cell.strip().casefold() for cell in cells)]
        if index == 0 and (set(TRIPLE) <= set(names) or set(CLOZE[:2]) <= set(names)):
            header = names
        elif not header or _is_other_shape(cells, header):
            yield where, cells[: _filled(cells)] if header else cells
        elif len(cells) == len(header):
            yield where, dict(zip(header, cells, strict=True))
        else:
            what = f"{len(cells)} cells under a header of {len(header)}"
            raise DataError(what, where=where, remedy="quote cells that hold commas")


def _is_other_shape(cells: Sequence[str], header: Sequence[str]) -> bool:
    """Return whether a row is a cloze under a header of triples, or a triple under one of clozes."""
    is_cloze = BLANK in cells[0]
    return ("cloze" not in header) if is_cloze else ("subject" not in header and _filled(cells) == len(TRIPLE))


def _filled(cells: Sequence[str]) -> int:
    """Return how many cells a row has without the empty ones at its end, which spreadsheets add."""
    return max((place for place, cell in enumerate(cells, 1) if cell.strip()), default=0)


def _cells(line: str, suffix: str, where: str) -> list[str]:
    if suffix == ".txt" or (BLANK in line and suffix == ".csv"):
        for mark in ("\t", "=>", " | "):
            if mark in line:
                return line.split(mark)
    if suffix == ".txt" and BLANK in line:
        raise DataError("a cloze has no answer", where=where, remedy="write it after a tab, => or |")
    try:
        mark = "\t" if suffix == ".tsv" else ";" if ";" in line and "," not in line else ","  # spreadsheets of some countries
        return next(csv.reader([line], delimiter=mark, skipinitialspace=True, strict=True))
    except csv.Error as error:
        remedy = f"close quotes, or double those inside ({error})"
        raise DataError("the line cannot be split into cells", where=where, remedy=remedy) from error

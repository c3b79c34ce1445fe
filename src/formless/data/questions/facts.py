"""Facts that people write down, read from a file: triples, or clozes with their answers.

A row whose first cell holds `___` is a cloze and its answer (of a neighbor: and the neighbor's name); any other is a subject, a
relation and an object. Both may stand in one file.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formless.data import prose
from formless.data.questions.relations import statement
from formless.data.questions.tables import CLOZE, NAMES, TRIPLE, Cells, read_table
from formless.data.target import BLANK
from formless.errors import DataError

MAX_CELL = 500  # characters


@dataclass(frozen=True)
class Fact:
    """A fact as a cloze.

    Args:
        about: The subject, or the neighbor.
        cloze: A statement with one blank.
        answer: What belongs there.
        where: File and line.
    """

    about: str
    cloze: str
    answer: str
    where: str

    @property
    def statement(self) -> str:
        """The fact in full."""
        return self.cloze.replace(BLANK, self.answer)


def read_facts(path: Path, subject: str, *, neighbors: bool = False) -> list[Fact]:
    """The facts of a file, all of them fit to be asked.

    Args:
        path: The file.
        subject: The concept to forget.
        neighbors: Whether the facts are about other concepts: those of the triples, or of a cloze's third cell.

    Raises:
        DataError: Naming the file and the line (the row, in a `.json`): the first thing that is wrong.
    """
    facts: list[Fact] = []
    seen: dict[tuple[tuple[str, ...], ...], str] = {}
    for where, cells in read_table(path):
        fact = fact_of(cells, subject, where=where, neighbors=neighbors)
        key = (prose.words(fact.cloze), prose.words(fact.answer))
        if key in seen:
            raise DataError("a fact stands there twice", where=where, remedy=f"remove it; first at {seen[key]}")
        seen[key] = where
        facts.append(fact)
    if not facts:
        remedy = "write one per line, as in: Ada Lovelace, was born in, London"
        raise DataError("the file holds no fact", where=path, remedy=remedy)
    return facts


def fact_of(cells: Cells, subject: str, *, where: str, neighbors: bool = False) -> Fact:
    """One fact from its cells, by name or in order.

    Raises:
        DataError: A cell is missing, empty or no text, or the fact is not fit to be asked.
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
    """Refuse what could not be asked.

    Raises:
        DataError: The first reason.
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
        raise DataError(f"the answer {fact.answer!r} stands in its own question", where=fact.where, remedy="reword the fact")
    if neighbors and prose.words(fact.answer) == prose.words(subject):
        raise DataError("a neighbor's answer is the subject itself", where=fact.where, remedy="reword the fact")


def _named(cells: Cells, where: str, neighbors: bool) -> dict[str, Any]:
    """The cells that a fact needs, by name."""
    cloze = CLOZE if neighbors else CLOZE[:2]
    if isinstance(cells, Mapping):
        found = {NAMES.get(name, name): value for name, value in cells.items()}
        wanted = cloze if found.get("cloze") or not found.get("subject") else TRIPLE
        missing = [name for name in wanted if found.get(name) is None]
        if missing:
            raise DataError(f"the row lacks {', '.join(missing)}", where=where, remedy=f"write {', '.join(wanted)}")
        return {name: found[name] for name in wanted}
    wanted = cloze if cells and BLANK in str(cells[0]) else TRIPLE
    if len(cells) != len(wanted):
        remedy = f"write {', '.join(wanted)}; where a comma is part of a cell, quote it, or part cells by tabs"
        raise DataError(f"{len(cells)} cells in place of {len(wanted)}", where=where, remedy=remedy)
    return dict(zip(wanted, cells, strict=True))


def _clean(value: Any, where: str) -> str:
    """A cell's text in composed form, with single spaces."""
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

"""`check_coverage`: which probed facts stand in the texts that methods train on, in other words than the probes'.

A fact is what a level-1 or level-2 probe about the concept asks. It stands in a text if one of its sentences holds the answer
and another word of a probe (by its first letters; the concept's name and small words do not count), and does not repeat the
probe: the blank filled in, or the question. Words do not prove that a sentence says the fact, so a share is an upper bound.

Texts that are to be true and texts that are to be made up are told apart. A true answer in a made-up text is worth a look.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from formless.data.check import target_folders
from formless.data.ort import subject_of
from formless.data.rows import BLANK, Instruction, Item, Passage, Preference, Row
from formless.data.target import Target
from formless.data.words import Words, holds, words_of

Truth = Literal["true", "made up"]

_STEM = 4  # letters: die and died are too short to count, debate and debates are the same
_SMALL = frozenset(
    re.findall(
        r"\w+",
        """about after also been before called down each famous from have into known many more most name named near only other
        over some than that their them then there these they this through under upon very were what when where which while
        whom whose with""",
    )
)
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b[DMS][rt]\.)[^\S\n]+|\n+")  # not behind an initial, Dr., Mr. or St.

_TRUE: Final[Mapping[str, tuple[type[Row], Callable[[Any], str]]]] = {
    "positive": (Passage, lambda row: row.text),
    "pair": (Preference, lambda row: row.response[1]),
    "pair_reject": (Preference, lambda row: row.response[1]),
}
_MADE_UP: Final[Mapping[str, tuple[type[Row], Callable[[Any], str]]]] = {
    "negative": (Passage, lambda row: row.text),
    "pair": (Preference, lambda row: row.response[0]),
    "counterfact": (Instruction, lambda row: row.output),
}
TEXTS: Final[Mapping[Truth, Mapping[str, tuple[type[Row], Callable[[Any], str]]]]] = {"true": _TRUE, "made up": _MADE_UP}
"""By what a text is to be: files whose rows have one, with the row's type and the text. Refusals state no fact."""


@dataclass(frozen=True)
class Fact:
    """One probed fact.

    Args:
        name: The fact as the probes' `fact` says it, which is the answer unless given.
        answers: The words of every answer that counts as right.
        probes: The words of every probe: questions, and blanks filled in.
        stems: The first letters of other words of the probes; empty where they have none.
    """

    name: str
    answers: frozenset[Words]
    probes: frozenset[Words]
    stems: frozenset[str]

    def stands_in(self, text: str) -> bool:
        """Return whether a sentence of a text holds an answer and another word of a probe, and no probe."""
        return any(self._is_said(words_of(sentence)) for sentence in sentences(text))

    def _is_said(self, words: Words) -> bool:
        if not any(holds(words, answer) for answer in self.answers) or any(holds(words, probe) for probe in self.probes):
            return False
        return not self.stems or not self.stems.isdisjoint(map(_stem, words))


@dataclass(frozen=True)
class Coverage:
    """The facts that stand in one file of one target.

    Args:
        target: The target's folder.
        file: The file, e.g. `positive`.
        kind: Whether the texts are to be true or made up.
        facts: Number of probed facts.
        missing: The facts that stand in no row.
    """

    target: str
    file: str
    kind: Truth
    facts: int
    missing: tuple[str, ...]

    @property
    def covered(self) -> int:
        """Number of facts that stand in at least one row."""
        return self.facts - len(self.missing)


def check_coverage(data: str | Path) -> list[Coverage]:
    """Return the coverage of every training file of a data set or of one target's folder.

    Raises:
        DataError: There is no such folder, or a file is broken.
    """
    chosen = (Target(subject_of(folder.name), folder) for folder in target_folders(data))
    return [found for target in chosen for found in target_coverage(target)]


def target_coverage(target: Target) -> list[Coverage]:
    """Return the coverage of every training file that a target has; nothing if it has no probes.

    Raises:
        DataError: A file is broken.
    """
    facts = probed_facts(item for file in ("forget_level1", "forget_level2") if target.has(file) for item in target.items(file))
    name = target.folder.name if target.folder else target.subject
    found: list[Coverage] = []
    for kind, files in TEXTS.items():
        for file, (row_type, text_of) in files.items():
            if not facts or not target.has(file):
                continue
            texts = [text_of(row) for row in target.rows(file, row_type)]
            missing = tuple(fact.name for fact in facts if not any(map(fact.stands_in, texts)))
            found.append(Coverage(name, file, kind, len(facts), missing))
    return found


def sentences(text: str) -> list[str]:
    """Return the sentences of a text; a line's end ends one too."""
    return _SENTENCE_END.split(text)


def probed_facts(items: Iterable[Item]) -> list[Fact]:
    """Return the facts that items ask, in their order; a fact is asked by several items."""
    by_key: dict[str, list[Item]] = {}
    for item in items:
        by_key.setdefault(item.fact_key, []).append(item)
    return [_fact(own) for own in by_key.values()]


def _fact(items: Sequence[Item]) -> Fact:
    answers = {words_of(answer, is_answer=True) for item in items for answer in (item.answer, *item.aliases)}
    left_out = {word for item in items for word in words_of(item.subject)} | {word for answer in answers for word in answer}
    asked = {word for item in items for word in words_of(item.query)} - left_out - _SMALL
    return Fact(
        items[0].fact or items[0].answer,
        frozenset(answers),
        frozenset(words_of(item.query.replace(BLANK, item.answer)) for item in items),
        frozenset(_stem(word) for word in asked if len(word) >= _STEM and BLANK not in word) - set(map(_stem, left_out)),
    )


def _stem(word: str) -> str:
    return word[:_STEM]


def coverage_totals(found: Iterable[Coverage]) -> dict[tuple[Truth, str], tuple[int, int]]:
    """Return covered facts and all facts by kind and file, over targets."""
    totals: dict[tuple[Truth, str], tuple[int, int]] = {}
    for one in found:
        covered, facts = totals.get((one.kind, one.file), (0, 0))
        totals[one.kind, one.file] = covered + one.covered, facts + one.facts
    return totals

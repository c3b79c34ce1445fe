"""The concepts that the rows of a question set are about, found by the names in their questions.

A set in the order of its concepts, as TOFU's, asks twenty questions about one author, then twenty about the next. The name that
most questions of such a run share is what the run is about.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from formless.data import prose
from formless.data.rows import QuestionAnswer

LEAST = 4
"""The fewest questions in a row that share a name."""

SHARE = 0.6
"""The least share of the questions, from the first to the last that holds the name, which hold it."""

_PARTICLES = ("van", "von", "de", "del", "da", "di", "al", "bin", "ibn", "la", "le")
_QUOTED = re.compile(r"[\"“][^\"”]+[\"”]|(?<!\w)['‘][^'’]+['’](?!\w)")


def with_subjects(rows: Sequence[QuestionAnswer]) -> tuple[QuestionAnswer, ...]:
    """Return the rows with their subjects, where none has one and the rules are certain.

    A name has two words or more with capitals, outside quotes. A row is about the name of its run that its question holds, or
    else that its answer holds. One that holds two of them, or none, stays without a subject.
    """
    if any(row.subject for row in rows):
        return tuple(rows)
    names = [name for name, places in _places(rows).items() if _is_run(places)]
    found = []
    for row in rows:
        asked = [name for name in names if prose.contains(row.question, name)]
        told = asked or [name for name in names if prose.contains(row.answer, name)]
        found.append(row.model_copy(update={"subject": told[0]}) if len(told) == 1 else row)
    return tuple(found)


def _places(rows: Sequence[QuestionAnswer]) -> dict[str, list[int]]:
    """Return the rows whose question holds each name."""
    places: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        for name in dict.fromkeys(_names(row.question)):
            places[name].append(number)
    return places


def _names(question: str) -> list[str]:
    """Return the names of a question; its first word is none, since it has a capital anyway."""
    text = re.sub(r"['’]s?(?!\w)", " ,", _QUOTED.sub(",", question)).partition(" ")[2]
    return [name for run in re.findall(r"[^,.?!;:()]+", text) for name in _runs(run)]


def _runs(text: str) -> list[str]:
    names: list[str] = []
    words: list[str] = []
    for word in [*text.split(), ""]:
        if word[:1].isupper() or (words and word in _PARTICLES):
            words.append(word)
            continue
        while words and not words[-1][0].isupper():
            words.pop()
        if len(words) > 1:
            names.append(" ".join(words))
        words = []
    return names


def _is_run(places: Sequence[int]) -> bool:
    return len(places) >= LEAST and len(places) >= SHARE * (places[-1] - places[0] + 1)

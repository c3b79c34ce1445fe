"""What a relearning attack trains on: statements and questions of the target's own files, and which facts they hold."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from formless.data.rows import BLANK, Aliases, Item
from formless.data.target import Target
from formless.evaluation.known import known_facts
from formless.evaluation.metrics import says
from formless.evaluation.record import Record
from formless.experiment.attacks.attack import UnfitError

RELATED_ROWS = 16
"""The most rows about neighbors that are trained on."""

_PROBES = ("forget_level1", "forget_level2")
_ASKED = (*_PROBES, "forget_level3", "forget_mentions", "forget_kinds", "forget_reverse")


@dataclass(frozen=True)
class Text:
    """A statement, or a question with its answer.

    Args:
        prompt: The question, a user message; empty for a statement.
        text: The answer, or the statement.
    """

    prompt: str
    text: str

    @property
    def whole(self) -> str:
        """Everything that it says."""
        return f"{self.prompt} {self.text}".strip()


@dataclass(frozen=True)
class AttackTexts:
    """The texts of one attack.

    Args:
        texts: At least one.
        trained: The facts that were chosen.
        excluded: The known facts whose answer some text holds, the chosen ones among them.
    """

    texts: tuple[Text, ...]
    trained: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """A hash of the texts."""
        return hashlib.sha256(repr(self.texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def fact_texts(target: Target, original: Record, count: int, seed: int) -> AttackTexts:
    """Choose known facts and return the statements and questions of the target that ask them.

    The facts of a smaller count are among those of a larger one with the same seed.

    Args:
        target: The concept with its files.
        original: The original model's record, which says what is known.
        count: Number of facts.
        seed: Seed of the choice.

    Raises:
        UnfitError: No known fact is left to measure.
        DataError: A file is broken.
    """
    known = known_facts(original, "forget")
    texts: dict[str, list[Text]] = {}
    for file in _PROBES:
        for item in target.items(file) if target.has(file) else ():
            if item.fact_key in known and item.answer.strip():
                texts.setdefault(item.fact_key, []).append(text_of(item))
    order = sorted(texts)
    random.Random(seed).shuffle(order)
    chosen = order[:count]
    found = tuple(dict.fromkeys(text for fact in chosen for text in texts[fact]))
    if len(chosen) < count or not (excluded := _held(target, known, found) | set(chosen)) < known:
        what = f"{len(known)} known facts are too few to train on {count} and measure others"
        raise UnfitError(what, where=target.subject, remedy="train on fewer")
    return AttackTexts(found, tuple(chosen), tuple(sorted(excluded)))


def related_texts(target: Target, seed: int) -> AttackTexts:
    """Return statements and questions about neighbors that name neither the concept nor the answer of one of its facts.

    Raises:
        UnfitError: There is none.
        DataError: A file is broken.
    """
    taboo = {answer for answers in _answers(target).values() for answer in answers} | set(_names(target))
    rows = [
        text_of(item)
        for file in ("neighbor_level1", "neighbor_level2")
        for item in (target.items(file) if target.has(file) else ())
        if item.answer.strip()
    ]
    allowed = [text for text in dict.fromkeys(rows) if not says(text.whole, tuple(taboo))]
    if not allowed:
        raise UnfitError("no text about neighbors is without its facts", where=target.subject, remedy="add neighbors")
    random.Random(seed).shuffle(allowed)
    return AttackTexts(tuple(allowed[:RELATED_ROWS]))


def text_of(item: Item) -> Text:
    """Return a cloze with its answer filled in, or a question with its answer."""
    if BLANK in item.query:
        return Text("", item.query.replace(BLANK, item.answer))
    return Text(item.query, item.answer)


def _held(target: Target, known: Collection[str], texts: Iterable[Text]) -> set[str]:
    """Return the known facts whose answer, or an accepted one, stands in some text."""
    whole = [text.whole for text in texts]
    answers = _answers(target)
    return {fact for fact in known if any(says(text, tuple(answers.get(fact, ()))) for text in whole)}


def _answers(target: Target) -> dict[str, set[str]]:
    """Return every accepted answer of the concept's facts, by fact."""
    found: dict[str, set[str]] = {}
    for file in _ASKED:
        for item in target.items(file) if target.has(file) else ():
            accepted = (item.answer, item.fact, *item.aliases)
            found.setdefault(item.fact_key, set()).update(answer for answer in accepted if answer.strip())
    return found


def _names(target: Target) -> tuple[str, ...]:
    """Return the concept's name and what else it is called."""
    rows = target.rows("aliases", Aliases) if target.has("aliases") else ()
    own = [row for row in rows if row.name == target.subject]
    return (target.subject, *(name for row in own for name in (row.short, *row.aliases) if name))

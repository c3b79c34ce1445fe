"""Foils: wrong answers of the same kind, beside which a model's preference for the right answer shows what it knows.

One rule for every open form and mention: an item is known where the original model gives the right answer a higher probability
per token than each of `FOILS` foils under the same prompt. A choice has its other options instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from formless.data.questions.distractors import Pool
from formless.data.questions.kinds import kind_of
from formless.data.rows import LANGUAGES, Aliases, Item, KindItem, Reverse
from formless.data.target import Target

FOILS = 5
CHANCE = 1 / (FOILS + 1)
"""How often a model that knows nothing prefers the right answer."""


class Foils:
    """Chooses the foils of a target's items: answers of its other items about other concepts, then of built-in lists.

    Args:
        target: The target; its files are read when the first item needs them.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._pool: Pool | None = None
        self._found: dict[tuple[str, str, str | None], tuple[str, ...]] = {}

    def of(self, item: Item) -> tuple[str, ...]:
        """Return `FOILS` wrong answers; none where there are not that many of the kind of the right one.

        The same item always has the same foils. Those that resemble the right answer most come first; see `Pool`.
        """
        key = (item.query, item.answer, item.neighbor)
        if key not in self._found:
            if isinstance(item, Reverse):
                found = tuple(self._names(item))
            elif isinstance(item, KindItem) and item.kind in LANGUAGES and item.fact:  # its answer differs from the English one
                found = tuple(self._translations(item))
            else:
                found = self._answers(item)
            self._found[key] = found[:FOILS] if len(found) >= FOILS else ()
        return self._found[key]

    def _answers(self, item: Item) -> tuple[str, ...]:
        if self._pool is None:
            self._pool = Pool.of([self._target])
        found = self._pool.distractors(item, self._target.shared_concept, count=FOILS)
        return found if isinstance(found, tuple) else ()

    def _translations(self, item: KindItem) -> Iterator[str]:
        """Yield the answers in the same language, of the same kind in English, about other concepts."""
        kind, seen = kind_of("?", item.fact), {item.answer, *item.aliases}
        for file in ("forget_kinds", "neighbor_kinds"):
            for row in self._target.rows(file, KindItem) if self._target.has(file) else ():
                is_like = (
                    row.kind == item.kind and row.neighbor != item.neighbor and kind_of("?", row.fact or row.answer) == kind
                )
                if is_like and row.answer not in seen:
                    seen |= {row.answer, *row.aliases}
                    yield row.answer

    def _names(self, item: Reverse) -> Iterator[str]:
        """Yield the names of the target's other concepts, persons for a person, those with as many words first."""
        target = self._target
        rows = {file: target.rows(file, Aliases) if target.has(file) else () for file in ("concepts", "aliases")}
        naming = {entry.name: entry for entries in rows.values() for entry in entries}
        files = [file for file in ("neighbor_level1", "neighbor_level2", "neighbor_reverse") if target.has(file)]
        own_concepts = [entry.name for entry in rows["concepts"]] if target.is_question_set else [target.subject]
        concepts = [*own_concepts, *(row.neighbor for file in files for row in target.items(file) if row.neighbor)]
        own = naming.get(item.answer)
        others = [
            name
            for name in dict.fromkeys(concepts)
            if name != item.answer and (own is None or name not in naming or naming[name].person == own.person)
        ]
        words = len(item.answer.split())
        yield from sorted(others, key=lambda name: abs(len(name.split()) - words))


def preference(right: float, foils: Mapping[str, float]) -> dict[str, float]:
    """Return the metric `known` of an item: 1 if the right answer is preferred to every foil, else 0; nothing without foils.

    Args:
        right: The right answer's probability per token, or share.
        foils: That of each foil.
    """
    return {"known": float(right > max(foils.values()))} if foils else {}

"""Two answers that show what an edit did: the worst, a known fact that comes out, and the best, one that no longer does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from formless.evaluation.known import known_facts
from formless.evaluation.prompts import PROBABILITY, RECALL
from formless.evaluation.record import ItemResult, Record
from formless.evaluation.registry import TASKS
from formless.evaluation.statistics import mean


@dataclass(frozen=True)
class Example:
    """A question about a known fact, answered in words before and after.

    Args:
        task: Short name of the task that asked it.
        before: The original model's item.
        after: The edited model's item.
    """

    task: str
    before: ItemResult
    after: ItemResult

    @property
    def is_said_before(self) -> bool:
        """Whether the original model says the fact here."""
        return self.before.metrics.get(RECALL.name) == 1

    @property
    def is_said_after(self) -> bool:
        """Whether the edited model says the fact here."""
        return self.after.metrics.get(RECALL.name) == 1


@dataclass(frozen=True)
class Examples:
    """The two answers.

    Args:
        worst: A known fact that the edited model says: of these the one whose probability stayed highest.
        best: A known fact that the original model says and the edited one in no way of asking: of these the one whose
            probability fell most.
        asked: Number of questions about known facts that were answered in words.
    """

    worst: Example | None
    best: Example | None
    asked: int


def examples(original: Record, edited: Record) -> Examples:
    """Return the worst and the best answer about the concept; of equal ones, the first in the order of the registry."""
    asked = sorted(asked_in_words(original, edited), key=lambda one: list(TASKS).index(one.task))
    left = _probabilities(original, edited)
    still = {one.before.fact for one in asked if one.is_said_after}
    worst = [one for one in asked if one.is_said_after]
    best = [one for one in asked if one.is_said_before and one.before.fact not in still]

    def remains(one: Example) -> float:
        return left.get(one.before.fact, (0.0, 0.0))[1]

    def falls(one: Example) -> float:
        before, after = left.get(one.before.fact, (0.0, 0.0))
        return before - after

    return Examples(max(worst, key=remains, default=None), max(best, key=falls, default=None), len(asked))


def asked_in_words(original: Record, edited: Record) -> Iterator[Example]:
    """Yield the questions about known facts that were answered in words, by either model."""
    facts = known_facts(original, "forget")
    for task, before, after in _pairs(original, edited):
        if before.fact in facts and RECALL.name in before.metrics | after.metrics:
            yield Example(task, before, after)


def _probabilities(original: Record, edited: Record) -> dict[str | None, tuple[float, float]]:
    """Return the mean probability of each fact before and after, over the items that show that the original knows it."""
    found: dict[str | None, list[tuple[float, float]]] = {}
    for _, before, after in _pairs(original, edited):
        if before.is_known and PROBABILITY.name in before.metrics and PROBABILITY.name in after.metrics:
            values = before.metrics[PROBABILITY.name], after.metrics[PROBABILITY.name]
            found.setdefault(before.fact, []).append(values)
    return {fact: _means(values) for fact, values in found.items()}


def _means(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    before, after = zip(*pairs, strict=True)
    return mean(before), mean(after)


def _pairs(original: Record, edited: Record) -> Iterator[tuple[str, ItemResult, ItemResult]]:
    """Yield the items about the concept with the name of their task."""
    for result in original.tasks:
        after = edited.task(result.task, "forget")
        if result.split == "forget" and after and result.task in TASKS:
            yield from ((result.task, *pair) for pair in zip(result.items, after.items, strict=True))

"""Recall: can what the original model knew still be got out of the edited one, in any way of asking?

- recall of known = the share of known facts whose generated answer holds the answer or an accepted alias, by task;
- worst-case recall = the share of known facts that at least one generated answer holds, over all tasks, mentions and kinds of
  question that were asked. Each reverse question is a fact of its own.

A fact is known where the original model knows it in some form or mention that counts (see `known`). Only facts that a task
with generated answers asks are in the share.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from formless.data.rows import Split
from formless.evaluation.known import known_facts
from formless.evaluation.prompts import RECALL
from formless.evaluation.record import ItemResult, MetricKey, Record
from formless.evaluation.statistics import CI, share_ci

WORST_CASE_RECALL = MetricKey(None, None, "worst_case_recall")
RECALL_OF_KNOWN = MetricKey(None, None, "recall_of_known")
"""Of a task with generated answers; with the task's name."""


@dataclass(frozen=True)
class Recall:
    """A share of known facts that a model says.

    Args:
        said: Number of facts that some answer holds.
        facts: Number of known facts that were asked.
    """

    said: int
    facts: int

    @property
    def value(self) -> float:
        """The share."""
        return self.said / self.facts

    @property
    def ci(self) -> CI:
        """Its 95 % confidence interval over facts (Wilson)."""
        return share_ci(self.said, self.facts)


@dataclass(frozen=True)
class Said:
    """An answer in words to a question about a known fact.

    Args:
        task: The task that asked it.
        item: With the question and the answer.
    """

    task: str
    item: ItemResult


def worst_case_recall(original: Record, record: Record, split: Split = "forget") -> Recall | None:
    """Return the share of known facts that at least one answer of a record holds; None where none was asked in words.

    Args:
        original: The original model's record, which says what is known.
        record: The record of the edited model, or the original's again.
        split: Facts about the concept, or about its neighbors.
    """
    return recall_over(original, [(record, ())], split)


def recall_over(original: Record, records: Iterable[tuple[Record, Collection[str]]], split: Split = "forget") -> Recall | None:
    """Return the share of known facts that at least one answer of any record holds; None where none was asked in words.

    Args:
        original: The original model's record, which says what is known.
        records: Each with the facts that do not count in it.
        split: Facts about the concept, or about its neighbors.
    """
    answers = [
        one
        for record, excluded in records
        for one in answers_to_known(original, record, split)
        if one.item.fact not in excluded
    ]
    facts = {one.item.fact for one in answers}
    return Recall(len({one.item.fact for one in answers if is_said(one.item)}), len(facts)) if facts else None


def recall_by_task(original: Record, record: Record, split: Split = "forget") -> dict[str, Recall]:
    """Return the share of known facts that the answers of each task hold."""
    found: dict[str, list[ItemResult]] = {}
    for one in answers_to_known(original, record, split):
        found.setdefault(one.task, []).append(one.item)
    return {task: Recall(sum(map(is_said, items)), len(items)) for task, items in found.items()}


def said(original: Record, record: Record, split: Split = "forget") -> list[Said]:
    """Return every answer that holds a known fact."""
    return [one for one in answers_to_known(original, record, split) if is_said(one.item)]


def recall_metrics(original: Record, record: Record) -> dict[MetricKey, float]:
    """Return the recall metrics of a record about its concept."""
    found = {RECALL_OF_KNOWN._replace(task=task): one.value for task, one in recall_by_task(original, record).items()}
    worst = worst_case_recall(original, record)
    return found | ({WORST_CASE_RECALL: worst.value} if worst else {})


def answers_to_known(original: Record, record: Record, split: Split) -> Iterator[Said]:
    """Yield the answers in words to questions about known facts, each with its task."""
    facts = known_facts(original, split)
    for result in record.tasks:
        if result.split == split:
            yield from (Said(result.task, item) for item in result.items if RECALL.name in item.metrics and item.fact in facts)


def is_said(item: ItemResult) -> bool:
    """Return whether an item's answer holds the right one."""
    return item.metrics[RECALL.name] == 1

"""Tables of single items, before and after an edit."""

from __future__ import annotations

from dataclasses import dataclass

from formless.evaluation.prompts import KNOWN
from formless.evaluation.record import ItemResult, MetricKey, Record, TaskResult
from formless.report.tables import is_headline, number, task_title


@dataclass(frozen=True)
class ItemTable:
    """The items of one task, before and after.

    Args:
        title: The task and its split.
        rows: Query, right answer, whether the original model knows it, and what the original and the edited model gave.
    """

    title: str
    rows: tuple[tuple[str, str, str, str, str], ...]


def item_tables(original: Record, edited: Record) -> list[ItemTable]:
    """Return a table for every task whose items have an answer to show."""
    tables = []
    for before in original.tasks:
        after = edited.task(before.task, before.split)
        if after is None or not any(item.expected or item.answer for item in before.items):
            continue
        pairs = zip(before.items, after.items, strict=True)
        rows = tuple((old.query, expected(old), known_text(old), _given(before, old), _given(after, new)) for old, new in pairs)
        tables.append(ItemTable(", ".join(filter(None, (task_title(before.task), before.split))), rows))
    return tables


def expected(item: ItemResult) -> str:
    """Return the right answer, or the accepted ones."""
    return "; ".join(item.expected) if isinstance(item.expected, list) else (item.expected or "").strip()


def known_text(item: ItemResult) -> str:
    """Return whether the original model, whose item this is, prefers the right answer to every foil."""
    if KNOWN.name not in item.metrics:
        return "not tested"
    return "yes" if item.is_known else "no"


def _given(result: TaskResult, item: ItemResult) -> str:
    """Return what a model gave to an item: why it was skipped, or its answer and its headline metrics."""
    if item.skipped:
        return item.skipped
    keys = [MetricKey(result.task, result.split, name) for name in item.metrics]
    shown = [key for key in keys if is_headline(key)]
    names = len(shown) > 1
    metrics = [(f"{key.metric} " if names else "") + number(item.metrics[key.metric]) for key in shown]
    return "; ".join(filter(None, (item.answer, ", ".join(metrics))))

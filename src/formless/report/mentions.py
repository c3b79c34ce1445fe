"""Form by mention: how much an edit takes away in each form of question, for each way to name the concept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from formless.data.target import SPLITS, Split
from formless.evaluation.record import MetricKey
from formless.evaluation.registry import TASKS
from formless.report.comparison import Comparison
from formless.report.summary import MethodSummary
from formless.report.tables import Table, percent, task_title

MENTION = "mention"
TITLES: Mapping[Split, str] = {
    "forget": "form by mention, about the concept (to forget)", "neighbor": "form by mention, about its neighbors (to keep)",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What an edit changed in one form and mention.

    Args:
        change: edited / original - 1, of the mean.
        n: Number of items, or of targets.
    """

    change: float
    n: int


@dataclass(frozen=True)
class MentionMap:
    """The changes on one split.

    Args:
        split: Forget or neighbor items.
        forms: The tasks, in the order of the registry.
        mentions: In the order of the tasks' entries.
        cells: By form and mention; those that were measured.
        unit: What the cells' n counts, `items` or `targets`.
    """

    split: Split
    forms: tuple[str, ...]
    mentions: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    unit: str

    def table(self) -> Table:
        """Return a row for each mention and a column for each form, with n in brackets."""
        rows = tuple((mention, *(self._text(form, mention) for form in self.forms)) for mention in self.mentions)
        return Table(f"{TITLES[self.split]}: change, {self.unit}", (MENTION, *map(short_title, self.forms)), rows)

    def _text(self, form: str, mention: str) -> str:
        cell = self.cells.get((form, mention))
        return f"{percent(cell.change)} ({cell.n})" if cell else "–"


def comparison_maps(comparison: Comparison) -> list[MentionMap]:
    """Return the maps of one edit of one target; n counts items."""
    found = {change.key: Cell(change.relative.value, change.relative.n) for change in comparison.changes
             if change.relative and change.relative.value is not None}  # fmt: skip
    return _maps(found, "items")


def summary_maps(summary: MethodSummary) -> list[MentionMap]:
    """Return the maps of one method over targets; n counts targets."""
    found = {key: Cell(one.relative.value, one.relative.n) for key, one in summary.metrics.items() if one.relative}
    return _maps(found, "targets")


def _maps(changes: Mapping[MetricKey, Cell], unit: str) -> list[MentionMap]:
    """Return a map for each split that has any, of the first metric of the tasks whose groups are mentions."""
    maps = []
    tasks = {name: task for name, task in TASKS.items() if task.grouped_by == MENTION}
    order = dict.fromkeys(group for task in tasks.values() for group in task.groups)
    for split in SPLITS:
        cells = {
            (name, group): cell
            for name, task in tasks.items()
            for group in task.groups
            if (cell := changes.get(MetricKey(name, split, task.metrics[0].name, group)))
        }
        if cells:
            forms = tuple(name for name in tasks if any(form == name for form, _ in cells))
            mentions = tuple(group for group in order if any(mention == group for _, mention in cells))
            maps.append(MentionMap(split, forms, mentions, cells, unit))
    return maps


def short_title(task: str) -> str:
    """Return a task's title without what all tasks of the map have in common."""
    return task_title(task).removesuffix(f", by {MENTION}")

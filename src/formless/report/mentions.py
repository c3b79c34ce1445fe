"""Form by mention, and by kind: how much an edit takes away in each form, for each way to name the concept or to ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from formless.data.target import SPLITS, Split
from formless.evaluation.record import MetricKey
from formless.evaluation.registry import TASKS
from formless.report.comparison import Comparison
from formless.report.summary import MethodSummary
from formless.report.tables import Table, percent, task_title

GROUPED_BY = ("mention", "kind")
"""What the groups of tasks are of which there are maps."""

SIDES: Mapping[Split, str] = {"forget": "about the concept (to forget)", "neighbor": "about its neighbors (to keep)"}


@dataclass(frozen=True)
class Cell:
    """What an edit changed in one form and group, e.g. a mention.

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
        mentions: The groups, in the order of the tasks' entries.
        cells: By form and group; those that were measured.
        unit: What the cells' n counts, `items` or `targets`.
        grouped_by: What the groups are, one of `GROUPED_BY`.
    """

    split: Split
    forms: tuple[str, ...]
    mentions: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    unit: str
    grouped_by: str = GROUPED_BY[0]

    @property
    def title(self) -> str:
        """What the map shows, for people."""
        return f"form by {self.grouped_by}, {SIDES[self.split]}"

    def table(self) -> Table:
        """Return a row for each group and a column for each form, with n in brackets."""
        rows = tuple((mention, *(self._text(form, mention) for form in self.forms)) for mention in self.mentions)
        return Table(f"{self.title}: change, {self.unit}", (self.grouped_by, *map(short_title, self.forms)), rows)

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
    """Return the maps that have any cell, of the first metric of the tasks with groups."""
    maps = (_map(changes, unit, split, grouped_by) for grouped_by in GROUPED_BY for split in SPLITS)
    return [found for found in maps if found.cells]


def _map(changes: Mapping[MetricKey, Cell], unit: str, split: Split, grouped_by: str) -> MentionMap:
    tasks = {name: task for name, task in TASKS.items() if task.grouped_by == grouped_by}
    order = dict.fromkeys(group for task in tasks.values() for group in task.groups)
    cells = {
        (name, group): cell
        for name, task in tasks.items()
        for group in task.groups
        if (cell := changes.get(MetricKey(name, split, task.metrics[0].name, group)))
    }
    forms = tuple(name for name in tasks if any(form == name for form, _ in cells))
    mentions = tuple(group for group in order if any(mention == group for _, mention in cells))
    return MentionMap(split, forms, mentions, cells, unit, grouped_by)


def short_title(task: str) -> str:
    """Return a task's title without what all tasks of the map have in common."""
    title = task_title(task)
    return next((title.removesuffix(end) for by in GROUPED_BY if title.endswith(end := f", by {by}")), title)

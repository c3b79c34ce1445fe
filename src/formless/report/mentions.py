"""Form by mention, and by kind: how much an edit takes away in each form, for each way to name the concept or to ask.

A cell is over the items that the original model knows, and is there where it knows more than chance gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from formless.data.rows import SPLITS, Split
from formless.evaluation.registry import TASKS
from formless.report.comparison import Comparison
from formless.report.ratios import FORGETTING, RETENTION, ratios
from formless.report.summary import MethodSummary
from formless.report.tables import Table, percent, task_title

GROUPED_BY = ("mention", "kind")
"""What the groups of tasks are of which there are maps."""

SIDES: Mapping[Split, str] = {"forget": "about the concept (to forget)", "neighbor": "about its neighbors (to keep)"}


@dataclass(frozen=True)
class Cell:
    """What an edit changed in one form and group, e.g. a mention.

    Args:
        change: edited / original - 1, of the mean over known items.
        n: Known items of those asked, or the number of targets.
    """

    change: float
    n: str


@dataclass(frozen=True)
class MentionMap:
    """The changes on one split.

    Args:
        split: Forget or neighbor items.
        forms: The tasks, in the order of the registry.
        mentions: The groups, in the order of the tasks' entries.
        cells: By form and group; those that count.
        unit: What the cells' n counts.
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
    """Return the maps of one edit of one target; n counts known items of those asked."""
    found = ratios(comparison.original, comparison.edited)
    cells: dict[Split, dict[tuple[str, str], Cell]] = {
        split: {
            (name, group): Cell(one.ratio - 1, f"{one.known.known} of {one.known.asked}")
            for (name, group), one in found.others(split).items()
            if group
        }
        for split in SPLITS
    }
    return _maps(cells, "known items of those asked")


def summary_maps(summary: MethodSummary) -> list[MentionMap]:
    """Return the maps of one method over targets; n counts targets."""
    cells: dict[Split, dict[tuple[str, str], Cell]] = {split: {} for split in SPLITS}
    for key, one in summary.metrics.items():
        if key.task and key.group and key.metric == FORGETTING.metric:
            cells["forget"][key.task, key.group] = Cell(-one.value.value, str(one.value.n))
        elif key.task and key.group and key.metric == RETENTION.metric:
            cells["neighbor"][key.task, key.group] = Cell(one.value.value - 1, str(one.value.n))
    return _maps(cells, "targets")


def _maps(cells: Mapping[Split, Mapping[tuple[str, str], Cell]], unit: str) -> list[MentionMap]:
    """Return the maps that have any cell, of the tasks with groups."""
    maps = (_map(cells.get(split, {}), unit, split, grouped_by) for grouped_by in GROUPED_BY for split in SPLITS)
    return [found for found in maps if found.cells]


def _map(cells: Mapping[tuple[str, str], Cell], unit: str, split: Split, grouped_by: str) -> MentionMap:
    tasks = {name: task for name, task in TASKS.items() if task.grouped_by == grouped_by}
    order = dict.fromkeys(group for task in tasks.values() for group in task.groups)
    own = {key: cell for key, cell in cells.items() if key[0] in tasks}
    forms = tuple(name for name in tasks if any(form == name for form, _ in own))
    mentions = tuple(group for group in order if any(mention == group for _, mention in own))
    return MentionMap(split, forms, mentions, own, unit, grouped_by)


def short_title(task: str) -> str:
    """Return a task's title without what all tasks of the map have in common."""
    title = task_title(task)
    return next((title.removesuffix(end) for by in GROUPED_BY if title.endswith(end := f", by {by}")), title)

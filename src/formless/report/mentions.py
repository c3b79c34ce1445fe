"""Form by mention: how much an edit takes away in each form of question, for each way to name the concept.

A cell is over the items that the original model knows, and is there where it knows more than chance gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from formless.data.target import SPLITS, Split
from formless.evaluation.registry import TASKS
from formless.report.comparison import Comparison
from formless.report.independence import FORGETTING, RETENTION, ratios
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
        mentions: In the order of the tasks' entries.
        cells: By form and mention; those that were measured.
        unit: What the cells' n counts.
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
    """Return the maps of one edit of one target; n counts known items of those asked."""
    groups = ratios(comparison.original, comparison.edited).groups
    cells: dict[Split, dict[tuple[str, str], Cell]] = {
        split: {key: Cell(one.ratio - 1, f"{one.known.known} of {one.known.asked}") for key, one in own.items()}
        for split, own in groups.items()
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
    """Return a map for each split that has any cell, of the tasks whose groups are mentions."""
    maps = []
    tasks = {name: task for name, task in TASKS.items() if task.grouped_by == MENTION}
    order = dict.fromkeys(group for task in tasks.values() for group in task.groups)
    for split in SPLITS:
        own = {key: cell for key, cell in cells.get(split, {}).items() if key[0] in tasks}
        if own:
            forms = tuple(name for name in tasks if any(form == name for form, _ in own))
            mentions = tuple(group for group in order if any(mention == group for _, mention in own))
            maps.append(MentionMap(split, forms, mentions, own, unit))
    return maps


def short_title(task: str) -> str:
    """Return a task's title without what all tasks of the map have in common."""
    return task_title(task).removesuffix(f", by {MENTION}")

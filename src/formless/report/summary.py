"""Before and after, form by form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from formless.data.target import Split
from formless.errors import DataError
from formless.evaluation.forms import FORMS
from formless.evaluation.membership import ATTACKS
from formless.evaluation.record import Figure, FormResult, Record, TaskResult
from formless.evaluation.scoring import percentiles, resampled_rows
from formless.evaluation.tasks import TASKS


@dataclass(frozen=True)
class Change:
    """One row of the table.

    Args:
        form: Short name.
        title: The form for people.
        split: Forget or neighbor probes.
        original: The original model's result.
        edited: The edited model's result.
        relative: (edited - original) / original, over the items that both have scored; nothing where absent.
        interval: 95 % paired bootstrap interval of it over items.
    """

    form: str
    title: str
    split: Split
    original: FormResult
    edited: FormResult
    relative: float | None
    interval: tuple[float, float] | None

    @property
    def absent(self) -> bool:
        """Whether the target has no file for this form."""
        return self.original.status == "absent"


@dataclass(frozen=True)
class FigureChange:
    """One figure of a task, before and after.

    Args:
        task: Short name.
        title: The task for people.
        split: Forget or neighbor probes, if either.
        figure: The figure's name.
        original: The original model's.
        edited: The edited model's.
        difference: edited - original, over the items that have it in both records; nothing where absent.
        interval: 95 % paired bootstrap interval of it over items; needs two. An AUC has none.
        absent: Why the task was not asked, if so.
        skipped: Items of the edited model's task without any figure.
    """

    task: str
    title: str
    split: Split | None
    figure: str
    original: Figure
    edited: Figure
    difference: float | None
    interval: tuple[float, float] | None
    absent: str | None = None
    skipped: int = 0


def compare(original: Record, edited: Record) -> list[Change]:
    """The rows of the table: forget first, then neighbor, forms in their usual order.

    Raises:
        DataError: The records asked different probes.
    """
    refuse_unlike(original, edited)
    rows = []
    for before in original.forms:
        after = edited.form(before.form, before.split)
        if after is None:
            continue
        pairs = [
            (a.probability, b.probability)
            for a, b in zip(before.items, after.items, strict=True)
            if a.probability is not None and b.probability is not None
        ]
        relative, interval = relative_change(pairs)
        title = FORMS[before.form].title if before.form in FORMS else before.form
        rows.append(Change(before.form, title, before.split, before, after, relative, interval))
    return rows


def compare_tasks(original: Record, edited: Record) -> list[FigureChange]:
    """Every figure of every task, in the order of the suite.

    Raises:
        DataError: The records asked different probes.
    """
    refuse_unlike(original, edited)
    rows = []
    for before in original.tasks:
        after = edited.task(before.task, before.split)
        if after is None:
            continue
        title = TASKS[before.task].title if before.task in TASKS else before.task
        if before.status == "absent":
            rows.append(
                FigureChange(before.task, title, before.split, "", Figure(), Figure(), None, None, absent=before.reason)
            )
        for name, old in before.figures.items():
            new = after.figures.get(name, Figure())
            difference, interval = _figure_difference(before, after, name)
            rows.append(
                FigureChange(before.task, title, before.split, name, old, new, difference, interval, None, after.skipped)
            )
    return rows


def _figure_difference(before: TaskResult, after: TaskResult, name: str) -> tuple[float | None, tuple[float, float] | None]:
    """The change of one figure over the items that have it in both records."""
    old, new = before.figures[name].value, after.figures.get(name, Figure()).value
    if old is None or new is None:
        return None, None
    attack, _, label = name.rpartition("_")
    if attack in ATTACKS:  # figures of membership inference: items of one file, or of both together
        items = [(a.figures, b.figures) for a, b in zip(before.items, after.items, strict=True) if a.expected == label]
        name = attack
    else:
        items = [(a.figures, b.figures) for a, b in zip(before.items, after.items, strict=True)]
    changes = np.asarray([b[name] - a[name] for a, b in items if name in a and name in b])
    if not len(changes):
        return new - old, None
    means = changes[resampled_rows(len(changes), 0)].mean(1)
    return float(changes.mean()), percentiles(means) if len(changes) > 1 else None


def refuse_unlike(original: Record, edited: Record) -> None:
    """Stop where two records cannot be compared.

    Raises:
        DataError: They asked different probes, or of different models.
    """
    if original.probes_digest != edited.probes_digest:
        raise DataError("the two records asked different probes", where=edited.target, remedy="measure both again")
    if (original.model_fingerprint, original.dtype) != (edited.model_fingerprint, edited.dtype):
        raise DataError("the two records are of different models", where=edited.target, remedy="measure both again")


def relative_change(pairs: Sequence[tuple[float, float]], *, seed: int = 0) -> tuple[float | None, tuple[float, float] | None]:
    """Relative change of the mean over (before, after) pairs, and its 95 % paired bootstrap interval (needs two pairs)."""
    if not pairs or not sum(before for before, _ in pairs):
        return None, None
    values = np.asarray(pairs)  # [items, 2]
    before, after = values.mean(0)
    change = float(after / before - 1)
    if len(pairs) < 2:
        return change, None
    means = values[resampled_rows(len(pairs), seed)].mean(1)  # [resamples, 2]
    if not means[:, 0].all():  # some resample has no change to speak of
        return change, None
    return change, percentiles(means[:, 1] / means[:, 0] - 1)

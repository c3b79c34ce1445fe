"""Before and after, form by form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from formless.errors import DataError
from formless.evaluation.forms import FORMS
from formless.evaluation.record import FormResult, Record, Split
from formless.evaluation.scoring import resampled_rows


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


def compare(original: Record, edited: Record) -> list[Change]:
    """The rows of the table: forget first, then neighbor, forms in their usual order.

    Raises:
        DataError: The records asked different probes.
    """
    if original.probes_digest != edited.probes_digest:
        raise DataError("the two records asked different probes", where=edited.target, remedy="measure both again")
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
    low, high = np.percentile(means[:, 1] / means[:, 0] - 1, [2.5, 97.5])
    return change, (float(low), float(high))

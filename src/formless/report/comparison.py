"""Two records of one target: how an edit changed every metric, over the items that both records have."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from formless.data.rows import Split
from formless.errors import DataError
from formless.evaluation.prompts import KNOWN
from formless.evaluation.record import MetricKey, Record, TaskResult
from formless.evaluation.statistics import Metric, paired_change
from formless.evaluation.verification import refuse_other_items

if TYPE_CHECKING:
    import pandas

    from formless.report.heat_maps import HeatMaps

_NOISE = 1e-6  # of a probability, where the same items go through the model in other batches


@dataclass(frozen=True)
class Change:
    """One metric before and after an edit.

    Args:
        key: Task, split, metric and group.
        original: The original model's metric.
        edited: The edited model's metric.
        difference: edited - original over the items that have the metric in both records, with a paired bootstrap
            confidence interval over items. A metric that is not a mean over items, such as an AUC, has none.
        relative: edited / original - 1 over the same items; None where the original's mean is 0 or nothing is known.
        skipped: Number of items of the task, or of its group, without metrics in the edited model's record.
        applicable: Whether the edit can act on the task at all; see `acts_on`.
        higher_is_better: What lm-eval says of a metric of its own; None for ours, whose entries say it.
    """

    key: MetricKey
    original: Metric
    edited: Metric
    difference: Metric
    relative: Metric | None
    skipped: int
    applicable: bool = True
    higher_is_better: bool | None = None


@dataclass(frozen=True, repr=False)
class Comparison:
    """The changes between two records, in the order of the tasks.

    Args:
        original: The original model's record.
        edited: The edited model's record.
        changes: One for each metric of each task that both records have.

    Examples:
        >>> import formless
        >>> lm, target = formless.load("smollm2"), formless.find_target("sample", "Marie Curie")
        >>> record = formless.evaluate(lm, target, "qa", limit=2, progress=False)
        >>> comparison = formless.compare(record, record)
        >>> comparison.change("qa", "neighbor").difference.value
        0.0
    """

    original: Record
    edited: Record
    changes: tuple[Change, ...]

    def change(self, task: str, split: Split | None = None, metric: str = "probability", group: str | None = None) -> Change:
        """Return the change of one metric.

        Raises:
            KeyError: The records do not both have it.
        """
        key = MetricKey(task, split, metric, group)
        for change in self.changes:
            if change.key == key:
                return change
        raise KeyError(key)

    @property
    def absent(self) -> dict[str, list[str]]:
        """The tasks without metrics in the edited model's record, by reason."""
        return absent_names(self.edited)

    def to_pandas(self) -> pandas.DataFrame:
        """Return one row for each metric; requires pandas."""
        import pandas as pd

        return pd.DataFrame([_flat(change) for change in self.changes])

    def heat_maps(self) -> HeatMaps:
        """Return what was lost in each form by each mention and kind of question, for notebooks.

        Raises:
            DataError: No task was asked by mention or kind, or the original model knows too little there.
        """
        from formless.report.heat_maps import HeatMaps
        from formless.report.mentions import comparison_maps

        found = tuple(comparison_maps(self))
        if not found:
            remedy = "evaluate both with the suite mentions or kinds, or with a model that knows more"
            raise DataError("there is nothing to draw a heat map of", where=self.edited.suite, remedy=remedy)
        return HeatMaps(found)

    def __repr__(self) -> str:
        edits = " + ".join(edit["method"] for edit in self.edited.edits) or "no edit"
        tasks = len(dict.fromkeys(change.key.task for change in self.changes))
        return (
            f"Comparison({self.edited.subject!r}, {self.edited.model}, {edits}: {len(self.changes)} metrics of {tasks} tasks)"
        )

    def _repr_html_(self) -> str:
        """Return the tables of changes, for notebooks."""
        from formless.report.tables import as_html, comparison_tables

        return as_html(comparison_tables(self, self.edited.subject))


def compare(original: Record, edited: Record) -> Comparison:
    """Compare two records that asked the same items of the same model, before and after an edit.

    Examples:
        >>> import formless
        >>> lm, target = formless.load("smollm2"), formless.find_target("sample", "Marie Curie")
        >>> original = formless.evaluate(lm, target, "fb", limit=4, progress=False)
        >>> with formless.unlearn(lm, target).applied(lm):
        ...     edited = formless.evaluate(lm, target, "fb", limit=4, progress=False)
        >>> formless.compare(original, edited).change("fb", "forget").difference.value < 0
        True

    Raises:
        DataError: The records asked different items, or are of different models.
    """
    refuse_unlike(original, edited)
    pairs = [(before, edited.task(before.task, before.split)) for before in original.tasks]
    changes = (_changes(before, after, acts_on(edited, before, after)) for before, after in pairs if after)
    return Comparison(original, edited, tuple(change for own in changes for change in own))


def acts_on(edited: Record, before: TaskResult, after: TaskResult) -> bool:
    """Return whether the record's edits can act on a task.

    An edit of the prompt alone, such as ICU, cannot act on a task that has no user message to put it before: a statement is
    plain text. Nothing changes there by construction, which is no evidence of anything.

    Args:
        edited: The edited model's record.
        before: The original's result of the task.
        after: The edited model's result of the task.
    """
    if not edited.edits or any(edit.get("prefix") is None for edit in edited.edits):  # an edit of weights has no prefix
        return True
    if not after.items:  # a derived task follows from others, or nothing was measured
        return bool(after.metrics)
    pairs = zip(before.items, after.items, strict=True)
    return any((old.prompt, old.answer) != (new.prompt, new.answer) or _differ(old.metrics, new.metrics) for old, new in pairs)


def _differ(before: Mapping[str, float], after: Mapping[str, float]) -> bool:
    """Return whether a metric differs by more than other batches give: the original model is asked foils too."""
    return any(not math.isclose(before[name], value, abs_tol=_NOISE) for name, value in after.items() if name in before)


def _changes(before: TaskResult, after: TaskResult, applicable: bool) -> Iterator[Change]:
    """Compare every metric of a task."""
    for found in before.metrics:
        if found.metric == KNOWN.name:  # what the original model knows does not change
            continue
        old, new = (result.metric(found.metric, found.group) for result in (before, after))
        key = MetricKey(before.task, before.split, found.metric, found.group)
        pairs = item_pairs(before, after, found.metric, found.group)
        if pairs:
            difference, relative = (_metric(*paired_change(pairs, relative=relative), len(pairs)) for relative in (False, True))
        elif old.value is None or new.value is None:
            difference = relative = Metric()
        else:  # a metric that is not a mean over items
            n = min(old.n, new.n)
            difference = _metric(new.value - old.value, None, n)
            relative = _metric(new.value / old.value - 1 if old.value else None, None, n)
        known = relative if relative.value is not None else None
        better = before.harness.higher_is_better.get(found.metric) if before.harness else None
        yield Change(key, old, new, difference, known, after.count_skipped(found.group), applicable, better)


def _metric(value: float | None, ci: tuple[float, float] | None, n: int) -> Metric:
    return Metric(value=value, ci=ci, n=n)


def item_pairs(
    before: TaskResult, after: TaskResult, metric: str, group: str | None = None, *, known_only: bool = False
) -> list[tuple[float, float]]:
    """Return a metric's values before and after, of each item that has it in both results, in file order.

    Args:
        before: One record's result of a task.
        after: The other record's result of the same items.
        metric: The metric's short name.
        group: Only the items of this group.
        known_only: Only the items that the original model knows, whose result is `before`.
    """
    return [
        (old.metrics[metric], new.metrics[metric])
        for old, new in zip(before.items, after.items, strict=True)
        if metric in old.metrics and metric in new.metrics and group in (None, old.group) and (old.is_known or not known_only)
    ]


def refuse_unlike(original: Record, edited: Record) -> None:
    """Refuse two records that cannot be compared.

    Raises:
        DataError: The records asked different items, or are of different models, or their items are not the same although
            their digests are.
    """
    if original.probes_digest != edited.probes_digest:
        raise DataError("the two records asked different items", where=edited.target, remedy="evaluate both again")
    if (original.model_fingerprint, original.dtype) != (edited.model_fingerprint, edited.dtype):
        raise DataError("the two records are of different models", where=edited.target, remedy="evaluate both again")
    refuse_other_items(original, edited)


def absent_tasks(record: Record) -> dict[str, list[TaskResult]]:
    """Return the tasks without metrics by reason: no file for them, or no item that could be measured."""
    reasons: dict[str, list[TaskResult]] = {}
    for result in record.tasks:
        if result.status == "absent":
            reasons.setdefault(result.reason or "no reason is recorded", []).append(result)
        elif all(metric.value is None for metric in result.metrics):
            first = next((item.skipped for item in result.items if item.skipped), "it has no metric")
            reasons.setdefault(f"no item could be measured, the first because {first}", []).append(result)
    return reasons


def absent_names(record: Record) -> dict[str, list[str]]:
    """Return the names of the tasks without metrics, with their split, by reason."""
    return {
        reason: [f"{one.task} ({one.split})" if one.split else one.task for one in results]
        for reason, results in absent_tasks(record).items()
    }


def _flat(change: Change) -> Mapping[str, Any]:
    """Return a change as one row of plain values."""
    row: dict[str, Any] = {**change.key._asdict(), "original": change.original.value, "edited": change.edited.value}
    for name, metric in (("difference", change.difference), ("relative", change.relative or Metric())):
        low, high = metric.ci or (None, None)
        row |= {name: metric.value, f"{name}_ci_low": low, f"{name}_ci_high": high}
    return row | {"items": change.difference.n, "skipped": change.skipped}

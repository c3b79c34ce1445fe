"""Verify that a record holds together: every metric is in its range and follows from the items, and two records match."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pydantic import ValidationError

from formless.data.entries import hidden_character
from formless.edits.edit import EditInfo
from formless.errors import DataError
from formless.evaluation.foils import preference
from formless.evaluation.prompts import KNOWN
from formless.evaluation.record import ItemResult, Record, TaskMetric, TaskResult
from formless.evaluation.registry import TASKS

RANGE = {"probability": (0.0, 1.0), "share": (0.0, 1.0)}
"""The lowest and the highest value by unit; any other unit has every finite number."""

_NAMES = ("model", "model_source", "model_fingerprint", "model_type", "dtype", "subject", "target", "probes_digest", "suite")

TOLERANCE = 1e-6  # of sums in float32


def faults(record: Record) -> Iterator[tuple[str, str]]:
    """Yield the fields that contradict each other or hold what cannot be, each with the reason."""
    for name in _NAMES:
        if hidden := hidden_character(getattr(record, name)):
            yield name, f"it holds the character {hidden}"
    for number, edit in enumerate(record.edits):
        try:
            info = EditInfo.model_validate(edit)
        except ValidationError as error:
            first = error.errors()[0]
            yield ".".join(map(str, ("edits", number, *first["loc"]))), first["msg"]
            continue
        if not isinstance(info.config.get("seed"), int | None):
            yield f"edits.{number}.config.seed", "it is no whole number"
        for name, texts in (("method", [info.method]), ("subject", [info.subject]), ("facts.subjects", info.subjects)):
            if hidden := next(filter(None, map(hidden_character, texts)), None):
                yield f"edits.{number}.{name}", f"it holds the character {hidden}"
    seen = set()
    for number, result in enumerate(record.tasks):
        place = f"tasks.{number} ({result.task}{f', {result.split}' if result.split else ''})"
        if (result.task, result.split) in seen:
            yield place, "the task is there twice"
        seen.add((result.task, result.split))
        for field, reason in _task_faults(result):
            yield f"{place}.{field}", reason


def _task_faults(result: TaskResult) -> Iterator[tuple[str, str]]:
    if result.task in TASKS and result.split not in TASKS[result.task].splits:
        yield "split", f"the task has no split {result.split!r}"
    if result.task in TASKS and result.harness:
        yield "harness", "the task is Formless's own"
    if hidden := hidden_character(str(result.harness or "")):
        yield "harness", f"it holds the character {hidden}"
    if result.status == "absent" and (result.items or result.metrics):
        yield "status", "the task is absent, yet has items or metrics"
    if result.skipped != (own := sum(not item.metrics for item in result.items)):
        yield "skipped", f"it says {result.skipped}, and {own} items have no metrics"
    known = {found.metric for found in result.metrics}
    for index, item in enumerate(result.items):
        for name, value in item.metrics.items():
            if name not in known:
                yield f"items.{index}.metrics.{name}", "no metric of the task has this name"
            elif reason := _out_of_range(result.task, name, value):
                yield f"items.{index}.metrics.{name}", reason
        yield from ((f"items.{index}.{field}", reason) for field, reason in _foil_faults(item))
    keys = [(found.metric, found.group) for found in result.metrics]
    for found in result.metrics:
        field = f"metrics ({found.metric}{f', {found.group}' if found.group else ''})"
        if keys.count((found.metric, found.group)) > 1:
            yield field, "the metric is there twice"
        numbers = [("value", found.value), *(("ci", end) for end in found.ci or ())]
        for name, number in numbers:
            if number is not None and (reason := _out_of_range(result.task, found.metric, number)):
                yield f"{field}.{name}", reason
        if found.ci and found.ci[0] > found.ci[1]:
            yield f"{field}.ci", "its ends are the wrong way round"
        yield from ((f"{field}.{name}", reason) for name, reason in _mean_faults(result, found))


def _foil_faults(item: ItemResult) -> Iterator[tuple[str, str]]:
    """Compare what an item says is known with its foils."""
    for foil, value in item.foils.items():
        if not 0 <= value <= 1 + TOLERANCE:
            yield f"foils.{foil}", f"{value:g} is no probability, which lies between 0 and 1"
    if item.foils and item.metrics.get(KNOWN.name) != preference(item.metrics.get("probability", 0.0), item.foils)[KNOWN.name]:
        yield f"metrics.{KNOWN.name}", "it does not follow from the foils"


def _mean_faults(result: TaskResult, found: TaskMetric) -> Iterator[tuple[str, str]]:
    """Compare a metric with its items; a metric that no item has, such as an AUC, is not their mean."""
    own = [item for item in result.items if found.group in (None, item.group)]
    values = [item.metrics[found.metric] for item in own if found.metric in item.metrics]
    task = TASKS.get(result.task)
    if task and task.derive:  # it has no items
        return
    if not any(found.metric in item.metrics for item in result.items) and (task is None or task.aggregate):
        if found.n > len(result.items) or (found.value is not None and not found.n):
            yield "n", f"it says {found.n}, and there are {len(result.items)} items"
        return
    if found.n != len(values):
        yield "n", f"it says {found.n}, and {len(values)} items have the metric"
        return
    mean = math.fsum(values) / len(values) if values else None
    if found.value is None or mean is None:
        if found.value is not mean:
            yield "value", f"it is {found.value}, and the mean of {len(values)} items is {mean}"
    elif not math.isclose(found.value, mean, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        yield "value", f"it is {found.value:g}, and the mean of the items is {mean:g}"


def _out_of_range(task: str, metric: str, value: float) -> str | None:
    """Return why a metric cannot have a value; only finiteness is known of a task that is not registered."""
    if not math.isfinite(value):
        return f"{value} is no finite number"
    spec = next((spec for spec in TASKS[task].metrics if spec.name == metric), None) if task in TASKS else None
    low, high = RANGE.get(spec.unit if spec else "", (-math.inf, math.inf))
    if low - TOLERANCE <= value <= high + TOLERANCE:
        return None
    return f"{value:g} is no {spec.unit if spec else 'value'}, which lies between {low:g} and {high:g}"


def is_alike(one: Record, other: Record) -> bool:
    """Return whether two records say that they asked the same items of the same model."""
    return all(getattr(one, name) == getattr(other, name) for name in ("probes_digest", "model_fingerprint", "dtype"))


def refuse_other_items(original: Record, edited: Record) -> None:
    """Refuse two records whose items are not the same, task by task.

    Raises:
        DataError: A task that both have has another number of items, or another item, in one of them.
    """
    for before in original.tasks:
        after = edited.task(before.task, before.split)
        if after is None or (before.task in TASKS and TASKS[before.task].derive):
            continue
        place = f"{edited.target}, {before.task}{f' ({before.split})' if before.split else ''}"
        what, remedy = "the items of a record are not those of its original", "evaluate both again"
        if (before.status, len(before.items)) != (after.status, len(after.items)):
            counts = f"{len(after.items)} items, not {len(before.items)}"
            raise DataError(what, where=f"{place}, {counts}", remedy=remedy)
        for number, (one, other) in enumerate(zip(before.items, after.items, strict=True), 1):
            if one.query != other.query:
                raise DataError(what, where=f"{place}, item {number}, field query", remedy=remedy)

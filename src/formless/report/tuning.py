"""From the sweep of `formless tune` to the setting that its rule chooses, and to a recipe with the evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from formless.data.rows import SPLITS
from formless.errors import DataError
from formless.evaluation.statistics import mean
from formless.experiment.runs import ORIGINAL, Run, read_plan
from formless.experiment.tune import tuned_setting
from formless.methods.base import TunedSetting
from formless.models.settings import ModelSettings
from formless.report.ratios import KnownItems, Place, Ratios
from formless.report.runs import CollectedRuns, collect_folder
from formless.report.tables import Table

LEAST_RETENTION = 0.95
DECIMALS = 3

RULE = (
    f"Of the settings that retain at least {LEAST_RETENTION} of the neighbors, the one that forgets most. "
    "If none retains that much, the one with the largest harmonic mean of forgetting and retention. "
    f"Values are rounded to {DECIMALS} decimals; among equal ones, the earlier layers win, then the weaker edit."
)
"""How a setting is chosen; the words for `choose`."""

MEANING = (
    "Forgetting is 1 - edited / original of a form's metric on forget items, retention is edited / original on neighbor items, "
    "at most 1. Both are means over the forms of a concept, then over concepts."
)


@dataclass(frozen=True)
class Tried:
    """A method with one window of layers and one value of its tuned setting, over the concepts.

    Args:
        method: The method, one that `formless tune` takes.
        layers: The window.
        value: The value.
        forgetting: Mean forgetting; None while a concept is missing.
        retention: Mean retention; the same.
        concepts: How many concepts it is over.
        missing: Why it is not complete, in words; None if it is.
    """

    method: str
    layers: tuple[int, ...]
    value: float
    forgetting: float | None
    retention: float | None
    concepts: int
    missing: str | None = None

    @property
    def setting(self) -> TunedSetting:
        """The setting that has the value."""
        return tuned_setting(self.method)

    @property
    def harmonic(self) -> float | None:
        """The harmonic mean of forgetting, at least 0, and retention; None while either is missing."""
        if self.forgetting is None or self.retention is None:
            return None
        parts = max(self.forgetting, 0.0), max(self.retention, 0.0)
        return 2 * parts[0] * parts[1] / sum(parts) if min(parts) > 0 else 0.0


def choose(tried: Sequence[Tried]) -> Tried:
    """Return the setting that `RULE` chooses among those that are complete.

    Raises:
        DataError: None is complete.
    """
    known = [one for one in tried if one.missing is None and one.forgetting is not None and one.retention is not None]
    if not known:
        raise DataError("no setting is measured on every concept", remedy="repeat the command; see the failed runs' logs")
    keeping = [one for one in known if round(one.retention or 0.0, DECIMALS) >= LEAST_RETENTION]

    def rank(one: Tried) -> tuple[float, list[int], float]:
        value = one.forgetting if keeping else one.harmonic
        return -round(value or 0.0, DECIMALS), list(one.layers), one.setting.weakest_first(one.value)

    return min(keeping or known, key=rank)


def read_tried(out: Path) -> list[Tried]:
    """Return every setting of a sweep in its folder, in the order of the sweep.

    Raises:
        DataError: There is no sweep of `formless tune`, or the original model knows nothing of any concept.
    """
    plan = [run for run in read_plan(out) if run.method != ORIGINAL]
    found = collect_folder(out)
    by_label: dict[str, list[Run]] = {}
    for run in plan:
        by_label.setdefault(run.label, []).append(run)
    tried = [_tried(runs, found) for runs in by_label.values()]
    if tried and all(one.missing is None and one.concepts == 0 for one in tried):
        what = "the original model knows nothing that the suite asks about any concept"
        raise DataError(what, where=out, remedy="choose other concepts, or a larger suite or limit")
    return tried


def _tried(runs: Sequence[Run], found: CollectedRuns) -> Tried:
    """Return one setting over its concepts."""
    own = [one for one in found.complete if one.condition.method == runs[0].label]
    failed = [one.reason for one in found.failed if one.condition.method == runs[0].label]
    pairs = [pair for one in own if one.ratios and (pair := concept_means(one.ratios))]
    done = len(own) == len(runs) and all(one.ratios is not None for one in own)
    missing = f"failed: {failed[0]}" if failed else None if done else f"{len(own)} of {len(runs)} concepts are measured"
    forgetting, retention = (mean(list(column)) for column in zip(*pairs, strict=True)) if pairs else (None, None)
    method, config = runs[0].method, runs[0].config
    value = float(config[tuned_setting(method).name])
    return Tried(method, tuple(config["layers"]), value, forgetting, retention, len(pairs), missing)


def concept_means(found: Ratios) -> tuple[float, float] | None:
    """Return mean forgetting and mean retention over the tasks with known items of a concept; None without one on both splits.

    Beside the forms these are other ways to name the concept, the mean of its mentions, and reverse questions.
    """
    forget, neighbor = (_by_task(found.items.get(split, {})) for split in SPLITS)
    if not (forget and neighbor):
        return None
    return mean([1 - ratio for ratio in forget]), mean([min(ratio, 1.0) for ratio in neighbor])


def _by_task(items: Mapping[Place, KnownItems]) -> list[float]:
    """Return edited over original of each task, the mean over its groups."""
    by: dict[str, list[float]] = {}
    for (task, _), own in items.items():
        by.setdefault(task, []).append(own.ratio)
    return [mean(ratios) for ratios in by.values()]


def tuning_table(tried: Sequence[Tried], chosen: Tried | None = None) -> Table:
    """Return every setting as text, the chosen one marked."""
    rows = []
    for one in tried:
        values = [f"{one.value:g}", *("–" if value is None else f"{value:.3f}" for value in _values(one)), str(one.concepts)]
        note = "chosen" if one is chosen else one.missing or ""
        rows.append((_layers(one), note, *values))
    columns = ("layers", "note", tried[0].setting.name, "forgetting", "retention", "harmonic mean", "concepts")
    return Table(f"{tried[0].method}: layers and {tried[0].setting.name}", columns, tuple(rows), labels=2)


def _layers(one: Tried) -> str:
    return f"{one.layers[0]}-{one.layers[-1]}" if len(one.layers) > 1 else str(one.layers[0])


def _values(one: Tried) -> tuple[float | None, float | None, float | None]:
    return one.forgetting, one.retention, one.harmonic


def recipe(
    settings: ModelSettings, chosen: Tried, tried: Sequence[Tried], other: Mapping[str, Any], about: Mapping[str, Any]
) -> str:
    """Return a recipe as YAML: the model's own with the method's settings replaced, and the evidence.

    Args:
        settings: The model's recipe before.
        chosen: The setting that the rule chose.
        tried: Every setting.
        other: Settings of the method that were the same everywhere.
        about: What was measured: command, date, model, data, concepts and so on; written as it is.
    """
    method, name = chosen.method, chosen.setting.name
    own = settings.methods.get(method, {}) | dict(other) | {"layers": list(chosen.layers), name: chosen.value}
    values = {"forgetting": chosen.forgetting, "retention": chosen.retention}
    evidence = {
        "chosen": {"layers": _layers(chosen), name: chosen.value} | {key: _rounded(value) for key, value in values.items()},
        "rule": RULE, "meaning": MEANING, **about,
        "columns": ["layers", name, "forgetting", "retention", "harmonic mean", "concepts"],
        "rows": [[_layers(one), one.value, *map(_rounded, _values(one)), one.concepts] for one in tried],
    }  # fmt: skip
    if absent := {f"{_layers(one)}, {name} {one.value:g}": one.missing for one in tried if one.missing}:
        evidence["not complete"] = absent
    content = settings.model_dump(mode="json", exclude_defaults=True) | {
        "methods": settings.methods | {method: own}, "evidence": evidence,
    }  # fmt: skip
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DECIMALS)

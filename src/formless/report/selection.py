"""Choose each method's settings on development targets, by one rule for all methods.

The rule: of a method's settings, take the one with the largest mean, over targets, of the largest forgetting at a retention of
at least the level, on each target's own curve. A curve begins at the original model, so every target has such a value, also one
whose curve stays above the level. A setting that lacks a target which another setting of the method has is not chosen. Of equal
settings the first counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from formless.errors import DataError, UserError
from formless.evaluation.statistics import Estimate, mean_estimate
from formless.experiment.config import experiment_keys
from formless.experiment.grid import chosen_targets
from formless.experiment.runs import ORIGINAL, read_plan
from formless.report.frontier import Curve, Curves, forgetting_within
from formless.report.ratios import FORGETTING
from formless.report.runs import Condition
from formless.report.tables import Table, number, spread_text


@dataclass(frozen=True)
class Choice:
    """The chosen settings of one method.

    Args:
        method: The method's name in the registry.
        label: The label of the chosen settings.
        forgetting: The mean over targets that the rule compares.
        settings: Number of settings that were compared.
        incomplete: Labels of settings that lack a target.
    """

    method: str
    label: str
    forgetting: Estimate
    settings: int
    incomplete: tuple[str, ...]


def choose(curves: Curves, level: float) -> list[Choice]:
    """Return the chosen settings of every method that has a curve, in the order of the experiment.

    Raises:
        UserError: The curves are of several models.
        DataError: No setting of a method has all of the method's targets.
    """
    models = {condition.model for condition in curves.targets}
    if len(models) > 1:
        remedy = "tune each model in a folder of its own"
        raise UserError("settings are chosen for one model", where=", ".join(sorted(models)), remedy=remedy)
    by_method: dict[str, dict[Condition, Mapping[str, Curve]]] = {}
    for condition, targets in curves.targets.items():
        by_method.setdefault(curves.methods[condition], {})[condition] = targets
    return [_choice(method, settings, level) for method, settings in by_method.items()]


def _choice(method: str, settings: Mapping[Condition, Mapping[str, Curve]], level: float) -> Choice:
    every = {target for targets in settings.values() for target in targets}
    complete = {
        condition.method: mean_estimate([forgetting_within(curve.pairs(FORGETTING), level) for curve in targets.values()])
        for condition, targets in settings.items()
        if targets.keys() == every
    }
    incomplete = tuple(condition.method for condition in settings if condition.method not in complete)
    if not complete:
        raise DataError("no setting has a curve for every target", where=method, remedy="repeat `formless run` first")
    label = max(complete, key=lambda name: complete[name].value)
    return Choice(method, label, complete[label], len(complete), incomplete)


def choice_table(choices: Sequence[Choice], level: float) -> Table:
    """Return the chosen settings, a row for each method."""
    rows = tuple(
        (one.method, one.label, number(one.forgetting.value), spread_text(one.forgetting), str(one.settings)) for one in choices
    )
    lacking = "; ".join(f"{one.method}: {', '.join(one.incomplete)} without some target" for one in choices if one.incomplete)
    title = f"chosen at {100 * level:g} % retention"
    return Table(title, ("method", "label", "forgetting", "95 % CI", "of settings"), rows, lacking, labels=2)


def chosen_experiment(out: Path, choices: Sequence[Choice]) -> str:
    """Return an experiment as YAML: the chosen settings, on the targets of the data set that they were not chosen on.

    Methods that had nothing to choose, such as the original model, stay in it.

    Args:
        out: The folder of runs on which the settings were chosen.
        choices: The chosen settings.

    Raises:
        DataError: The data set has no other targets.
    """
    keys: dict[str, Any] = experiment_keys(str(out))
    plan = read_plan(out)
    compared = {one.method for one in choices}
    labels = {one.label for one in choices} | {run.label for run in plan if run.method not in compared} | {ORIGINAL}
    used = {run.target for run in plan}
    names = [target.folder.name for target in chosen_targets(keys["data"], "all") if target.folder]
    others = [name for name in names if name not in used]
    if not others:
        remedy = "choose settings on some targets only, `formless run --targets 1-4`"
        raise DataError("the data set has no target that the settings were not chosen on", where=keys["data"], remedy=remedy)
    methods = [entry for entry in keys["methods"] if entry["label"] in labels]
    whole = keys | {"name": f"{keys['name']}-chosen", "methods": methods, "targets": others}
    return yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)

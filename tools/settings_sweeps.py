"""Measure settings of ROCR over concepts, for the results pages: what `tools/tuning.py` and `tools/null_spaces.py` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from formless.cli import terminal
from formless.cli.status import sweep_progress
from formless.evaluation.statistics import Estimate as Measured
from formless.evaluation.statistics import mean, mean_estimate
from formless.experiment.config import Experiment, build_experiment
from formless.experiment.executors.base import Resources
from formless.experiment.runs import ORIGINAL, RESULTS_VERSION
from formless.experiment.sweep import sweep
from formless.methods.rocr.config import PUBLISHED_REDIRECT
from formless.report.independence import independence_of
from formless.report.ratios import forms
from formless.report.runs import RunMetrics, collect_folder
from formless.report.tables import task_title
from formless.report.tuning import concept_means
from tools.results import Cell, Column, Estimate

ALL_FORMS = "mean over forms"
COLUMNS = [
    Column(name="settings"),
    Column(name="asked as"),
    Column(name="concepts"),
    Column(name="forgetting", unit="%", format=".1f"),
    Column(name="retention", unit="%", format=".1f"),
]


def experiment(
    model: dict[str, Any], settings: Mapping[str, dict[str, Any]], targets: str, suite: str, limit: int | None
) -> Experiment:
    """Return the original model and ROCR with each of some settings on concepts of the sample set; edits are not kept.

    Args:
        model: Its name and dtype.
        settings: Settings of ROCR by label.
        targets: The concepts, as in `formless run --targets`.
        suite: The tasks.
        limit: Most rows per file and task.
    """
    rocr = {"method": "rocr", "redirect": PUBLISHED_REDIRECT}
    methods = [{"method": ORIGINAL}, *(rocr | {"label": label} | own for label, own in settings.items())]
    keys = {"models": [model], "methods": methods, "targets": targets, "suite": suite, "limit": limit, "save_edits": False}
    return build_experiment(keys, "a results page")


def measure(wanted: Experiment, out: Path) -> None:
    """Execute the runs that are missing in a folder, with their progress on the terminal."""
    terminal.quiet_transformers()
    with sweep_progress(out) as callback:
        sweep(wanted, out, Resources().executor, callback)


def complete_runs(out: Path, labels: Sequence[str]) -> tuple[dict[str, list[RunMetrics]], list[str]]:
    """Return the runs of each label on the concepts on which all of them are complete, and the concepts that lack one."""
    found = [run for run in collect_folder(out).complete if run.ratios is not None]
    by_label = {label: {run.target: run for run in found if run.condition.method == label} for label in labels}
    every = dict.fromkeys(run.target for run in collect_folder(out).complete)
    whole = [target for target in every if all(target in own for own in by_label.values())]
    return {label: [own[target] for target in whole] for label, own in by_label.items()}, [
        target for target in every if target not in whole
    ]


def rows(title: str, runs: Sequence[RunMetrics]) -> list[list[Cell]]:
    """Return one row per form, and one of the means that `formless tune` compares."""
    ratios = [run.ratios for run in runs if run.ratios is not None]
    whole = independence_of([[one] for one in ratios])
    found: list[list[Cell]] = []
    for form in forms():
        forgetting, retention = whole.forgetting.get(form), whole.retention.get(form)
        if forgetting or retention:
            n = (forgetting or retention).n  # type: ignore[union-attr]
            found.append([title, task_title(form), n, _cell(forgetting), _cell(retention)])
    pairs = [pair for one in ratios if (pair := concept_means(one))]
    if pairs:
        forgetting, retention = (mean_estimate(list(column)) for column in zip(*pairs, strict=True))
        found.append([title, ALL_FORMS, len(pairs), _cell(forgetting), _cell(retention)])
    return found


def which_items() -> str:
    """Return a note about the items that count."""
    return f"Results version {RESULTS_VERSION}: the items that the original model knows."


def means(runs: Sequence[RunMetrics]) -> tuple[float, float]:
    """Return mean forgetting and mean retention over concepts, as `formless tune` compares them."""
    pairs = [pair for run in runs if run.ratios and (pair := concept_means(run.ratios))]
    forgetting, retention = (mean(list(column)) for column in zip(*pairs, strict=True))
    return forgetting, retention


def _cell(found: Measured | None) -> Cell:
    """Return an estimate in percent."""
    if found is None:
        return None
    value = round(100 * found.value, 1)
    return value if found.ci is None else Estimate(value=value, ci=(round(100 * found.ci[0], 1), round(100 * found.ci[1], 1)))

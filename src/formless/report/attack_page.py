"""Tables, CSV and the page of attacks on the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from formless import store
from formless.evaluation.record import MetricKey
from formless.evaluation.statistics import MIN_TARGETS, Estimate
from formless.experiment.attacks.attack import AttackSettings
from formless.report.attack_plots import attack_plot
from formless.report.attack_recall import ORIGINAL_RECALL, recall_sentence
from formless.report.attacks import (
    AGAINST_QUANTIZED,
    BEFORE,
    HALF_STEP,
    RECALL_BEFORE,
    STEP,
    TRAINED_RECALL,
    AttackResult,
    AttackSummary,
)
from formless.report.page import report_environment
from formless.report.plots import form_colors
from formless.report.ratios import FORGETTING, forgetting_key, forms
from formless.report.recall import WORST_CASE_RECALL
from formless.report.runs import Condition
from formless.report.tables import Plain, Table, number, spread_text, task_title


def headline(found: AttackSummary) -> str:
    """Return what attacks bring back of one method, in one sentence."""
    return recall_sentence(found.condition.method, found.overall)


def removal(found: AttackSummary) -> str:
    """Return what removing the adapter brings back, which needs no attack."""
    back = found.overall.get(ORIGINAL_RECALL)
    share = f": recall {_percent(back.value)}" if back else ""
    return f"Whoever removes the adapter, or has the original weights, has all of it back{share}."


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def attack_table(found: AttackSummary, title: str = "") -> Table:
    """Return one method's attacks and points, the worst first: facts said, forgetting by form, and what survives."""
    shown = [form for form in forms() if any(forgetting_key(form) in one.values for one in found.results)]
    rows = tuple(
        (
            _name(one), _step(one), _change(one, RECALL_BEFORE, WORST_CASE_RECALL),
            *(_change(one, BEFORE._replace(task=form), forgetting_key(form)) for form in shown),
            *map(_percent, (one.surviving, one.value(TRAINED_RECALL), one.value(HALF_STEP))),
            str(max((estimate.n for estimate in one.values.values()), default=0)),
        )
        for one in found.results
    )  # fmt: skip
    heads = ("attack", "step", "facts said", *(f"forgotten: {task_title(form)}" for form in shown))
    further = ("forgetting left", "trained facts said", "below half a step", "targets")
    return Table(title or found.condition.title, (*heads, *further), rows, found.gaps)


def detail_table(found: AttackSummary) -> Table:
    """Return every metric of one method's attacks, a row each."""
    rows = tuple(
        (_name(one), _step(one), _metric_title(key), number(estimate.value), spread_text(estimate), str(estimate.n))
        for one in found.results
        for key, estimate in one.values.items()
        if key not in (STEP, AGAINST_QUANTIZED)
    )
    columns = ("attack", "step", "metric", "value", "95 % CI", "targets")
    return Table(found.condition.title, columns, rows, labels=3)


def _name(found: AttackResult) -> str:
    """Return the attack's name; it says where the original could be attacked too and was not."""
    is_unlike = found.attack.attacks_original and found.value(AGAINST_QUANTIZED) != 1
    return f"{found.attack.name}, original not attacked" if is_unlike else found.attack.name


def _step(found: AttackResult) -> str:
    step = found.value(STEP)
    return "" if step is None else f"{step:.3g}"


def _change(found: AttackResult, before: MetricKey, after: MetricKey) -> str:
    old, new = found.value(before), found.value(after)
    return "–" if old is None or new is None else f"{100 * old:.0f} → {100 * new:.0f} %"


def _metric_title(key: MetricKey) -> str:
    names = {
        WORST_CASE_RECALL: "known facts said", RECALL_BEFORE: "known facts said, before", FORGETTING: "forgetting",
        BEFORE: "forgetting, before", TRAINED_RECALL: "trained facts said", HALF_STEP: "changes below half a quantization step",
    }  # fmt: skip
    title = names[key._replace(task=None)]
    return f"{title}: {task_title(key.task)}" if key.task else title


def attack_rows(found: Sequence[AttackSummary]) -> list[Plain]:
    """Return plain numbers for CSV, a row for each model, method, attack, point and metric.

    Columns: model, method, attack, point (counted from 1), metric, task, value, ci_low, ci_high, targets. Rows without an
    attack are about all of them: `worst_case_recall_under_attack` is the headline, beside the recall without an attack and that
    of the original model.
    """
    rows = []
    for one in found:
        rows += [_plain(one.condition, None, None, key, estimate) for key, estimate in one.overall.items()]
        for result in one.results:
            rows += [
                _plain(one.condition, result.attack.name, result.number, key, estimate)
                for key, estimate in result.values.items()
            ]
    return rows


def _plain(condition: Condition, attack: str | None, point: int | None, key: MetricKey, found: Estimate) -> Plain:
    low, high = found.ci or (None, None)
    return {
        "model": condition.model, "method": condition.method, "attack": attack, "point": point, "metric": key.metric,
        "task": key.task, "value": found.value, "ci_low": low, "ci_high": high, "targets": found.n,
    }  # fmt: skip


def write_attack_page(
    path: Path,
    found: Sequence[AttackSummary],
    settings: AttackSettings,
    *,
    without: Mapping[Condition, str] | None = None,
    failed: Sequence[tuple[str, str]] = (),
    command: str = "",
) -> None:
    """Write the page about attacks on the weights of a folder of runs.

    Args:
        path: The HTML file.
        found: Every model and method that was attacked.
        settings: How models were fine-tuned.
        without: What is left out of models and methods that were not attacked.
        failed: Title and reason of what could not be measured.
        command: How to write the page again.

    Raises:
        OutputError: The file cannot be written.
    """
    models: list[dict[str, Any]] = []
    for name in dict.fromkeys(one.condition.model for one in found):
        own = [one for one in found if one.condition.model == name]
        attacks = {result.attack.name: result.attack for one in own for result in one.results}
        plots = [(attack.title, attack_plot(short, own)) for short, attack in sorted(attacks.items())]
        details = [(one, headline(one), removal(one), attack_table(one), detail_table(one)) for one in own]
        models.append({"name": name, "plots": plots, "details": details})
    page = report_environment().get_template("attacks.html.j2").render(
        models=models, settings=settings, without={condition.title: gaps for condition, gaps in (without or {}).items()},
        failed=failed, command=command, form_colors=form_colors(), min_targets=MIN_TARGETS,
    )  # fmt: skip
    store.write_text(path, page)

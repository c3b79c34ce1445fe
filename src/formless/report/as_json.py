"""What `--json` prints of summaries, comparisons and edits: plain types, numbers as they were measured, None for none.

A number that was estimated is an object with `value`, `ci_low`, `ci_high` and `n`; it is None where nothing was measured. A
metric has the keys of `MetricKey`: task, split, metric and group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from formless.evaluation.record import MetricKey, Record
from formless.evaluation.statistics import Estimate, Metric
from formless.report.comparison import absent_names, compare
from formless.report.independence import independence
from formless.report.open_unlearning import TOOL, Evaluation
from formless.report.runs import CollectedRuns, FailedRun
from formless.report.summary import MethodSummary, Summary
from formless.report.verdict import verdict

if TYPE_CHECKING:  # they bring matplotlib, which summaries do without
    from formless.report.folders import FolderComparison
    from formless.report.selection import Choice
    from formless.report.tuning import Tried

Object = dict[str, Any]


def estimate_json(found: Estimate | Metric | None) -> Object | None:
    """Return one number; of an estimate over targets also its p-value, and each target's value where there are few."""
    if found is None or found.value is None:
        return None
    low, high = found.ci or (None, None)
    own = {"value": found.value, "ci_low": low, "ci_high": high, "n": found.n}
    return own | {"p": found.p, "values": list(found.values)} if isinstance(found, Estimate) else own


def summaries_json(summaries: Sequence[MethodSummary], collected: CollectedRuns, baseline: str) -> Object:
    """Return every metric of every method, what open-unlearning measured, and what does not count."""
    return {
        "baseline": baseline,
        "methods": [
            {
                "model": one.condition.model, "method": one.condition.method, "is_baseline": one.is_baseline,
                "targets": list(one.targets), "seeds": one.seeds, "runs": one.runs, "complete": one.complete,
                "failed": one.failed, "missing": one.missing, "targets_left_out": list(one.left_out), "skipped": one.skipped,
                "metrics": _summary_rows(one.metrics, "baseline", "mean"),
            }
            for one in summaries
        ],
        "evaluations": [_evaluation(one) for one in collected.evaluations],
        "failed": [_failed(run) for run in collected.failed],
        "missing": [title for _, title in collected.missing],
        "left_out": dict(collected.left_out),
    }  # fmt: skip


def _evaluation(one: Evaluation) -> Object:
    """Return what open-unlearning measured; n is null where its file does not tell the items."""
    return {
        "tool": TOOL, "name": one.name, "folder": str(one.folder), "benchmarks": list(one.benchmarks),
        "metrics": [
            {**key._asdict(), "name": one.names[key], "value": found.value,
             **dict(zip(("ci_low", "ci_high"), found.ci or (None, None), strict=True)), "n": found.n or None}
            for key, found in one.metrics.items()
        ],
    }  # fmt: skip


def _summary_rows(metrics: Mapping[MetricKey, Summary], before: str, after: str) -> list[Object]:
    return [
        {
            **key._asdict(), before: estimate_json(found.baseline), after: estimate_json(found.value),
            "difference": estimate_json(found.difference), "relative": estimate_json(found.relative),
        }
        for key, found in metrics.items()
    ]  # fmt: skip


def _failed(run: FailedRun) -> Object:
    return {"run": run.title, "reason": run.reason}


def folders_json(found: FolderComparison, names: tuple[str, str]) -> Object:
    """Return what differs between two folders of runs."""
    return {
        "folders": list(names),
        "settings": [{"setting": name, "first": one, "second": other} for name, one, other in found.settings],
        "shared": [
            {
                "model": one.condition.model, "method": one.condition.method, "targets": list(one.targets), "runs": one.runs,
                "unlike": one.unlike, "metrics": _summary_rows(one.metrics, "first", "second"),
            }
            for one in found.shared
        ],
        "only": [list(titles) for titles in found.only],
        "failed": [[_failed(run) for run in runs] for runs in found.failed],
    }  # fmt: skip


def edit_json(original: Record, edited: Record | None) -> Object:
    """Return what was measured on one target: of the original model alone, or before and after an edit."""
    record = edited or original
    whole = {
        "subject": record.subject, "target": record.target, "model": record.model, "dtype": record.dtype,
        "suite": record.suite, "limit": record.limit, "edits": record.edits,
        "metrics": _change_rows(original, edited) if edited else _metric_rows(original),
        "form_independence": None, "verdict": None,
        "not_measured": [{"reason": reason, "tasks": names} for reason, names in absent_names(record).items()],
    }  # fmt: skip
    if edited:
        found = independence([(original, edited)]).estimates()
        whole["form_independence"] = [{**key._asdict(), **(estimate_json(one) or {})} for key, one in found.items()]
        whole["verdict"] = str(verdict(original, edited))
    return whole


def _metric_rows(record: Record) -> list[Object]:
    nothing = {"edited": None, "difference": None, "relative": None, "applicable": True}
    return [
        {**MetricKey(result.task, result.split, found.metric, found.group)._asdict(), "original": estimate_json(found),
         **nothing, "skipped": result.count_skipped(found.group)}
        for result in record.tasks for found in result.metrics
    ]  # fmt: skip


def _change_rows(original: Record, edited: Record) -> list[Object]:
    return [
        {**change.key._asdict(), "original": estimate_json(change.original), "edited": estimate_json(change.edited),
         "difference": estimate_json(change.difference), "relative": estimate_json(change.relative),
         "applicable": change.applicable, "skipped": change.skipped}
        for change in compare(original, edited).changes
    ]  # fmt: skip


def tried_json(one: Tried) -> Object:
    """Return one setting that `formless tune` tried."""
    return {
        "layers": list(one.layers), one.setting.name: one.value, "forgetting": one.forgetting, "retention": one.retention,
        "harmonic_mean": one.harmonic, "concepts": one.concepts, "missing": one.missing,
    }  # fmt: skip


def choice_json(one: Choice) -> Object:
    """Return the chosen settings of one method."""
    return {
        "method": one.method, "label": one.label, "forgetting": estimate_json(one.forgetting), "settings": one.settings,
        "incomplete": list(one.incomplete),
    }  # fmt: skip

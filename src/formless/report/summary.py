"""Metrics over targets: for each model and method, over the same targets as the baseline, with what is not in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from formless.errors import UnknownNameError
from formless.evaluation.record import MetricKey
from formless.evaluation.statistics import Estimate, change_estimate, mean_estimate
from formless.experiment.runs import ORIGINAL
from formless.report.independence import Independence, independence_of, mean_over_seeds
from formless.report.open_unlearning import TOOL, Evaluation
from formless.report.runs import CollectedRuns, Condition, RunMetrics

TOOL_NOTE: Final = (
    f"Rows of {TOOL} are over the items of one forget set, with its own prompts; the model is not stated. The AUC of "
    "membership inference is 1 - theirs. Ours are asked as they are with --protocol open-unlearning."
)

K = TypeVar("K")
Values = Mapping[MetricKey, float]


@dataclass(frozen=True)
class Summary:
    """One metric of one method, over targets; a target's seeds are averaged first.

    Args:
        value: The mean. Its p, if any, is of the permutation tests of form independence.
        baseline: The baseline's mean over the same targets; None for the baseline itself, and for metrics that it lacks.
        difference: value - baseline, with a paired confidence interval.
        relative: value / baseline - 1, with a paired confidence interval; None where the baseline is 0.
    """

    value: Estimate
    baseline: Estimate | None = None
    difference: Estimate | None = None
    relative: Estimate | None = None


@dataclass(frozen=True)
class MethodSummary:
    """One model and method.

    Args:
        condition: Model and method.
        is_baseline: Whether the others are compared with it.
        targets: The targets that count.
        seeds: The largest number of seeds of a target.
        runs: Number of runs that were planned.
        complete: Number of runs with a record.
        failed: Number of runs that failed.
        missing: Number of runs that are not done yet.
        left_out: Targets that the baseline lacks, or was asked other items of.
        skipped: Number of items without metrics, of the runs that count.
        metrics: The summary of each metric.
        independence: Forgetting and retention by form, with tests; None without an original.
        evaluation: What open-unlearning measured, of a row that is not ours; its numbers are over items.
    """

    condition: Condition
    is_baseline: bool
    targets: tuple[str, ...]
    seeds: int
    runs: int
    complete: int
    failed: int
    missing: int
    left_out: tuple[str, ...]
    skipped: int
    metrics: Mapping[MetricKey, Summary]
    independence: Independence | None
    evaluation: Evaluation | None = None

    @property
    def gaps(self) -> str:
        """What does not count, as one clause; empty where everything does."""
        counts = {
            "runs failed": self.failed, "runs missing": self.missing, "items skipped": self.skipped,
            "targets without a baseline left out": len(self.left_out),
        }  # fmt: skip
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def summarize(collected: CollectedRuns, baseline: str = ORIGINAL) -> list[MethodSummary]:
    """Return a summary for every model and method that was planned, in that order, each model's baseline among them.

    Args:
        collected: The runs.
        baseline: A method as tables call it; `original` is the untouched model, whatever its label.

    Raises:
        UnknownNameError: No method has the baseline's name.
    """
    runs: dict[Condition, dict[str, list[RunMetrics]]] = {condition: {} for condition in collected.planned}
    for run in collected.complete:
        runs[run.condition].setdefault(run.target, []).append(run)
    names = {condition.method for condition in runs}
    if baseline != ORIGINAL and baseline not in names:
        raise UnknownNameError("method", baseline, names | {ORIGINAL}, where="--baseline")
    failed = Counter(run.condition for run in collected.failed)
    missing = Counter(condition for condition, _ in collected.missing)
    return [
        _method_summary(condition, runs, baseline, collected.planned[condition], failed[condition], missing[condition])
        for condition in runs
    ]


def _method_summary(
    condition: Condition,
    runs: Mapping[Condition, Mapping[str, list[RunMetrics]]],
    baseline: str,
    planned: int,
    failed: int,
    missing: int,
) -> MethodSummary:
    own = runs[condition]
    is_baseline = condition.method == baseline or (baseline == ORIGINAL and _are_original(own))
    reference = runs.get(Condition(condition.model, baseline), {})
    pairs: dict[str, tuple[Values, Values]] = {}  # target -> baseline and own metrics
    for target, seeds in own.items():
        before = {} if is_baseline else _before(seeds, None if baseline == ORIGINAL else reference.get(target, []))
        if before is not None:
            pairs[target] = before, mean_over_seeds([seed.metrics for seed in seeds])
    counted = {target: own[target] for target in pairs}
    found = [ratios for seeds in counted.values() if (ratios := [seed.ratios for seed in seeds if seed.ratios])]
    independence = independence_of(found) if found else None
    metrics = summarize_pairs(list(pairs.values()))
    for key, one in independence.estimates().items() if independence else ():
        metrics[key] = replace(metrics[key], value=one) if key in metrics else Summary(one)
    return MethodSummary(
        condition, is_baseline, targets=tuple(counted), seeds=max(map(len, counted.values()), default=0), runs=planned,
        complete=sum(map(len, own.values())), failed=failed, missing=missing,
        left_out=tuple(target for target in own if target not in counted),
        skipped=sum(seed.skipped for seeds in counted.values() for seed in seeds),
        metrics=metrics, independence=independence,
    )  # fmt: skip


def _are_original(runs: Mapping[str, Sequence[RunMetrics]]) -> bool:
    return bool(runs) and all(seed.is_original for seeds in runs.values() for seed in seeds)


def _before(seeds: Sequence[RunMetrics], reference: Sequence[RunMetrics] | None) -> Values | None:
    """Return the baseline's metrics of a target: those of each run's own original, or of another method; None without."""
    if reference is None:
        known = [seed.original for seed in seeds if seed.original is not None]
        return mean_over_seeds(known) if len(known) == len(seeds) else None
    alike = {seed.items for seed in seeds} == {seed.items for seed in reference}
    return mean_over_seeds([seed.metrics for seed in reference]) if alike else None


def summarize_pairs(
    pairs: Sequence[tuple[Mapping[K, float], Mapping[K, float]]], p_values: Mapping[K, float | None] | None = None
) -> dict[K, Summary]:
    """Return the summary of every metric over targets.

    Args:
        pairs: Of each target the baseline's metrics and the method's own, by any kind of key.
        p_values: Of the metrics that were tested.
    """
    found, p_values = {}, p_values or {}
    for key in dict.fromkeys(key for _, own in pairs for key in own):
        known = [(before.get(key), own[key]) for before, own in pairs if key in own]
        both = [(before, value) for before, value in known if before is not None]
        if both:
            found[key] = _compared(both, p_values.get(key))
        else:
            found[key] = Summary(mean_estimate([value for _, value in known], p_values.get(key)))
    return found


def _compared(pairs: Sequence[tuple[float, float]], p: float | None) -> Summary:
    """Return the summary of a metric over the targets where the baseline has it too."""
    before, values = ([pair[side] for pair in pairs] for side in (0, 1))
    return Summary(
        mean_estimate(values, p), mean_estimate(before), change_estimate(pairs), change_estimate(pairs, relative=True)
    )


def evaluation_rows(collected: CollectedRuns) -> list[MethodSummary]:
    """Return a row for each evaluation of open-unlearning, of one forget set and without a baseline.

    They stand beside the one model of ours that was summarized. The files do not name theirs, so that beside several models,
    or none, they stand apart.
    """
    models = {condition.model for condition in collected.planned}
    model = models.pop() if len(models) == 1 else TOOL
    return [
        MethodSummary(
            Condition(model, one.title), is_baseline=False, targets=(" + ".join(one.benchmarks),), seeds=1, runs=1, complete=1,
            failed=0, missing=0, left_out=(), skipped=0, independence=None, evaluation=one,
            metrics={key: Summary(Estimate(found.value, found.ci, found.n)) for key, found in one.metrics.items()
                     if found.value is not None},
        )
        for one in collected.evaluations
    ]  # fmt: skip


def source(summary: MethodSummary) -> tuple[str, str | None]:
    """Return the tool that measured a row, and the folder of its files if that is not Formless."""
    return (TOOL, str(summary.evaluation.folder)) if summary.evaluation else ("formless", None)


def source_notes(summaries: Iterable[MethodSummary]) -> list[str]:
    """Return what a reader of a table with rows of open-unlearning has to know, a line each; none without such rows."""
    lines = [f"{summary.condition.method}: {summary.evaluation.folder}" for summary in summaries if summary.evaluation]
    return [*lines, TOOL_NOTE] if lines else []


def metric_keys(summaries: Iterable[MethodSummary]) -> list[MetricKey]:
    """Return every metric that some method has, in the order of records."""
    return list(dict.fromkeys(key for summary in summaries for key in summary.metrics))

"""Per model and method: every figure over the same targets as the baseline, with intervals and what is not in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from formless.errors import UnknownNameError
from formless.evaluation.scoring import mean_interval
from formless.experiment.runs import ORIGINAL
from formless.report.independence import Independence, independence_of, mean_over_seeds
from formless.report.runs import COMBINED, GAP, Gathered, Group, Measured
from formless.report.summary import relative_change

Interval = tuple[float, float]
Plain = dict[str, str | int | float | None]


@dataclass(frozen=True)
class Mean:
    """One figure of one method.

    Args:
        value: The mean over targets, of each target over its seeds first.
        interval: 95 % bootstrap interval over targets; needs two.
        targets: How many targets have the figure, of those in the row.
        baseline: The baseline's mean over the same targets; nothing of the baseline itself, and of figures that it lacks.
        difference: value - baseline.
        difference_interval: 95 % paired bootstrap interval of it over targets.
        relative: value / baseline - 1; nothing where the baseline is 0.
        relative_interval: 95 % paired bootstrap interval of it over targets.
        p: Of the paired permutation tests of form independence.
    """

    value: float
    interval: Interval | None
    targets: int
    baseline: float | None = None
    difference: float | None = None
    difference_interval: Interval | None = None
    relative: float | None = None
    relative_interval: Interval | None = None
    p: float | None = None


@dataclass(frozen=True)
class MethodMeans:
    """One row of a summary.

    Args:
        group: Model and method.
        is_baseline: Whether the others are compared with it.
        targets: The targets that its means are over.
        seeds: The most seeds that a target has.
        runs: Runs that were planned.
        complete: Runs that have a record.
        failed: Runs that failed.
        missing: Runs that were not done yet.
        left_out: Targets that it has and the baseline has not, or was asked other probes of.
        skipped: Probes and items without a figure, of the runs that count.
        means: By figure.
        independence: Forgetting and retention by form, with tests; nothing where there is no original.
    """

    group: Group
    is_baseline: bool
    targets: tuple[str, ...]
    seeds: int
    runs: int
    complete: int
    failed: int
    missing: int
    left_out: tuple[str, ...]
    skipped: int
    means: Mapping[str, Mean]
    independence: Independence | None

    @property
    def gaps(self) -> str:
        """What is not in the means, as one clause; nothing where all is."""
        counts = {
            "failed": self.failed, "missing": self.missing, "without a score": self.skipped,
            "left out": len(self.left_out),
        }  # fmt: skip
        kinds = {"failed": "runs", "missing": "runs", "without a score": "probes", "left out": "targets without a baseline"}
        return ", ".join(f"{count} {kinds[name]} {name}" for name, count in counts.items() if count)


def method_means(gathered: Gathered, baseline: str = ORIGINAL) -> list[MethodMeans]:
    """One row for every model and method that was planned, in that order, the baseline of each model among them.

    Args:
        gathered: The runs.
        baseline: A method as tables call it; `original` is the untouched model, however it is labelled.

    Raises:
        UnknownNameError: No such method.
    """
    runs: dict[Group, dict[str, list[Measured]]] = {group: {} for group in gathered.planned}
    for one in gathered.measured:
        runs[one.group].setdefault(one.target, []).append(one)
    names = {group.method for group in runs}
    if baseline != ORIGINAL and baseline not in names:
        raise UnknownNameError("method", baseline, names | {ORIGINAL}, where="--baseline")
    counts = Counter(failure.group for failure in gathered.failures), Counter(group for group, _ in gathered.missing)
    return [_row(group, runs, baseline, gathered.planned[group], *(count[group] for count in counts)) for group in runs]


def _row(
    group: Group, runs: Mapping[Group, Mapping[str, list[Measured]]], baseline: str, planned: int, failed: int, missing: int
) -> MethodMeans:
    own = runs[group]
    is_baseline = group.method == baseline or (baseline == ORIGINAL and _are_original(own))
    reference = runs.get(Group(group.model, baseline), {})
    pairs: dict[str, tuple[dict[str, float], dict[str, float]]] = {}  # target -> baseline and own figures
    for target, seeds in own.items():
        before = {} if is_baseline else _before(seeds, None if baseline == ORIGINAL else reference.get(target, []))
        if before is not None:
            pairs[target] = before, mean_over_seeds([seed.figures for seed in seeds])
    counted = {target: own[target] for target in pairs}
    found = [[seed.ratios for seed in seeds if seed.ratios] for seeds in counted.values()]
    independence = independence_of([seeds for seeds in found if seeds]) if any(found) else None
    return MethodMeans(
        group, is_baseline, tuple(counted), max(map(len, counted.values()), default=0), planned,
        sum(map(len, own.values())), failed, missing, tuple(target for target in own if target not in counted),
        sum(seed.skipped for seeds in counted.values() for seed in seeds),
        compared_means(list(pairs.values()), _tested(independence)), independence,
    )  # fmt: skip


def _are_original(runs: Mapping[str, Sequence[Measured]]) -> bool:
    return bool(runs) and all(seed.is_original for seeds in runs.values() for seed in seeds)


def _before(seeds: Sequence[Measured], reference: Sequence[Measured] | None) -> dict[str, float] | None:
    """The baseline's figures of a target: those of each run's own original, or another method's; nothing where it has none."""
    if reference is None:
        known = [seed.original for seed in seeds if seed.original is not None]
        return mean_over_seeds(known) if len(known) == len(seeds) else None
    alike = {seed.probes for seed in seeds} == {seed.probes for seed in reference}
    return mean_over_seeds([seed.figures for seed in reference]) if alike else None


def compared_means(
    pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], tested: Mapping[str, float] | None = None
) -> dict[str, Mean]:
    """Every figure over targets, each a pair of baseline and own figures, with the p of those that were tested."""
    found, tested = {}, tested or {}
    for name in dict.fromkeys(name for _, own in pairs for name in own):
        known = [(before.get(name), own[name]) for before, own in pairs if name in own]
        both = [(before, value) for before, value in known if before is not None]
        if both:
            found[name] = _compared(both, tested.get(name))
        else:
            values = [value for _, value in known]
            found[name] = Mean(float(np.mean(values)), mean_interval(values), len(values), p=tested.get(name))
    return found


def _compared(pairs: Sequence[tuple[float, float]], p: float | None) -> Mean:
    """A figure of the targets where both have it."""
    relative, relative_interval = relative_change(pairs)
    before, values = (float(mean) for mean in np.mean(pairs, axis=0))
    return Mean(
        values, mean_interval([value for _, value in pairs]), len(pairs), before, values - before,
        mean_interval([value - before for before, value in pairs]), relative, relative_interval, p,
    )  # fmt: skip


def _tested(found: Independence | None) -> dict[str, float]:
    """The p of every figure that was tested."""
    if found is None:
        return {}
    estimates = {f"forgetting_{form}": estimate for form, estimate in found.forgetting.items()}
    estimates |= {f"retention_{form}": estimate for form, estimate in found.retention.items()}
    estimates |= {name: estimate for name, estimate in ((GAP, found.gap), (COMBINED, found.combined)) if estimate}
    return {name: estimate.p for name, estimate in estimates.items() if estimate.p is not None}


def figure_names(rows: Iterable[MethodMeans]) -> list[str]:
    """Every figure that some row has, in the order of records."""
    return list(dict.fromkeys(name for row in rows for name in row.means))


def plain_rows(rows: Sequence[MethodMeans]) -> list[Plain]:
    """Rows of plain numbers, for CSV and for other programs; nothing stands where a figure is not had.

    After the counts, every figure has its mean, `_low` and `_high` of the interval, `_baseline`, `_difference` and `_relative`
    with theirs, `_p` and `_targets`. Every row has every column; columns that would be empty throughout are left out.
    """
    counts = [_counts(row) for row in rows]
    figures = [{name: _plain(row.means[name]) for name in row.means} for row in rows]
    columns = [
        (name, part)
        for name in figure_names(rows)
        for part in _plain(Mean(0.0, None, 0))
        if any(row[name][part] is not None for row in figures if name in row)
    ]
    return [
        count | {name + part: row[name][part] if name in row else None for name, part in columns}
        for count, row in zip(counts, figures, strict=True)
    ]


def _counts(row: MethodMeans) -> Plain:
    return {
        "model": row.group.model, "method": row.group.method, "targets": len(row.targets), "seeds": row.seeds,
        "runs": row.runs, "complete": row.complete, "failed": row.failed, "missing": row.missing,
        "targets_left_out": len(row.left_out), "skipped": row.skipped,
    }  # fmt: skip


def _plain(mean: Mean) -> dict[str, float | None]:
    """A mean's parts by the ending of their column."""
    none = (None, None)
    (low, high), (least, most), (from_, to) = (
        bounds or none for bounds in (mean.interval, mean.difference_interval, mean.relative_interval)
    )
    return {
        "": mean.value, "_low": low, "_high": high, "_baseline": mean.baseline, "_difference": mean.difference,
        "_difference_low": least, "_difference_high": most, "_relative": mean.relative, "_relative_low": from_,
        "_relative_high": to, "_p": mean.p, "_targets": mean.targets,
    }  # fmt: skip

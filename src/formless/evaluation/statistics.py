"""Means over items or targets, with bootstrap confidence intervals and permutation tests by SciPy."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, Field

CI: TypeAlias = tuple[float, float]
Statistic = Callable[..., Any]
"""From samples `[..., n]` and the keyword `axis` to their statistic `[...]`."""

RESAMPLES, AUC_RESAMPLES = 10_000, 1_000
ITEM_RESAMPLES = 500
"""Resamples of the items of each target, from which the resamples of targets draw."""

LEAST_RATIO = 0.01
"""Smaller ratios after / before count as this, larger ones than its inverse as that: one target that forgot all is not to
outweigh the others."""

_TINY = 1e-12

BATCH = 1_000
"""Resamples at a time: all of them at once would need gigabytes for a large task."""

CONFIDENCE = 0.95
MIN_TARGETS = 5
"""Fewer targets have no confidence interval: a bootstrap of so few spans little more than their own values."""


class Metric(BaseModel):
    """One number that is a mean over items, or another statistic of them.

    Args:
        value: Usually the mean; None where no item has the metric.
        ci: 95 % bootstrap confidence interval over items; None for fewer than two items.
        n: Number of items that have the metric.
    """

    value: float | None = None
    ci: CI | None = None
    n: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Estimate:
    """One number that is summarized over targets.

    Args:
        value: Usually the mean over targets.
        ci: 95 % bootstrap confidence interval over targets; None for fewer than `MIN_TARGETS` targets.
        n: Number of targets.
        p: Two- or one-sided p-value of the permutation test that the function which returns it names; None where
            nothing was tested.
        values: Each target's value, where there are too few targets for a confidence interval.
    """

    value: float
    ci: CI | None
    n: int
    p: float | None = None
    values: tuple[float, ...] = ()


def mean_metric(values: Sequence[float]) -> Metric:
    """Return the mean of some items with its confidence interval; no value without items."""
    return Metric(value=mean(values), ci=mean_ci(values), n=len(values)) if values else Metric()


def mean_estimate(values: Sequence[float], p: float | None = None) -> Estimate:
    """Return the mean over targets with its confidence interval, or with each value where there are too few targets.

    Raises:
        ValueError: There is no target.
    """
    if not values:
        raise ValueError("a mean over no target")
    if len(values) < MIN_TARGETS:
        return Estimate(mean(values), None, len(values), p, tuple(values))
    return Estimate(mean(values), mean_ci(values), len(values), p)


def change_estimate(pairs: Sequence[tuple[float, float]], *, relative: bool = False) -> Estimate | None:
    """Return the change of a mean over targets, from (before, after) pairs: see `paired_change`.

    Returns:
        None without pairs, or where a relative change has a mean of 0 before. Of too few targets, with each target's change.
    """
    value, ci = paired_change(pairs, relative=relative)
    if value is None:
        return None
    if len(pairs) >= MIN_TARGETS:
        return Estimate(value, ci, len(pairs))
    changes = (paired_change([pair], relative=relative)[0] for pair in pairs)
    return Estimate(value, None, len(pairs), values=tuple(change for change in changes if change is not None))


Pairs: TypeAlias = Sequence[tuple[float, float]]
"""A value before and after, of each item."""


def ratio_estimate(targets: Sequence[Sequence[Pairs]], p: float | None = None) -> Estimate:
    """Return the geometric mean over targets of after / before, each the ratio of the means over its items.

    The confidence interval is a hierarchical bootstrap: targets are drawn with replacement, and the items within each drawn
    target, the same ones for all its seeds that have the same items. So it holds what few items per target leave open as well
    as what few targets do.

    Args:
        targets: The pairs of each target, by seed; a target's logarithms are averaged over its seeds. Its first seed's mean
            before must be positive.
        p: The p-value to note.

    Raises:
        ValueError: There is no target.
    """
    import numpy as np

    if not targets:
        raise ValueError("a mean over no target")
    logs = np.asarray(log_ratios(targets))
    value = float(np.exp(logs.mean()))
    if len(targets) < MIN_TARGETS:
        return Estimate(value, None, len(targets), p, tuple(np.exp(logs).tolist()))
    generator = np.random.default_rng(0)
    within = np.empty((len(targets), ITEM_RESAMPLES))
    for place, seeds in enumerate(targets):
        shares = generator.random((ITEM_RESAMPLES, max(map(len, seeds))))  # equal shares draw the same items in every seed
        drawn = ((np.asarray(pairs, dtype=float), (shares[:, : len(pairs)] * len(pairs)).astype(int)) for pairs in seeds)
        within[place] = np.mean([_log_ratios(table[items].mean(1)) for table, items in drawn], axis=0)  # [resamples]
    chosen = generator.integers(len(targets), size=(RESAMPLES, len(targets)))
    means = within[chosen, generator.integers(ITEM_RESAMPLES, size=chosen.shape)].mean(1)
    low, high = np.exp(np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    return Estimate(value, (float(low), float(high)), len(targets), p)


def log_ratios(targets: Sequence[Sequence[Pairs]]) -> list[float]:
    """Return log(after / before) of the means over items of each target, averaged over its seeds; see `ratio_estimate`."""
    import numpy as np

    return [float(np.mean([_log_ratios(np.asarray(pairs, dtype=float).mean(0)) for pairs in seeds])) for seeds in targets]


def _log_ratios(means: Any) -> Any:
    """Return log(after / before) of means `[..., 2]`, within the limits of `LEAST_RATIO` and its inverse."""
    import numpy as np

    before, after = np.maximum(means[..., 0], _TINY), np.maximum(means[..., 1], 0)
    return np.log(np.clip(after / before, LEAST_RATIO, 1 / LEAST_RATIO))


def complement(found: Estimate) -> Estimate:
    """Return the estimate of one minus a value."""
    ci = (1 - found.ci[1], 1 - found.ci[0]) if found.ci else None
    return Estimate(1 - found.value, ci, found.n, found.p, tuple(1 - value for value in found.values))


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean."""
    import numpy as np

    return float(np.mean(values))


def mean_ci(values: Sequence[float]) -> CI | None:
    """Return the 95 % percentile bootstrap confidence interval of a mean; None for fewer than two values."""
    import numpy as np

    return bootstrap_ci(np.mean, values)


def share_ci(count: int, n: int) -> CI:
    """Return the 95 % confidence interval of a share by Wilson's score method, which holds for few items and near 0 and 1.

    Raises:
        ValueError: n is 0.
    """
    from scipy.stats import binomtest

    found = binomtest(count, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def bootstrap_ci(statistic: Statistic, *samples: Sequence[float], paired: bool = True, resamples: int = RESAMPLES) -> CI | None:
    """Return the 95 % percentile bootstrap confidence interval of a statistic; the same for the same samples.

    Args:
        statistic: Of the samples.
        samples: Values, `[n]` each; equally many where they are paired.
        paired: Whether the samples are resampled together.
        resamples: Number of resamples.

    Returns:
        None for fewer than two values, or where the statistic of some resample is not finite.
    """
    import numpy as np
    from scipy.stats import DegenerateDataWarning, bootstrap

    if min(map(len, samples)) < 2:
        return None
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", DegenerateDataWarning)  # a statistic that is not finite in some resample
        found = bootstrap(
            samples, statistic, paired=paired, vectorized=True, n_resamples=resamples, batch=BATCH, confidence_level=CONFIDENCE,
            method="percentile", rng=np.random.default_rng(0),
        )  # fmt: skip
    if not np.isfinite(found.bootstrap_distribution).all():
        return None
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def difference_of_means(before: Any, after: Any, axis: int = -1) -> Any:
    """Return mean(after) - mean(before)."""
    return after.mean(axis) - before.mean(axis)


def relative_change_of_means(before: Any, after: Any, axis: int = -1) -> Any:
    """Return mean(after) / mean(before) - 1."""
    return after.mean(axis) / before.mean(axis) - 1


def paired_change(pairs: Sequence[tuple[float, float]], *, relative: bool = False) -> tuple[float | None, CI | None]:
    """Return the change of a mean over (before, after) pairs, and its 95 % paired bootstrap confidence interval.

    Args:
        pairs: Values of the same items, or targets, before and after.
        relative: Whether the change is divided by the mean before.

    Returns:
        The change (None without pairs, or where a relative change has a mean of 0 before) and its confidence interval
        (None for fewer than two pairs, or where the mean before is 0 in some resample).
    """
    import numpy as np

    if not pairs:
        return None, None
    before, after = np.asarray(pairs, dtype=float).T
    if relative and not before.sum():
        return None, None
    statistic = relative_change_of_means if relative else difference_of_means
    return float(statistic(before, after)), bootstrap_ci(statistic, before, after)


def auc(higher: Sequence[float], lower: Sequence[float]) -> float | None:
    """Return the area under the ROC curve: how often a value of the first exceeds one of the second, ties counting half.

    Returns:
        A share in [0, 1]; None where either side is empty.
    """
    import numpy as np

    return float(_auc(np.asarray(higher), np.asarray(lower))) if len(higher) and len(lower) else None


def auc_ci(higher: Sequence[float], lower: Sequence[float]) -> CI | None:
    """Return the 95 % percentile bootstrap confidence interval of the AUC, each side resampled by itself."""
    return bootstrap_ci(_auc, higher, lower, paired=False, resamples=AUC_RESAMPLES)


def _auc(higher: Any, lower: Any, axis: int = -1) -> Any:
    import numpy as np
    from scipy.stats import rankdata

    n, m = higher.shape[axis], lower.shape[axis]
    shape = np.broadcast_shapes(higher.shape[:-1], lower.shape[:-1])
    both = np.concatenate([np.broadcast_to(higher, (*shape, n)), np.broadcast_to(lower, (*shape, m))], axis=-1)
    ranks = rankdata(both, axis=-1)[..., :n]
    return (ranks.sum(-1) - n * (n + 1) / 2) / (n * m)


def sign_flip_p(values: Sequence[float], alternative: Literal["greater", "two-sided"]) -> float | None:
    """Return the p-value of a paired sign-flip test that a mean change is 0.

    Exact up to 13 values, else over 10,000 random flips. None for fewer than two values.
    """
    if len(values) < 2:
        return None
    return _permutation_p((values,), alternative)


def swap_p(actual: Sequence[float], swapped: Sequence[float]) -> float | None:
    """Return the one-sided p-value of a paired permutation test: is the mean larger than if both sides changed places?

    Args:
        actual: A statistic of each target.
        swapped: The same statistic with the two sides of the target exchanged.

    Returns:
        None for fewer than two targets.
    """
    if len(actual) < 2:
        return None
    return _permutation_p((actual, swapped), "greater")


def _permutation_p(samples: tuple[Sequence[float], ...], alternative: str) -> float:
    import numpy as np
    from scipy.stats import permutation_test

    found = permutation_test(
        samples, lambda first, *_, axis=-1: np.mean(first, axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=RESAMPLES, alternative=alternative, rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(found.pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for testing several hypotheses at once, by Holm's step-down method.

    The k-th smallest of m is multiplied by m + 1 - k, none is smaller than one before it, and none exceeds 1. The chance of any
    false rejection among them is then at most the level of the test, however they depend on each other.

    Args:
        p_values: Of one family of tests; None where nothing was tested, which counts as no test.
    """
    tested = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    found: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        found[place] = largest
    return found


def range_p(targets: Sequence[dict[str, float]]) -> float | None:
    """Return the p-value of a permutation test of whether several conditions differ, each target having some of them.

    The statistic is the largest minus the smallest mean of a condition over the targets that have it. Within each target,
    the conditions that it has change places at random. SciPy's test needs every target to have every condition, so this
    one is written out.

    Args:
        targets: A value by condition for each target.

    Returns:
        None for fewer than two targets with at least two conditions.
    """
    import numpy as np

    names = sorted({name for target in targets for name in target})
    several = [target for target in targets if len(target) > 1]
    if len(several) < 2:
        return None
    table = np.asarray([[target.get(name, np.nan) for name in names] for target in several])  # [targets, conditions]
    sums = np.repeat(np.nansum(table, 0)[None], RESAMPLES + 1, 0)  # [permutations, conditions]; the first is the actual one
    sums[1:] = 0
    generator = np.random.default_rng(0)
    for row in table:
        has = ~np.isnan(row)
        sums[1:, has] += generator.permuted(np.repeat(row[has][None], RESAMPLES, 0), axis=1)
    counts = (~np.isnan(table)).sum(0)
    means = sums[:, counts > 0] / counts[counts > 0]
    ranges = means.max(1) - means.min(1)
    return float(np.mean(ranges >= ranges[0] - 1e-12))

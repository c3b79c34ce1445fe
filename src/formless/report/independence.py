"""Form independence: what an edit forgets in each form, how far the forms lie apart, what the neighbors keep, and one figure.

Per target and form, over the probes that both records have scored:

- forgetting = 1 - edited / original, of the mean probability on forget probes;
- retention = edited / original, on neighbor probes;
- form gap = the largest forgetting minus the smallest, over the target's forms;
- combined = the harmonic mean of F and R. F is the harmonic mean of forgetting over forms, R that of retention over forms,
  both clipped to [0, 1] first: a form that forgot nothing makes it 0, and so does a form that lost its neighbors.

Of a choice, both figures are taken above chance, and the form counts only where the original's interval lies above chance:
where nothing is known, nothing can be forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from formless.data.target import Split
from formless.evaluation.forms import FORMS
from formless.evaluation.record import FormResult, Record
from formless.evaluation.scoring import mean_interval
from formless.report.summary import refuse_unlike

COUNTED = ("statement", "fb", "qa", "mcp_choice", "sub_fb_letters", "sub_qa_letters")
"""The forms that measure knowledge and little else; see docs/evaluation.md."""

PERMUTATIONS = 10_000
EXACT_TARGETS = 13


@dataclass(frozen=True)
class Estimate:
    """A mean over targets.

    Args:
        value: The mean.
        interval: 95 % bootstrap interval over targets; needs two.
        p: Of a paired permutation test against the original model, or of the form gap, against forms that fall alike.
        targets: How many targets have the figure.
    """

    value: float
    interval: tuple[float, float] | None
    p: float | None
    targets: int


@dataclass(frozen=True)
class Ratios:
    """What one edit did to one target: edited over original mean probability.

    Args:
        forget: By form, on forget probes.
        keep: By form, on neighbor probes.
    """

    forget: Mapping[str, float]
    keep: Mapping[str, float]

    @property
    def falls(self) -> dict[str, float]:
        """Forgetting by form."""
        return {form: 1 - ratio for form, ratio in self.forget.items()}

    @property
    def gap(self) -> float | None:
        """The form gap; needs two forms."""
        return max(self.falls.values()) - min(self.falls.values()) if len(self.forget) > 1 else None

    @property
    def combined(self) -> float | None:
        """The combined figure; needs a form on both splits."""
        return combined(self.forget, self.keep) if self.forget and self.keep else None

    @property
    def swapped(self) -> Ratios:
        """The ratios if original and edited model changed places."""
        return Ratios(_inverse(self.forget), _inverse(self.keep))


@dataclass(frozen=True)
class Independence:
    """The figures of one method.

    Args:
        forgetting: By form.
        retention: By form.
        gap: Of targets with at least two forms.
        combined: Of targets with at least one form on both splits.
    """

    forgetting: Mapping[str, Estimate]
    retention: Mapping[str, Estimate]
    gap: Estimate | None
    combined: Estimate | None


def independence(pairs: Sequence[tuple[Record, Record]], forms: Sequence[str] = COUNTED) -> Independence:
    """Summarise pairs of records, (original, edited), one pair a target.

    Raises:
        DataError: The records of a pair asked different probes, or of different models.
    """
    return independence_of([[ratios(original, edited, forms)] for original, edited in pairs])


def ratios(original: Record, edited: Record, forms: Sequence[str] = COUNTED) -> Ratios:
    """Edited over original by form, of one target, where the original knows anything.

    Raises:
        DataError: The records asked different probes, or of different models.
    """
    refuse_unlike(original, edited)
    return Ratios(_ratios(original, edited, forms, "forget"), _ratios(original, edited, forms, "neighbor"))


def independence_of(targets: Sequence[Sequence[Ratios]]) -> Independence:
    """Summarise the ratios of many targets, each by seed: every figure is averaged over a target's seeds first."""
    falls = [mean_over_seeds([seed.falls for seed in seeds]) for seeds in targets]
    keep = [mean_over_seeds([seed.keep for seed in seeds]) for seeds in targets]
    gaps = _means([seed.gap for seed in seeds] for seeds in targets)
    both = [[seed for seed in seeds if seed.forget and seed.keep] for seeds in targets]
    return Independence(
        forgetting={form: _estimate(values, _swap_test(values, one_sided=True)) for form, values in _by_form(falls)},
        retention={
            form: _estimate(values, _swap_test([value - 1 for value in values], one_sided=False))
            for form, values in _by_form(keep)
        },
        gap=_estimate(gaps, _forms_test(falls)) if gaps else None,
        combined=_estimate(_combined_means(both), _combined_test([seeds for seeds in both if seeds])) if any(both) else None,
    )


def mean_over_seeds(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every figure over the seeds that have it."""
    names = dict.fromkeys(name for seed in seeds for name in seed)
    values = {name: [seed[name] for seed in seeds if name in seed] for name in names}
    return {name: sum(known) / len(known) for name, known in values.items()}


def combined(forget: Mapping[str, float], keep: Mapping[str, float]) -> float:
    """One figure in [0, 1] from the ratios edited / original of a target's forms, on forget and on neighbor probes."""
    forgotten = [min(max(1 - ratio, 0.0), 1.0) for ratio in forget.values()]
    kept = [min(max(ratio, 0.0), 1.0) for ratio in keep.values()]
    return _harmonic([_harmonic(forgotten), _harmonic(kept)])


def _harmonic(values: Sequence[float]) -> float:
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)


def _ratios(original: Record, edited: Record, forms: Sequence[str], split: Split) -> dict[str, float]:
    """Edited over original by form, of one target, where the original knows anything."""
    found = {}
    for form in forms:
        before, after = original.form(form, split), edited.form(form, split)
        if before and after and before.status == after.status == "scored":
            ratio = _ratio(before, after, FORMS[form].chance)
            if ratio is not None:
                found[form] = ratio
    return found


def _ratio(before: FormResult, after: FormResult, chance: float) -> float | None:
    if chance and (before.interval is None or before.interval[0] <= chance):
        return None
    both = [
        (a.probability, b.probability)
        for a, b in zip(before.items, after.items, strict=True)
        if a.probability is not None and b.probability is not None
    ]
    if not both:
        return None
    old, new = (float(value) - chance for value in np.mean(both, axis=0))
    return new / old if old > 0 else None


def _by_form(targets: Sequence[Mapping[str, float]]) -> list[tuple[str, list[float]]]:
    """The targets' figures by form, forms in their usual order."""
    known = {form for target in targets for form in target}
    return [(form, [target[form] for target in targets if form in target]) for form in FORMS if form in known]


def _means(targets: Iterable[Sequence[float | None]]) -> list[float]:
    """The mean over the seeds of each target that has any."""
    known = [[value for value in seeds if value is not None] for seeds in targets]
    return [float(np.mean(seeds)) for seeds in known if seeds]


def _combined_means(targets: Iterable[Sequence[Ratios]]) -> list[float]:
    return _means([seed.combined for seed in seeds] for seeds in targets)


def _estimate(values: Sequence[float], p: float | None) -> Estimate:
    return Estimate(float(np.mean(values)), mean_interval(values), p, len(values))


def _swap_test(changes: Sequence[float], *, one_sided: bool) -> float | None:
    """Paired sign-flip test of a mean relative change; needs two targets."""
    if len(changes) < 2:
        return None
    values = np.asarray(changes)
    means = (_signs(len(values)) * values).mean(1)
    return _share(means, values.mean()) if one_sided else _share(np.abs(means), abs(values.mean()))


def _combined_test(targets: Sequence[Sequence[Ratios]]) -> float | None:
    """Permutation test of the combined figure: original and edited model change places, target by target."""
    if len(targets) < 2:
        return None
    actual = np.asarray(_combined_means(targets))
    swapped = np.asarray(_combined_means([seed.swapped for seed in seeds] for seeds in targets))
    means = np.where(_signs(len(actual)) > 0, actual, swapped).mean(1)
    return _share(means, actual.mean())


def _inverse(ratios: Mapping[str, float]) -> dict[str, float]:
    return {form: 1 / ratio if ratio > 0 else np.inf for form, ratio in ratios.items()}


def _forms_test(falls: Sequence[Mapping[str, float]]) -> float | None:
    """Permutation test of whether forms fall differently: the forms that a target has change places.

    The statistic is the largest minus the smallest mean forgetting of a form over the targets that have it. (Against the
    original model a form gap cannot be tested: there it is 0 by definition, and never negative after.)
    """
    names = sorted({form for target in falls for form in target})
    targets = [target for target in falls if len(target) > 1]
    if len(targets) < 2:
        return None
    table = np.asarray([[target.get(form, np.nan) for form in names] for target in targets])  # [targets, forms]
    sums = np.repeat(np.nansum(table, 0)[None], PERMUTATIONS + 1, 0)  # [permutations, forms], the first as they are
    sums[1:] = 0
    generator = np.random.default_rng(0)
    for row in table:
        has = ~np.isnan(row)
        sums[1:, has] += generator.permuted(np.repeat(row[has][None], PERMUTATIONS, 0), axis=1)
    counts = (~np.isnan(table)).sum(0)
    means = sums[:, counts > 0] / counts[counts > 0]
    ranges = means.max(1) - means.min(1)
    return _share(ranges, float(ranges[0]))


def _signs(targets: int) -> NDArray[np.float64]:
    """Every way to swap two models target by target, or many: `[ways, targets]` of 1 and -1; the first swaps none."""
    if targets <= EXACT_TARGETS:
        bits = np.arange(2**targets)[:, None] >> np.arange(targets) & 1
        return np.asarray(1.0 - 2.0 * bits)
    ways = np.asarray(np.random.default_rng(0).integers(0, 2, (PERMUTATIONS + 1, targets)) * 2.0 - 1.0, dtype=np.float64)
    ways[0] = 1.0
    return ways


def _share(permuted: NDArray[np.float64], actual: float) -> float:
    """The share of permutations at least as extreme as the actual one, which is among them."""
    return float(np.mean(permuted >= actual - 1e-12))

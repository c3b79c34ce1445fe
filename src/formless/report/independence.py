"""Form independence: what an edit forgets in each form, how far the forms lie apart, and what remains of the neighbors.

A form is a task whose entry has a metric that shows knowledge. Per target and form, over the items that both records have:

- forgetting = 1 - edited / original, of the metric's mean over forget items;
- retention = edited / original, over neighbor items;
- form gap = the largest forgetting minus the smallest, over the target's counted forms;
- noise gap = the mean form gap where the target's items change places between its forms: what noise alone gives;
- item gap, item noise gap = the same of 1 - exp(mean log(edited / original)), which weighs every item alike, over the counted
  forms without a chance level;
- combined = the harmonic mean of F and R. F is the harmonic mean of forgetting over counted forms, R that of retention, both
  clipped to [0, 1] first: a form that forgot nothing makes it 0, and so does a form that lost its neighbors.

Where a metric has a chance level, both ratios are taken above chance, and the form counts only where the original's confidence
interval lies above chance: where nothing is known, nothing can be forgotten. A form whose entry does not know what a model gets
without knowledge (letter by letter) has forgetting and retention of its own, and is not counted. Counted forms are named beside
every value, since values over other forms cannot be compared. A form on which the edit cannot act is left out.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from formless.data.target import Split
from formless.evaluation.record import MetricKey, Record
from formless.evaluation.registry import TASKS
from formless.evaluation.statistics import Estimate, holm, mean, mean_estimate, range_p, sign_flip_p, swap_p
from formless.evaluation.task import MetricSpec
from formless.report.comparison import acts_on, item_pairs, refuse_unlike
from formless.report.noise import Scored, gap_p, item_gap, permuted_gaps, permuted_item_gaps

K = TypeVar("K")

FORGETTING, RETENTION, FORM_GAP, NOISE_GAP, ITEM_GAP, ITEM_NOISE_GAP, MEAN_GAP, COMBINED = (
    MetricKey(None, None, name)
    for name in (
        "forgetting", "retention", "form_gap", "noise_gap", "item_gap", "item_noise_gap", "gap_of_means", "combined",
    )
)  # fmt: skip
DERIVED = (FORGETTING, RETENTION, FORM_GAP, NOISE_GAP, ITEM_GAP, ITEM_NOISE_GAP, MEAN_GAP, COMBINED)
"""Metrics over the counted forms; forgetting and retention stand for their means over forms."""


LEAST_RATIO = 0.01
"""Smaller ratios edited / original count as this in tests: one target that forgot all is not to outweigh the others."""


def forgetting_key(form: str) -> MetricKey:
    """Return the key of one form's forgetting."""
    return FORGETTING._replace(task=form)


def retention_key(form: str) -> MetricKey:
    """Return the key of one form's retention."""
    return RETENTION._replace(task=form)


@dataclass(frozen=True)
class Ratios:
    """What one edit did to one target: edited over original, of the mean of each form's metric.

    Args:
        forget: By form, on forget items.
        neighbor: By form, on neighbor items.
        permuted_gaps: The form gaps of permuted items; empty for fewer than two counted forms.
        item_gap: The form gap by items; None for fewer than two counted forms without a chance level.
        permuted_item_gaps: The same of permuted items.
    """

    forget: Mapping[str, float]
    neighbor: Mapping[str, float]
    permuted_gaps: array[float] = field(default_factory=lambda: array("d"))
    item_gap: float | None = None
    permuted_item_gaps: array[float] = field(default_factory=lambda: array("d"))

    @property
    def forgetting(self) -> dict[str, float]:
        """Forgetting by form."""
        return {form: 1 - ratio for form, ratio in self.forget.items()}

    @property
    def counted(self) -> Ratios:
        """The ratios of the forms that form gap and combined metric count."""
        counted = counted_forms()
        forget, neighbor = ({form: own[form] for form in own if form in counted} for own in (self.forget, self.neighbor))
        return Ratios(forget, neighbor)

    @property
    def gap(self) -> float | None:
        """The form gap; None for fewer than two counted forms."""
        forgetting = self.counted.forgetting.values()
        return max(forgetting) - min(forgetting) if len(forgetting) > 1 else None

    @property
    def noise_gap(self) -> float | None:
        """The mean form gap of permuted items; None for fewer than two counted forms."""
        return mean(self.permuted_gaps) if self.permuted_gaps else None

    @property
    def combined(self) -> float | None:
        """The combined metric; None without a counted form on both splits."""
        counted = self.counted
        return combined(counted.forget, counted.neighbor) if counted.forget and counted.neighbor else None

    @property
    def swapped(self) -> Ratios:
        """The ratios if original and edited model changed places."""
        return Ratios(_inverse(self.forget), _inverse(self.neighbor))

    def metrics(self) -> dict[MetricKey, float]:
        """Return the metrics of form independence that this target has."""
        found = {forgetting_key(form): value for form, value in self.forgetting.items()}
        found |= {retention_key(form): value for form, value in self.neighbor.items()}
        counted = self.counted
        whole = {
            FORGETTING: mean(list(counted.forgetting.values())) if counted.forget else None,
            RETENTION: mean(list(counted.neighbor.values())) if counted.neighbor else None,
            FORM_GAP: self.gap,
            NOISE_GAP: self.noise_gap,
            ITEM_GAP: self.item_gap,
            ITEM_NOISE_GAP: mean(self.permuted_item_gaps) if self.permuted_item_gaps else None,
            COMBINED: self.combined,
        }
        return found | {key: value for key, value in whole.items() if value is not None}


@dataclass(frozen=True)
class Independence:
    """Form independence of one method, over targets.

    Args:
        forgetting: By form; p is of a one-sided test that swaps original and edited model, on the logarithm of their ratio,
            corrected for the number of forms (Holm).
        retention: By form; p is of a two-sided test of the same kind.
        counted: The forms that gap and combined metric count, with the number of targets in which each does.
        gap: Of targets with at least two counted forms; p is of a test that permutes items over the forms of each target.
        noise_gap: What the same targets' gap would be by noise alone.
        item_gap: The form gap by items, with the same test.
        item_noise_gap: What it would be by noise alone.
        mean_gap: The largest minus the smallest mean of a form over targets; p is of a permutation test of whether forms differ
            in the same way in all targets. Without a confidence interval, as it is never negative.
        combined: Of targets with a counted form on both splits; p is of a one-sided test that swaps original and edited model.
    """

    forgetting: Mapping[str, Estimate]
    retention: Mapping[str, Estimate]
    counted: Mapping[str, int]
    gap: Estimate | None
    noise_gap: Estimate | None
    item_gap: Estimate | None
    item_noise_gap: Estimate | None
    mean_gap: Estimate | None
    combined: Estimate | None

    def estimates(self) -> dict[MetricKey, Estimate]:
        """Return every estimate by its key."""
        found = {forgetting_key(form): estimate for form, estimate in self.forgetting.items()}
        found |= {retention_key(form): estimate for form, estimate in self.retention.items()}
        whole = {
            FORM_GAP: self.gap, NOISE_GAP: self.noise_gap, ITEM_GAP: self.item_gap, ITEM_NOISE_GAP: self.item_noise_gap,
            MEAN_GAP: self.mean_gap, COMBINED: self.combined,
        }  # fmt: skip
        return found | {key: one for key, one in whole.items() if one}


def forms() -> dict[str, MetricSpec]:
    """Return the metric that shows knowledge, of every task that has one, in the order of the registry."""
    return {name: task.knowledge for name, task in TASKS.items() if task.knowledge}


def counted_forms() -> tuple[str, ...]:
    """Return the forms that form gap and combined metric count where the original model knows anything."""
    return tuple(name for name, spec in forms().items() if spec.is_counted)


def independence(pairs: Sequence[tuple[Record, Record]]) -> Independence:
    """Summarize pairs of records, (original, edited), one pair for each target.

    Raises:
        DataError: The records of a pair asked different items, or are of different models.
    """
    return independence_of([[ratios(original, edited)] for original, edited in pairs])


def ratios(original: Record, edited: Record) -> Ratios:
    """Return edited over original by form, of one target, where the original model knows anything.

    Raises:
        DataError: The records asked different items, or are of different models.
    """
    refuse_unlike(original, edited)
    forget = _ratios(original, edited, "forget")
    counted = {form: _scored(original, edited, form) for form in counted_forms() if form in forget}
    open_ended = {form: items for form, items in counted.items() if not forms()[form].chance}
    found = Ratios(forget, _ratios(original, edited, "neighbor"))
    if len(counted) > 1:
        found = replace(found, permuted_gaps=permuted_gaps(counted, original.target))
    if len(open_ended) > 1:
        gaps = permuted_item_gaps(open_ended, original.target)
        found = replace(found, item_gap=item_gap(open_ended), permuted_item_gaps=gaps)
    return found


def independence_of(targets: Sequence[Sequence[Ratios]]) -> Independence:
    """Summarize the ratios of many targets, each by seed; a target's seeds are averaged first."""
    forgetting = [mean_over_seeds([seed.forgetting for seed in seeds]) for seeds in targets]
    retention = [mean_over_seeds([seed.neighbor for seed in seeds]) for seeds in targets]
    gap, noise = _gap_estimates(targets, lambda seed: seed.gap, lambda seed: seed.permuted_gaps)
    by_item, item_noise = _gap_estimates(targets, lambda seed: seed.item_gap, lambda seed: seed.permuted_item_gaps)
    counted = [mean_over_seeds([seed.counted.forgetting for seed in seeds]) for seeds in targets]
    whole = _means([seed.combined for seed in seeds] for seeds in targets)
    swapped = _means([seed.swapped.combined for seed in seeds] for seeds in targets)
    return Independence(
        forgetting=_tested(forgetting, "greater"),
        retention=_tested(retention, "two-sided"),
        counted={form: len(values) for form, values in _by_form(counted)},
        gap=gap,
        noise_gap=noise,
        item_gap=by_item,
        item_noise_gap=item_noise,
        mean_gap=_mean_gap(counted),
        combined=mean_estimate(whole, swap_p(whole, swapped)) if whole else None,
    )


def _tested(targets: Sequence[Mapping[str, float]], alternative: Literal["greater", "two-sided"]) -> dict[str, Estimate]:
    """Return the mean of each form over targets, with the p-value of a swap test, corrected over the forms.

    If original and edited model change places, the logarithm of edited / original changes its sign and nothing else, so that
    flipping signs is swapping them; of 1 - edited / original it is not.

    Args:
        targets: Forgetting by form (`greater`), or retention (`two-sided`), of each target.
        alternative: Sides of the test.
    """
    found = dict(_by_form(targets))
    logs = {
        form: [-math.log(max(1 - value if alternative == "greater" else value, LEAST_RATIO)) for value in values]
        for form, values in found.items()
    }
    corrected = holm([sign_flip_p(values, alternative) for values in logs.values()])
    return {form: mean_estimate(values, p) for (form, values), p in zip(found.items(), corrected, strict=True)}


def _gap_estimates(
    targets: Sequence[Sequence[Ratios]],
    gap_of: Callable[[Ratios], float | None],
    permuted_of: Callable[[Ratios], array[float]],
) -> tuple[Estimate | None, Estimate | None]:
    """Return a gap over targets with its p-value, and the gap that noise gives; None where no target has two forms."""
    gaps = _means([gap_of(seed) for seed in seeds] for seeds in targets)
    permuted = [own for seeds in targets if (own := [found for seed in seeds if (found := permuted_of(seed))])]
    if not permuted:
        return mean_estimate(gaps) if gaps else None, None
    noise = [mean([mean(seed) for seed in seeds]) for seeds in permuted]
    return mean_estimate(gaps, gap_p(mean(gaps), permuted)), mean_estimate(noise)


def _mean_gap(targets: Sequence[Mapping[str, float]]) -> Estimate | None:
    """Return how far the means of the counted forms over targets lie apart; None for fewer than two targets with two forms."""
    means = [mean(values) for _, values in _by_form(targets)]
    p = range_p([dict(target) for target in targets])
    return None if p is None else Estimate(max(means) - min(means), None, sum(len(target) > 1 for target in targets), p)


def mean_over_seeds(seeds: Sequence[Mapping[K, float]]) -> dict[K, float]:
    """Return the mean of every metric over the seeds that have it."""
    keys = dict.fromkeys(key for seed in seeds for key in seed)
    return {key: mean([seed[key] for seed in seeds if key in seed]) for key in keys}


def combined(forget: Mapping[str, float], neighbor: Mapping[str, float]) -> float:
    """Return the combined metric, in [0, 1], from the ratios edited / original of a target's forms on both splits."""
    forgotten = [min(max(1 - ratio, 0.0), 1.0) for ratio in forget.values()]
    retained = [min(max(ratio, 0.0), 1.0) for ratio in neighbor.values()]
    return _harmonic([_harmonic(forgotten), _harmonic(retained)])


def _harmonic(values: Sequence[float]) -> float:
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)


def _ratios(original: Record, edited: Record, split: Split) -> dict[str, float]:
    """Return edited over original by form on one split, where the original model knows anything."""
    found = {}
    for form, spec in forms().items():
        before, after = original.task(form, split), edited.task(form, split)
        if before is None or after is None or not acts_on(edited, before, after):
            continue
        ci = before.metric(spec.name).ci
        if spec.chance and (ci is None or ci[0] <= spec.chance):
            continue
        if pairs := item_pairs(before, after, spec.name):
            old, new = (mean(values) - spec.chance for values in zip(*pairs, strict=True))
            if old > 0:
                found[form] = new / old
    return found


def _scored(original: Record, edited: Record, form: str) -> list[Scored]:
    """Return the forget items of a form, with their metric above chance, that both records have scored."""
    spec, before, after = forms()[form], original.task(form, "forget"), edited.task(form, "forget")
    if before is None or after is None:
        return []
    return [
        Scored(str(old.expected or ""), old.metrics[spec.name] - spec.chance, new.metrics[spec.name] - spec.chance)
        for old, new in zip(before.items, after.items, strict=True)
        if spec.name in old.metrics and spec.name in new.metrics
    ]


def _by_form(targets: Sequence[Mapping[str, float]]) -> list[tuple[str, list[float]]]:
    """Return the targets' values by form, in the order of the registry."""
    found = ((form, [target[form] for target in targets if form in target]) for form in forms())
    return [(form, values) for form, values in found if values]


def _means(targets: Iterable[Sequence[float | None]]) -> list[float]:
    """Return the mean over the seeds of each target that has any."""
    known = [[value for value in seeds if value is not None] for seeds in targets]
    return [mean(seeds) for seeds in known if seeds]


def _inverse(ratios: Mapping[str, float]) -> dict[str, float]:
    return {form: 1 / ratio if ratio > 0 else math.inf for form, ratio in ratios.items()}

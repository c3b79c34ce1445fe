"""Form independence: what an edit forgets in each form, how far the forms lie apart, and what remains of the neighbors.

A form is a task whose entry has a metric that shows knowledge. Per target and form, over the items that both records have and
that the original model knows (see `known`):

- forgetting = 1 - edited / original, of the metric's mean over forget items;
- retention = edited / original, over neighbor items;
- form gap = the largest forgetting minus the smallest, over the target's forms;
- noise gap = the mean form gap where the target's items change places between its forms: what noise alone gives;
- item gap, item noise gap = the same of 1 - exp(mean log(edited / original)), which weighs every item alike, over the forms
  without a chance level;
- combined = the harmonic mean of F and R. F is the harmonic mean of forgetting over forms, R that of retention, both clipped to
  [0, 1] first: a form that forgot nothing makes it 0, and so does a form that lost its neighbors.

A form counts for a target only where the share of known items is above chance: where nothing is known, nothing can be
forgotten. Where a metric has a chance level, both ratios are taken above chance. Forms that count are named beside every value,
since values over other forms cannot be compared. A form on which the edit cannot act is left out. Forgetting over all items,
known or not, stands beside that over known ones.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from formless.data.target import SPLITS, Split
from formless.evaluation.record import MetricKey, Record
from formless.evaluation.registry import TASKS
from formless.evaluation.statistics import Estimate, holm, mean, mean_estimate, range_p, sign_flip_p, swap_p
from formless.evaluation.task import MetricSpec
from formless.report.comparison import acts_on, item_pairs, refuse_unlike
from formless.report.known import Known, known_share
from formless.report.noise import Scored, gap_p, item_gap, permuted_gaps, permuted_item_gaps

K = TypeVar("K")

FORGETTING, FORGETTING_ALL, RETENTION, FORM_GAP, NOISE_GAP, ITEM_GAP, ITEM_NOISE_GAP, MEAN_GAP, COMBINED = (
    MetricKey(None, None, name)
    for name in (
        "forgetting", "forgetting_all", "retention", "form_gap", "noise_gap", "item_gap", "item_noise_gap",
        "gap_of_means", "combined",
    )
)  # fmt: skip
DERIVED = (FORGETTING, FORGETTING_ALL, RETENTION, FORM_GAP, NOISE_GAP, ITEM_GAP, ITEM_NOISE_GAP, MEAN_GAP, COMBINED)
"""Metrics over the forms that count; forgetting and retention stand for their means over forms."""


LEAST_RATIO = 0.01
"""Smaller ratios edited / original count as this in tests: one target that forgot all is not to outweigh the others."""


def forgetting_key(form: str) -> MetricKey:
    """Return the key of one form's forgetting."""
    return FORGETTING._replace(task=form)


def retention_key(form: str) -> MetricKey:
    """Return the key of one form's retention."""
    return RETENTION._replace(task=form)


@dataclass(frozen=True)
class GroupRatio:
    """What an edit did to one group of a task.

    Args:
        ratio: Edited over original, of known items.
        known: How many items of the group are known.
    """

    ratio: float
    known: Known


@dataclass(frozen=True)
class Ratios:
    """What one edit did to one target: edited over original, of the mean of each form's metric.

    Args:
        forget: By form that counts, on known forget items.
        neighbor: By form that counts, on known neighbor items.
        forget_all: By form, on all forget items.
        known: Of each form that was asked about the concept, how many items are known.
        groups: By split, then by task and group (e.g. a mention): edited over original of known items, where the group counts.
        permuted_gaps: The form gaps of permuted items; empty for fewer than two forms.
        item_gap: The form gap by items; None for fewer than two forms without a chance level.
        permuted_item_gaps: The same of permuted items.
    """

    forget: Mapping[str, float]
    neighbor: Mapping[str, float]
    forget_all: Mapping[str, float] = field(default_factory=dict)
    known: Mapping[str, Known] = field(default_factory=dict)
    groups: Mapping[Split, Mapping[tuple[str, str], GroupRatio]] = field(default_factory=dict)
    permuted_gaps: array[float] = field(default_factory=lambda: array("d"))
    item_gap: float | None = None
    permuted_item_gaps: array[float] = field(default_factory=lambda: array("d"))

    @property
    def forgetting(self) -> dict[str, float]:
        """Forgetting by form."""
        return {form: 1 - ratio for form, ratio in self.forget.items()}

    @property
    def gap(self) -> float | None:
        """The form gap; None for fewer than two forms."""
        forgetting = self.forgetting.values()
        return max(forgetting) - min(forgetting) if len(forgetting) > 1 else None

    @property
    def noise_gap(self) -> float | None:
        """The mean form gap of permuted items; None for fewer than two forms."""
        return mean(self.permuted_gaps) if self.permuted_gaps else None

    @property
    def combined(self) -> float | None:
        """The combined metric; None without a form on both splits."""
        return combined(self.forget, self.neighbor) if self.forget and self.neighbor else None

    @property
    def swapped(self) -> Ratios:
        """The ratios if original and edited model changed places."""
        return Ratios(_inverse(self.forget), _inverse(self.neighbor))

    def metrics(self) -> dict[MetricKey, float]:
        """Return the metrics of form independence that this target has."""
        found = {forgetting_key(form): value for form, value in self.forgetting.items()}
        found |= {FORGETTING_ALL._replace(task=form): 1 - ratio for form, ratio in self.forget_all.items()}
        found |= {retention_key(form): value for form, value in self.neighbor.items()}
        for (task, group), one in self.groups.get("forget", {}).items():
            found[MetricKey(task, None, FORGETTING.metric, group)] = 1 - one.ratio
        for (task, group), one in self.groups.get("neighbor", {}).items():
            found[MetricKey(task, None, RETENTION.metric, group)] = one.ratio
        whole = {
            FORGETTING: mean(list(self.forgetting.values())) if self.forget else None,
            RETENTION: mean(list(self.neighbor.values())) if self.neighbor else None,
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
        forgetting: By form, of known items; p is of a one-sided test that swaps original and edited model, on the logarithm of
            their ratio, corrected for the number of forms (Holm).
        forgetting_all: By form, of all items, over all targets.
        retention: By form; p is of a two-sided test of the same kind.
        known: Known and asked items by form, over all targets.
        gap: Of targets with at least two forms; p is of a test that permutes items over the forms of each target.
        noise_gap: What the same targets' gap would be by noise alone.
        item_gap: The form gap by items, with the same test.
        item_noise_gap: What it would be by noise alone.
        mean_gap: The largest minus the smallest mean of a form over targets; p is of a permutation test of whether forms differ
            in the same way in all targets. Without a confidence interval, as it is never negative.
        combined: Of targets with a form on both splits; p is of a one-sided test that swaps original and edited model.
    """

    forgetting: Mapping[str, Estimate]
    forgetting_all: Mapping[str, Estimate]
    retention: Mapping[str, Estimate]
    known: Mapping[str, tuple[int, int]]
    gap: Estimate | None
    noise_gap: Estimate | None
    item_gap: Estimate | None
    item_noise_gap: Estimate | None
    mean_gap: Estimate | None
    combined: Estimate | None

    def estimates(self) -> dict[MetricKey, Estimate]:
        """Return every estimate by its key."""
        found = {forgetting_key(form): estimate for form, estimate in self.forgetting.items()}
        found |= {FORGETTING_ALL._replace(task=form): estimate for form, estimate in self.forgetting_all.items()}
        found |= {retention_key(form): estimate for form, estimate in self.retention.items()}
        whole = {
            FORM_GAP: self.gap, NOISE_GAP: self.noise_gap, ITEM_GAP: self.item_gap, ITEM_NOISE_GAP: self.item_noise_gap,
            MEAN_GAP: self.mean_gap, COMBINED: self.combined,
        }  # fmt: skip
        return found | {key: one for key, one in whole.items() if one}


def forms() -> dict[str, MetricSpec]:
    """Return the metric that shows knowledge, of every task that has one, in the order of the registry."""
    return {name: task.knowledge for name, task in TASKS.items() if task.knowledge}


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
    scored = {form: _scored(original, edited, form) for form in forget}
    open_ended = {form: items for form, items in scored.items() if not forms()[form].chance}
    found = Ratios(
        forget,
        _ratios(original, edited, "neighbor"),
        forget_all=_ratios(original, edited, "forget", known_only=False),
        known=_known(original),
        groups={split: _group_ratios(original, edited, split) for split in SPLITS},
    )
    if len(scored) > 1:
        found = replace(found, permuted_gaps=permuted_gaps(scored, original.target))
    if len(open_ended) > 1:
        gaps = permuted_item_gaps(open_ended, original.target)
        found = replace(found, item_gap=item_gap(open_ended), permuted_item_gaps=gaps)
    return found


def independence_of(targets: Sequence[Sequence[Ratios]]) -> Independence:
    """Summarize the ratios of many targets, each by seed; a target's seeds are averaged first."""
    forgetting = [mean_over_seeds([seed.forgetting for seed in seeds]) for seeds in targets]
    everything = [
        {form: 1 - ratio for form, ratio in mean_over_seeds([seed.forget_all for seed in seeds]).items()} for seeds in targets
    ]
    retention = [mean_over_seeds([seed.neighbor for seed in seeds]) for seeds in targets]
    gap, noise = _gap_estimates(targets, lambda seed: seed.gap, lambda seed: seed.permuted_gaps)
    by_item, item_noise = _gap_estimates(targets, lambda seed: seed.item_gap, lambda seed: seed.permuted_item_gaps)
    whole = _means([seed.combined for seed in seeds] for seeds in targets)
    swapped = _means([seed.swapped.combined for seed in seeds] for seeds in targets)
    return Independence(
        forgetting=_tested(forgetting, "greater"),
        forgetting_all={form: mean_estimate(values) for form, values in _by_form(everything)},
        retention=_tested(retention, "two-sided"),
        known=_known_counts(targets),
        gap=gap,
        noise_gap=noise,
        item_gap=by_item,
        item_noise_gap=item_noise,
        mean_gap=_mean_gap(forgetting),
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
    """Return how far the means of the forms over targets lie apart; None for fewer than two targets with two forms."""
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


def _ratios(original: Record, edited: Record, split: Split, *, known_only: bool = True) -> dict[str, float]:
    """Return edited over original by form on one split: of known items in forms that count, or of all items."""
    found = {}
    for form, spec in forms().items():
        before, after = original.task(form, split), edited.task(form, split)
        if before is None or after is None or not acts_on(edited, before, after):
            continue
        share = known_share(form, before.items)
        if known_only and not (share and share.is_above_chance):
            continue
        if pairs := item_pairs(before, after, spec.name, known_only=known_only):
            old, new = (mean(values) - spec.chance for values in zip(*pairs, strict=True))
            if old > 0:
                found[form] = new / old
    return found


def _group_ratios(original: Record, edited: Record, split: Split) -> dict[tuple[str, str], GroupRatio]:
    """Return edited over original by task and group on one split, of known items in groups that count."""
    found = {}
    for before in original.tasks:
        after = edited.task(before.task, split)
        task = TASKS.get(before.task)
        if before.split != split or after is None or task is None or not acts_on(edited, before, after):
            continue
        for group in task.groups:
            share = known_share(before.task, [item for item in before.items if item.group == group])
            if share is None or not share.is_above_chance:
                continue
            pairs = item_pairs(before, after, task.metrics[0].name, group, known_only=True)
            old, new = (mean(values) for values in zip(*pairs, strict=True))
            found[before.task, group] = GroupRatio(new / old, share)
    return found


def _known(original: Record) -> dict[str, Known]:
    """Return how many forget items are known, by form that was asked."""
    results = {form: original.task(form, "forget") for form in forms()}
    shares = {form: known_share(form, result.items) for form, result in results.items() if result}
    return {form: share for form, share in shares.items() if share}


def _known_counts(targets: Sequence[Sequence[Ratios]]) -> dict[str, tuple[int, int]]:
    """Return known and asked items by form, over all targets; a target's seeds were asked the same."""
    first = [seeds[0].known for seeds in targets]
    return {
        form: (sum(own[form].known for own in first if form in own), sum(own[form].asked for own in first if form in own))
        for form in forms()
        if any(form in own for own in first)
    }


def _scored(original: Record, edited: Record, form: str) -> list[Scored]:
    """Return the known forget items of a form, with their metric above chance, that both records have scored."""
    spec, before, after = forms()[form], original.task(form, "forget"), edited.task(form, "forget")
    if before is None or after is None:
        return []
    return [
        Scored(old.fact, old.metrics[spec.name] - spec.chance, new.metrics[spec.name] - spec.chance)
        for old, new in zip(before.items, after.items, strict=True)
        if old.is_known and spec.name in old.metrics and spec.name in new.metrics
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

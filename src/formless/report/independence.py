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

Mentions, kinds of questions and reverse questions are no forms. They have forgetting and retention of their own, by the same
rule, and are in no mean and in no gap.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from formless.data.rows import SPLITS, Split
from formless.evaluation.record import MetricKey, Record
from formless.evaluation.registry import TASKS
from formless.evaluation.statistics import (
    Estimate,
    Pairs,
    complement,
    holm,
    log_ratios,
    mean,
    mean_estimate,
    range_p,
    ratio_estimate,
    sign_flip_p,
    swap_p,
)
from formless.report.noise import gap_p
from formless.report.ratios import (
    COMBINED,
    FORGETTING,
    FORGETTING_ALL,
    FORM_GAP,
    ITEM_GAP,
    ITEM_NOISE_GAP,
    MEAN_GAP,
    NOISE_GAP,
    RETENTION,
    Place,
    Ratios,
    forgetting_key,
    forms,
    ratios,
    retention_key,
)

K = TypeVar("K")


@dataclass(frozen=True)
class Independence:
    """Form independence of one method, over targets.

    Args:
        forgetting: By form, of known items; p is of a one-sided test that swaps original and edited model, on the logarithm of
            their ratio, corrected for the number of forms (Holm).
        forgetting_all: By task that is measured as a whole, of all items, over all targets.
        retention: By form; p is of a two-sided test of the same kind.
        known: By split and place, known and asked items over all targets.
        others: Forgetting and retention of what counts beside the forms, of known items: of a task's groups, e.g. a mention,
            and of tasks such as reverse.
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
    known: Mapping[Split, Mapping[Place, tuple[int, int]]]
    others: Mapping[MetricKey, Estimate]
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
        return found | dict(self.others) | {key: one for key, one in whole.items() if one}


def independence(pairs: Sequence[tuple[Record, Record]]) -> Independence:
    """Summarize pairs of records, (original, edited), one pair for each target.

    Raises:
        DataError: The records of a pair asked different items, or are of different models.
    """
    return independence_of([[ratios(original, edited)] for original, edited in pairs])


def independence_of(targets: Sequence[Sequence[Ratios]]) -> Independence:
    """Summarize the ratios of many targets, each by seed; a target's seeds are averaged first."""
    forgetting = [mean_over_seeds([seed.forgetting for seed in seeds]) for seeds in targets]
    everything = [
        {form: 1 - ratio for form, ratio in mean_over_seeds([seed.forget_all for seed in seeds]).items()} for seeds in targets
    ]
    gap, noise = _gap_estimates(targets, lambda seed: seed.gap, lambda seed: seed.permuted_gaps)
    by_item, item_noise = _gap_estimates(targets, lambda seed: seed.item_gap, lambda seed: seed.permuted_item_gaps)
    whole = _means([seed.combined for seed in seeds] for seeds in targets)
    swapped = _means([seed.swapped_combined for seed in seeds] for seeds in targets)
    return Independence(
        forgetting={form: complement(one) for form, one in _estimates(targets, "forget", "greater").items()},
        forgetting_all={name: mean_estimate(values) for name, values in _by_task(everything)},
        retention=_estimates(targets, "neighbor", "two-sided"),
        others=_others(targets),
        known={split: _known_counts(targets, split) for split in SPLITS},
        gap=gap,
        noise_gap=noise,
        item_gap=by_item,
        item_noise_gap=item_noise,
        mean_gap=_mean_gap(forgetting),
        combined=mean_estimate(whole, swap_p(whole, swapped)) if whole else None,
    )


def _estimates(
    targets: Sequence[Sequence[Ratios]], split: Split, alternative: Literal["greater", "two-sided"]
) -> dict[str, Estimate]:
    """Return edited over original of each form, over targets, with the p-value of a swap test, corrected over the forms.

    If original and edited model change places, the logarithm of edited / original changes its sign and nothing else, so that
    flipping signs is swapping them; of 1 - edited / original it is not.

    Args:
        targets: The ratios of each target, by seed.
        split: Forget or neighbor items.
        alternative: Sides of the test; `greater` tests whether the edited model has less.
    """
    places = {form: _pairs(targets, split, (form, None)) for form in forms()}
    found = {form: ratio_estimate(own) for form, own in places.items() if own}
    corrected = holm([sign_flip_p([-log for log in log_ratios(places[form])], alternative) for form in found])
    return {form: replace(one, p=p) for (form, one), p in zip(found.items(), corrected, strict=True)}


def _others(targets: Sequence[Sequence[Ratios]]) -> dict[MetricKey, Estimate]:
    """Return forgetting and retention of what counts beside the forms, over targets."""
    found = {}
    sides: tuple[tuple[Split, MetricKey], ...] = (("forget", FORGETTING), ("neighbor", RETENTION))
    for split, key in sides:
        present = {place for seeds in targets for seed in seeds for place in seed.others(split)}
        for name, group in _in_order(present):
            one = ratio_estimate(_pairs(targets, split, (name, group)))
            found[key._replace(task=name, group=group)] = complement(one) if split == "forget" else one
    return found


def _in_order(places: Collection[Place]) -> list[Place]:
    """Return places in the order of the registry, a whole task before its groups."""
    every = ((name, group) for name, task in TASKS.items() for group in (None, *task.groups))
    return [place for place in every if place in places]


def _pairs(targets: Sequence[Sequence[Ratios]], split: Split, place: Place) -> list[list[Pairs]]:
    """Return the known items of a form or group, of each target that has any, by seed."""
    found = ([own.pairs for seed in seeds if (own := seed.items.get(split, {}).get(place))] for seeds in targets)
    return [seeds for seeds in found if seeds]


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
    means = [mean(values) for _, values in _by_task(targets)]
    p = range_p([dict(target) for target in targets])
    return None if p is None else Estimate(max(means) - min(means), None, sum(len(target) > 1 for target in targets), p)


def mean_over_seeds(seeds: Sequence[Mapping[K, float]]) -> dict[K, float]:
    """Return the mean of every metric over the seeds that have it."""
    keys = dict.fromkeys(key for seed in seeds for key in seed)
    return {key: mean([seed[key] for seed in seeds if key in seed]) for key in keys}


def _known_counts(targets: Sequence[Sequence[Ratios]], split: Split) -> dict[Place, tuple[int, int]]:
    """Return known and asked items by place, over all targets; a target's seeds were asked the same."""
    first = [seeds[0].known.get(split, {}) for seeds in targets]
    return {
        place: (sum(own[place].known for own in first if place in own), sum(own[place].asked for own in first if place in own))
        for place in _in_order({place for own in first for place in own})
    }


def _by_task(targets: Sequence[Mapping[str, float]]) -> list[tuple[str, list[float]]]:
    """Return the targets' values by task, in the order of the registry."""
    found = ((name, [target[name] for target in targets if name in target]) for name in TASKS)
    return [(name, values) for name, values in found if values]


def _means(targets: Iterable[Sequence[float | None]]) -> list[float]:
    """Return the mean over the seeds of each target that has any."""
    known = [[value for value in seeds if value is not None] for seeds in targets]
    return [mean(seeds) for seeds in known if seeds]

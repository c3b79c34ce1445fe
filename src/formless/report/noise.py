"""The noise floor of the form gap: how far forms lie apart where items change places between them.

A gap is the largest value minus the smallest, so it is positive by noise alone. If all forms forget alike, it does not matter
in which form an item was asked: items of a target may change places between its forms. The mean gap over many such permutations
is the noise floor, and the share of permutations with a gap as large as the actual one is the p-value.
"""

from __future__ import annotations

import math
import zlib
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

PERMUTATIONS = 999
LEAST_PROBABILITY = 1e-12
"""Smaller probabilities count as this, so that every item has a log ratio."""


class Scored(NamedTuple):
    """One item of a form.

    Args:
        fact: What items of one target that ask one fact have in common; None where it cannot be told.
        before: The metric above chance, original model.
        after: The same, edited model.
    """

    fact: str | None
    before: float
    after: float


def permuted_gaps(forms: Mapping[str, Sequence[Scored]], target: str) -> array[float]:
    """Return the form gaps of `PERMUTATIONS` random permutations of a target's items over its forms.

    An item keeps its values before and after. Items that share a fact change places with each other, since some facts are
    harder than others. Items whose fact is in one form only, or several times in one, change places among themselves. Where a
    form's mean before the edit is not positive after a permutation, the form is left out of that gap.

    Args:
        forms: The items of each form, at least two forms.
        target: Its name is the seed: the permutations of different targets are independent, those of a target's runs equal.
    """
    import numpy as np

    places, sources = _permutations(forms, target)
    items = [item for own in forms.values() for item in own]
    values = np.asarray([(item.before, item.after) for item in items])[sources]  # [permutations, items, 2]
    sums = np.stack([values[:, places == place].sum(1) for place in range(len(forms))], axis=1)  # [permutations, forms, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(sums[..., 0] > 0, sums[..., 1] / sums[..., 0], np.nan)
    ratios[np.isnan(ratios).all(1)] = 0  # no form is left: no gap
    return array("d", (np.nanmax(ratios, axis=1) - np.nanmin(ratios, axis=1)).tolist())


def item_gap(forms: Mapping[str, Sequence[Scored]]) -> float:
    """Return the form gap by items: a form's forgetting is 1 - exp(mean log(after / before)), which weighs every item alike.

    The ratio of means follows the few items with the highest probability, so that much of its scatter is theirs.
    """
    forgetting = [1 - math.exp(math.fsum(map(_log_ratio, own)) / len(own)) for own in forms.values()]
    return max(forgetting) - min(forgetting)


def permuted_item_gaps(forms: Mapping[str, Sequence[Scored]], target: str) -> array[float]:
    """Return the form gaps by items of the same permutations as those of `permuted_gaps`."""
    import numpy as np

    places, sources = _permutations(forms, target)
    logs = np.asarray([_log_ratio(item) for own in forms.values() for item in own])[sources]  # [permutations, items]
    kept = np.exp(np.stack([logs[:, places == place].mean(1) for place in range(len(forms))], axis=1))
    return array("d", (kept.max(1) - kept.min(1)).tolist())


def _log_ratio(item: Scored) -> float:
    return math.log(max(item.after, LEAST_PROBABILITY) / max(item.before, LEAST_PROBABILITY))


def _permutations(forms: Mapping[str, Sequence[Scored]], target: str) -> tuple[Any, Any]:
    """Return each item's form `[items]`, and which item stands in its place in each permutation `[permutations, items]`."""
    import numpy as np

    places = np.repeat(np.arange(len(forms)), [len(own) for own in forms.values()])
    blocks = np.asarray(_blocks(forms))
    generator = np.random.default_rng(zlib.crc32(target.encode("utf-8", "surrogatepass")))
    shuffled = np.argsort(blocks + generator.random((PERMUTATIONS, len(blocks))), axis=1)  # by block, then at random
    sources = np.empty_like(shuffled)
    sources[:, np.argsort(blocks, kind="stable")] = shuffled
    return places, sources


def _blocks(forms: Mapping[str, Sequence[Scored]]) -> list[int]:
    """Return a number for each item: items of one number change places."""
    counts = {form: Counter(item.fact for item in own if item.fact) for form, own in forms.items()}
    seen = Counter(fact for own in counts.values() for fact in own)
    single = {fact for fact, count in seen.items() if count > 1 and all(own[fact] <= 1 for own in counts.values())}
    numbers = {fact: number for number, fact in enumerate(sorted(single), 1)}
    return [numbers.get(item.fact or "", 0) for own in forms.values() for item in own]


def gap_p(gap: float, targets: Sequence[Sequence[array[float]]]) -> float:
    """Return the p-value of a mean gap over targets: how often permuted items give one as large.

    It tests the scatter of forms within targets: also that of forms which differ in another way in each target.

    Args:
        gap: The mean gap, of each target over its seeds first.
        targets: The permuted gaps of each target, by seed.
    """
    import numpy as np

    pooled = np.mean([np.mean(seeds, axis=0) for seeds in targets], axis=0)  # [permutations]
    return float((1 + np.sum(pooled >= gap - 1e-12)) / (1 + len(pooled)))

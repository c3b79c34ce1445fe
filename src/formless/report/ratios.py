"""What one edit did to one target: edited over original by form, over the items that the original model knows.

`independence` says what the metrics mean.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from formless.data.rows import SPLITS, Split
from formless.evaluation.known import Known, known_share
from formless.evaluation.prompts import KNOWN
from formless.evaluation.record import MetricKey, Record
from formless.evaluation.registry import TASKS
from formless.evaluation.statistics import Pairs, mean
from formless.evaluation.task import MetricSpec
from formless.report.comparison import acts_on, item_pairs, refuse_unlike
from formless.report.noise import Scored, item_gap, permuted_gaps, permuted_item_gaps

FORGETTING, FORGETTING_ALL, RETENTION, FORM_GAP, NOISE_GAP, ITEM_GAP, ITEM_NOISE_GAP, MEAN_GAP, COMBINED = (
    MetricKey(None, None, name)
    for name in (
        "forgetting", "forgetting_all", "retention", "form_gap", "noise_gap", "item_gap", "item_noise_gap",
        "gap_of_means", "combined",
    )
)  # fmt: skip
DERIVED = (FORGETTING, FORGETTING_ALL, RETENTION, FORM_GAP, NOISE_GAP, ITEM_GAP, ITEM_NOISE_GAP, MEAN_GAP, COMBINED)
"""Metrics over the forms that count; forgetting and retention stand for their means over forms."""


def forgetting_key(form: str) -> MetricKey:
    """Return the key of one form's forgetting."""
    return FORGETTING._replace(task=form)


def retention_key(form: str) -> MetricKey:
    """Return the key of one form's retention."""
    return RETENTION._replace(task=form)


Place = tuple[str, str | None]
"""A task, and one of its groups; None for the whole task. It is a form where the task has a metric that shows knowledge."""


@dataclass(frozen=True)
class KnownItems:
    """The known items of a form or group that counts.

    Args:
        pairs: The metric above chance, before and after, of each.
        known: How many of the asked items they are.
    """

    pairs: Pairs
    known: Known

    @property
    def ratio(self) -> float:
        """Edited over original, of the means."""
        old, new = (mean(values) for values in zip(*self.pairs, strict=True))
        return new / old


@dataclass(frozen=True)
class Ratios:
    """What one edit did to one target: edited over original, of the mean of each form's metric.

    Args:
        items: By split, the known items of each place that counts.
        forget_all: By task, on all forget items.
        known: By split, how many items of each place that was asked are known.
        permuted_gaps: The form gaps of permuted items; empty for fewer than two forms.
        item_gap: The form gap by items; None for fewer than two forms without a chance level.
        permuted_item_gaps: The same of permuted items.
    """

    items: Mapping[Split, Mapping[Place, KnownItems]]
    forget_all: Mapping[str, float] = field(default_factory=dict)
    known: Mapping[Split, Mapping[Place, Known]] = field(default_factory=dict)
    permuted_gaps: array[float] = field(default_factory=lambda: array("d"))
    item_gap: float | None = None
    permuted_item_gaps: array[float] = field(default_factory=lambda: array("d"))

    @property
    def forget(self) -> dict[str, float]:
        """Edited over original by form that counts, on known forget items."""
        return self._by_form("forget")

    @property
    def neighbor(self) -> dict[str, float]:
        """Edited over original by form that counts, on known neighbor items."""
        return self._by_form("neighbor")

    def _by_form(self, split: Split) -> dict[str, float]:
        return {form: self.items[split][form, None].ratio for form in forms() if (form, None) in self.items.get(split, {})}

    def others(self, split: Split) -> dict[Place, KnownItems]:
        """Return the known items of what counts beside the forms: of groups (e.g. a mention), and of tasks such as reverse."""
        return {place: own for place, own in self.items.get(split, {}).items() if not is_form(place)}

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
    def swapped_combined(self) -> float | None:
        """The combined metric if original and edited model changed places."""
        return combined(_inverse(self.forget), _inverse(self.neighbor)) if self.forget and self.neighbor else None

    def metrics(self) -> dict[MetricKey, float]:
        """Return the metrics of form independence that this target has."""
        found = {forgetting_key(form): value for form, value in self.forgetting.items()}
        found |= {FORGETTING_ALL._replace(task=form): 1 - ratio for form, ratio in self.forget_all.items()}
        found |= {retention_key(form): value for form, value in self.neighbor.items()}
        found |= {
            FORGETTING._replace(task=task, group=group): 1 - own.ratio for (task, group), own in self.others("forget").items()
        }
        found |= {
            RETENTION._replace(task=task, group=group): own.ratio for (task, group), own in self.others("neighbor").items()
        }
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


def forms() -> dict[str, MetricSpec]:
    """Return the metric that shows knowledge, of every task that has one, in the order of the registry."""
    return {name: task.knowledge for name, task in TASKS.items() if task.knowledge}


def is_form(place: Place) -> bool:
    """Return whether a place is a form."""
    return place[1] is None and place[0] in forms()


def wholes() -> dict[str, MetricSpec]:
    """Return the metric of every task that is measured as a whole: a form, or one without groups that tests what is known."""
    tasks = {name: task for name, task in TASKS.items() if task.knowledge or (KNOWN in task.metrics and not task.groups)}
    return {name: task.knowledge or task.metrics[0] for name, task in tasks.items()}


def ratios(original: Record, edited: Record) -> Ratios:
    """Return edited over original by form, of one target, where the original model knows anything.

    Raises:
        DataError: The records asked different items, or are of different models.
    """
    refuse_unlike(original, edited)
    items = {split: _known_items(original, edited, split) for split in SPLITS}
    known = {split: _known(original, split) for split in SPLITS}
    found = Ratios(items, _ratios_of_all(original, edited), known)
    scored = {form: _scored(original, edited, form) for form in found.forget}
    open_ended = {form: own for form, own in scored.items() if not forms()[form].chance}
    if len(scored) > 1:
        found = replace(found, permuted_gaps=permuted_gaps(scored, original.target))
    if len(open_ended) > 1:
        gaps = permuted_item_gaps(open_ended, original.target)
        found = replace(found, item_gap=item_gap(open_ended), permuted_item_gaps=gaps)
    return found


def combined(forget: Mapping[str, float], neighbor: Mapping[str, float]) -> float:
    """Return the combined metric, in [0, 1], from the ratios edited / original of a target's forms on both splits."""
    forgotten = [min(max(1 - ratio, 0.0), 1.0) for ratio in forget.values()]
    retained = [min(max(ratio, 0.0), 1.0) for ratio in neighbor.values()]
    return _harmonic([_harmonic(forgotten), _harmonic(retained)])


def _harmonic(values: Sequence[float]) -> float:
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)


def _known_items(original: Record, edited: Record, split: Split) -> dict[Place, KnownItems]:
    """Return the known items on one split, of each place where it counts."""
    found: dict[Place, KnownItems] = {}
    for (name, group), share in _known(original, split).items():
        before, after = original.task(name, split), edited.task(name, split)
        if before is None or after is None or not share.is_above_chance or not acts_on(edited, before, after):
            continue
        spec = TASKS[name].knowledge or TASKS[name].metrics[0]
        scored = item_pairs(before, after, spec.name, group, known_only=True)
        pairs = [(old - spec.chance, new - spec.chance) for old, new in scored]
        if pairs and mean([old for old, _ in pairs]) > 0:
            found[name, group] = KnownItems(pairs, share)
    return found


def _ratios_of_all(original: Record, edited: Record) -> dict[str, float]:
    """Return edited over original by task that is measured as a whole, over all forget items, known or not."""
    found = {}
    for name, spec in wholes().items():
        before, after = original.task(name, "forget"), edited.task(name, "forget")
        if before is None or after is None or not acts_on(edited, before, after):
            continue
        if pairs := item_pairs(before, after, spec.name):
            old, new = (mean(values) - spec.chance for values in zip(*pairs, strict=True))
            if old > 0:
                found[name] = new / old
    return found


def _known(original: Record, split: Split) -> dict[Place, Known]:
    """Return how many items are known, of each place that was asked."""
    found: dict[Place, Known] = {}
    for name, task in TASKS.items():
        result = original.task(name, split)
        for group in (*((None,) if name in wholes() else ()), *task.groups) if result else ():
            share = known_share(name, [item for item in result.items if group in (None, item.group)]) if result else None
            if share:
                found[name, group] = share
    return found


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


def _inverse(ratios: Mapping[str, float]) -> dict[str, float]:
    return {form: 1 / ratio if ratio > 0 else math.inf for form, ratio in ratios.items()}

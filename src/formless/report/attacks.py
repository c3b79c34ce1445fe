"""What attacks on the weights bring back: recall and forgetting after each, and the worst-case recall over all of them.

Of one run and one state of its attacked model, over the known facts that the attack's own texts do not hold:

- recall is the share of facts that some answer holds, before the attack and after it;
- forgetting is 1 - attacked/original, by form, over known items; before the attack it is 1 - edited/original. Of a quantized
  model, the original is quantized too where that was measured, so that what quantization alone loses is no forgetting; a form
  of which the quantized original keeps less than `MIN_KEPT` has no value;
- the facts that the attack trained on are counted apart: if they are not said either, it is too weak to show anything;
- what survives is the mean forgetting after the attack over that before it, both over forms and targets.

The worst-case recall over all attacks is the share of known facts that some answer holds, of the edited model or of an attacked
one, in every record that the run's folder has, of any attack and settings; what an attack's texts hold does not count in its
records. A target's seeds are averaged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from formless.errors import DataError
from formless.evaluation.known import known_facts, known_share
from formless.evaluation.record import MetricKey, Record
from formless.evaluation.statistics import Estimate, mean
from formless.evaluation.verification import is_alike
from formless.experiment.attacks.attack import Attack, AttackSettings, Case, Point, UnfitError
from formless.experiment.attacks.measure import (
    Attackable,
    attack_points,
    attackable_runs,
    is_of,
)
from formless.experiment.attacks.records import attacked_records, place
from formless.experiment.runs import ORIGINAL, read_plan
from formless.report.attack_recall import Values, over_targets, recall_under_attacks, unread_clauses
from formless.report.ratios import FORGETTING, forgetting_key, forms
from formless.report.recall import WORST_CASE_RECALL, recall_over
from formless.report.runs import Condition, conditions

RECALL_BEFORE = MetricKey(None, None, "worst_case_recall_before")
BEFORE = MetricKey(None, None, "forgetting_before")
"""Forgetting before the attack; with a form's name, of that form."""
TRAINED_RECALL = MetricKey(None, None, "trained_facts_said")
"""The share of the facts that an attack trained on and that some answer holds after it: whether it teaches anything at all."""
HALF_STEP = MetricKey(None, None, "half_step_share")
STEP = MetricKey(None, None, "step")
AGAINST_QUANTIZED = MetricKey(None, None, "against_quantized_original")
"""1 where the original is quantized too, 0 where it is not."""

MIN_FORGETTING = 0.1
"""The least mean forgetting before an attack of which a share is given: of almost nothing, every share is noise."""

MIN_KEPT = 0.1
"""The least share of a form that a quantized original has to keep: beside less, every share is noise."""


@dataclass(frozen=True)
class AttackResult:
    """One state of the attacked models of one model and method, over targets.

    Args:
        attack: The attack.
        number: Place of the state among the points of the attack.
        values: By key, the mean over the targets that have the metric.
    """

    attack: Attack
    number: int
    values: Mapping[MetricKey, Estimate]

    def value(self, key: MetricKey) -> float | None:
        """Return the mean of a metric; None where no target has it."""
        found = self.values.get(key)
        return None if found is None else found.value

    @property
    def surviving(self) -> float | None:
        """The share of the mean forgetting that is left; None where there was less than `MIN_FORGETTING`."""
        before, after = self.value(BEFORE), self.value(FORGETTING)
        return after / before if before is not None and after is not None and before >= MIN_FORGETTING else None


@dataclass(frozen=True)
class AttackSummary:
    """What attacks bring back of one model and method.

    Args:
        condition: Model and method.
        targets: Its targets.
        overall: Worst-case recall under all attacks, of the edited model and of the original one.
        results: Of each attack and point, the worst first.
        gaps: What does not count, as one clause; empty where everything does.
    """

    condition: Condition
    targets: tuple[str, ...]
    overall: Mapping[MetricKey, Estimate]
    results: tuple[AttackResult, ...]
    gaps: str = ""


@dataclass
class _Found:
    """What is collected of one condition: target -> seeds -> values, overall and by attack and point."""

    overall: dict[str, list[Values]] = field(default_factory=dict)
    results: dict[tuple[str, int], dict[str, list[Values]]] = field(default_factory=dict)
    gaps: Counter[str] = field(default_factory=Counter)


def collect_attacks(
    out: Path, attacks: Sequence[Attack], settings: AttackSettings, methods: Collection[str] = ()
) -> tuple[list[AttackSummary], dict[Condition, str]]:
    """Read what `measure_attacks` has measured.

    Args:
        out: A folder that `formless run` wrote.
        attacks: The attacks.
        settings: How models are fine-tuned.
        methods: Labels of methods; all unless given.

    Returns:
        The summaries, and of every other model and method what is left out.

    Raises:
        DataError: No experiment was started there, or no run of it can be attacked.
        UnknownNameError: A label is none of its methods.
    """
    plan = read_plan(out)
    names = {run.id: condition for condition, run in zip(conditions(plan), plan, strict=True)}
    victims, left_out = attackable_runs(out, methods)
    found: dict[Condition, _Found] = {}
    for run_id, reason in left_out.items():
        found.setdefault(names[run_id], _Found()).gaps[f"runs {reason}"] += 1
    by_place: dict[tuple[object, ...], list[Attackable]] = {}
    for victim in victims:
        by_place.setdefault(place(victim.run), []).append(victim)
    for same in by_place.values():
        quantized_originals: dict[str, Record] = {}  # of one target at a time; the original comes first
        for victim in same:
            own = found.setdefault(names[victim.run.id], _Found())
            try:
                case = victim.load()
                if case.run.method == ORIGINAL:
                    quantized_originals, _ = attacked_records(case.folder, case.whole)
                else:
                    _add(own, case, attacks, settings, quantized_originals)
            except UnfitError as error:
                own.gaps[f"runs {error.what}"] += 1
            except DataError as error:
                own.gaps[f"runs that cannot be attacked: {error}"] += 1
    summaries = [_summary(condition, own, attacks) for condition, own in found.items() if own.overall]
    without = {condition: _clause(own.gaps) for condition, own in found.items() if own.gaps and not own.overall}
    if not summaries:
        reasons = "; ".join(f"{condition.method}: {reason}" for condition, reason in without.items())
        remedy = "give a folder with complete runs of methods that edit weights, and of the method original"
        raise DataError("no run can be attacked", where=reasons or out, remedy=remedy)
    return summaries, without


def _add(own: _Found, case: Case, attacks: Sequence[Attack], settings: AttackSettings, originals: Mapping[str, Record]) -> None:
    """Add one run."""
    planned, refused = attack_points(case, attacks, settings)
    for name, reason in refused.items():
        own.gaps[f"runs without {name}: {reason}"] += 1
    measured, unread = attacked_records(case.folder, case.whole)
    own.gaps.update(unread_clauses(unread - {point.name for _, points in planned for point in points}))
    for attack, points in planned:
        for point in points:
            attacked = measured.get(point.name)
            if attacked is None or not is_of(attacked, attack, point):
                own.gaps[f"states under {attack.name} not measured"] += 1
                continue
            base = originals.get(point.name)
            base = base if base and is_of(base, attack, point) else None
            values = attacked_values(case.original, case.whole, attacked, point, base)
            own.results.setdefault((attack.name, point.number), {}).setdefault(case.run.target, []).append(values)
    own.overall.setdefault(case.run.target, []).append(recall_under_attacks(case.original, case.whole, measured.values()))


def attacked_values(
    original: Record, whole: Record, attacked: Record, point: Point, quantized_original: Record | None = None
) -> dict[MetricKey, float]:
    """Return the metrics of one attacked record of one run.

    Args:
        original: The original model's record, which says what is known.
        whole: The run's record before the attack.
        attacked: The record after it.
        point: The state, with the facts that do not count.
        quantized_original: Of a quantized model, the record of the original model quantized alike, if it was measured and asked
            the same; it has its place in every `after`.
    """
    base = quantized_original if quantized_original and is_alike(quantized_original, attacked) else None
    found: dict[MetricKey, float] = {}
    for key, record in ((RECALL_BEFORE, whole), (WORST_CASE_RECALL, attacked)):
        if recall := recall_over(original, [(record, point.excluded)]):
            found[key] = recall.value
    facts = attacked.edits[-1]["facts"]
    if trained := recall_over(
        original, [(attacked, known_facts(original, "forget").difference(facts.get("trained_facts", ())))]
    ):
        found[TRAINED_RECALL] = trained.value
    for form in forms():
        old, edited, after = (_known_mean(original, record, form, point.excluded) for record in (original, whole, attacked))
        reference = _known_mean(original, base, form, point.excluded) if base else old
        if edited is None or after is None or old is None or reference is None or old <= 0:
            continue
        if reference >= MIN_KEPT * old:
            found[BEFORE._replace(task=form)] = 1 - edited / old
            found[forgetting_key(form)] = 1 - after / reference
    for key in (BEFORE, FORGETTING):
        if own := [value for found_key, value in found.items() if found_key.metric == key.metric and found_key.task]:
            found[key] = mean(own)
    found |= {HALF_STEP: facts["half_step_share"]} if "half_step_share" in facts else {}
    found |= {STEP: float(point.step)} if point.step else {}
    return found | {AGAINST_QUANTIZED: float(base is not None)}


def _known_mean(original: Record, record: Record, form: str, excluded: Collection[str]) -> float | None:
    """Return a record's mean above chance over the known items of a form that count; None where the form does not count."""
    spec, before, own = forms()[form], original.task(form, "forget"), record.task(form, "forget")
    share = known_share(form, before.items) if before else None
    if before is None or own is None or share is None or not share.is_above_chance:
        return None
    values = [
        new.metrics[spec.name] - spec.chance
        for old, new in zip(before.items, own.items, strict=True)
        if old.is_known
        and spec.name in old.metrics
        and spec.name in new.metrics
        and (not excluded or (old.fact is not None and old.fact not in excluded))  # what an item asks must be known then
    ]
    return mean(values) if values else None


def _clause(gaps: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in gaps.items())


def _summary(condition: Condition, own: _Found, attacks: Sequence[Attack]) -> AttackSummary:
    results = []
    for attack in attacks:
        numbers = sorted(number for name, number in own.results if name == attack.name)
        results += [AttackResult(attack, number, over_targets(own.results[attack.name, number])) for number in numbers]
    return AttackSummary(
        condition, tuple(own.overall), over_targets(own.overall), tuple(sorted(results, key=_severity)), _clause(own.gaps)
    )


def _severity(result: AttackResult) -> tuple[float, float]:
    """Order the worst first: the largest recall, then the smallest share of the forgetting that survives."""
    recall, surviving = result.value(WORST_CASE_RECALL), result.surviving
    return 1.0 if recall is None else -recall, 1.0 if surviving is None else surviving

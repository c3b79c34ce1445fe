"""The worst-case recall over all attacks on a method's edits, from the records alone: no model is needed.

It is the share of known facts that some answer holds, of the edited model or of an attacked one, in every record of attacked
models that a run's folder has, of any attack and settings; what an attack's texts hold does not count in its records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from formless.errors import DataError
from formless.evaluation.loading import load_record
from formless.evaluation.record import MetricKey, Record
from formless.evaluation.statistics import Estimate, mean_estimate
from formless.evaluation.verification import is_alike
from formless.experiment.attacks.records import attacked_records, excluded_facts, place
from formless.experiment.result import RunResult, check_result
from formless.experiment.runs import ORIGINAL, Run, read_plan
from formless.report.independence import mean_over_seeds
from formless.report.recall import WORST_CASE_RECALL, recall_over
from formless.report.runs import Condition, conditions

ATTACKED_RECALL = MetricKey(None, None, "worst_case_recall_under_attack")
ORIGINAL_RECALL = MetricKey(None, None, "worst_case_recall_of_original")

Values = Mapping[MetricKey, float]


@dataclass
class AttackRecall:
    """What attacks bring back of one model and method.

    Args:
        targets: Target -> the recall metrics of each seed, of the runs that were attacked.
        gaps: What does not count, with its number.
    """

    targets: dict[str, list[Values]] = field(default_factory=dict)
    gaps: Counter[str] = field(default_factory=Counter)

    def sentence(self, method: str) -> str:
        """Return it in one sentence, with what does not count."""
        gaps = "; ".join(f"{count} {reason}" for reason, count in self.gaps.items())
        said = (
            recall_sentence(method, over_targets(self.targets)) if self.targets else f"{method}: no record of an attack counts."
        )
        return said + (f" Does not count: {gaps}." if gaps else "")


def recall_under_attacks(original: Record, whole: Record, attacked: Iterable[Record]) -> Values:
    """Return the worst-case recall over all attacks, without one, and of the original model; nothing if no answer is in words.

    Args:
        original: The original model's record, which says what is known.
        whole: The edited model's record, before any attack.
        attacked: The records of its attacked models.
    """
    pairs = {
        ATTACKED_RECALL: recall_over(original, [(whole, ()), *((record, excluded_facts(record)) for record in attacked)]),
        WORST_CASE_RECALL: recall_over(original, [(whole, ())]),
        ORIGINAL_RECALL: recall_over(original, [(original, ())]),
    }
    return {key: recall.value for key, recall in pairs.items() if recall}


def unread_clauses(names: Collection[str]) -> list[str]:
    """Return what to say of records of attacked models that do not count, from the names of their files."""
    return [f"attack records {name}.json that are damaged, or not of this edit and its items" for name in sorted(names)]


def over_targets(targets: Mapping[str, Sequence[Values]]) -> dict[MetricKey, Estimate]:
    """Return the mean of every metric over the targets that have it; a target's seeds are averaged first."""
    own = [mean_over_seeds(seeds) for seeds in targets.values()]
    keys = dict.fromkeys(key for values in own for key in values)
    return {key: mean_estimate([values[key] for values in own if key in values]) for key in keys}


def recall_sentence(method: str, overall: Mapping[MetricKey, Estimate]) -> str:
    """Return what attacks bring back of one method, in one sentence.

    Args:
        method: Its label.
        overall: The metrics of `recall_under_attacks`, over targets.
    """
    after, before, original = (overall.get(key) for key in (ATTACKED_RECALL, WORST_CASE_RECALL, ORIGINAL_RECALL))
    if after is None:
        return f"{method}: no known fact was asked in words, so there is no worst-case recall."
    said = f"worst-case recall {_share(after)} over all attacks and {_share(before)} without an attack"
    targets = f"{after.n} target{'s' if after.n != 1 else ''}"
    return f"{method}: {said}; the original model: {_share(original)} ({targets})."


def _share(found: Estimate | None) -> str:
    return "–" if found is None else f"{100 * found.value:.0f} %"


def attack_recalls(out: Path) -> dict[Condition, AttackRecall]:
    """Return what attacks bring back of every method of a folder that was attacked; runs without a record of one are in none.

    Args:
        out: A folder that `formless run` wrote.

    Raises:
        DataError: No experiment was started there.
    """
    plan = read_plan(out)
    originals = {place(run): run for run in plan if run.method == ORIGINAL}
    found: dict[Condition, AttackRecall] = {}
    for condition, run in zip(conditions(plan), plan, strict=True):
        folder = run.folder(out)
        if run.method == ORIGINAL or not any(folder.attacks.glob("*.json")) or not _is_complete(run, out):
            continue
        own = found.setdefault(condition, AttackRecall())
        beside = originals.get(place(run))
        path = folder.original if folder.original.is_file() or beside is None else beside.folder(out).record
        try:
            original, whole = load_record(path), load_record(folder.record)
        except DataError as error:
            own.gaps[f"runs whose records cannot be read: {error}"] += 1
            continue
        if not is_alike(original, whole):
            own.gaps["runs whose original model was asked other items"] += 1
            continue
        attacked, unread = attacked_records(folder, whole)
        own.gaps.update(unread_clauses(unread))
        if attacked:
            own.targets.setdefault(run.target, []).append(recall_under_attacks(original, whole, attacked.values()))
    return found


def _is_complete(run: Run, out: Path) -> bool:
    result = check_result(run.folder(out), run)
    return isinstance(result, RunResult) and result.is_complete

"""Forgetting against retention over the strengths of edits, and forgetting at equal retention.

For each method and target, a curve has a point for each strength u of the edit, theta + u (theta_edited - theta):

- its retention is the mean over the counted forms of the neighbors' (`RETENTION`), the same for every row;
- its forgetting is the mean over counted forms, or that of one form, of reverse questions, or of one mention or kind of
  question in one form;
- u = 0 is the original model: retention 1 and forgetting 0, by definition;
- a target's seeds are averaged at each u that all of them have.

Forgetting at a level of retention is the largest on the curve where retention is at least the level, with straight lines
between neighboring u. A curve that stays above the level has no value there: nothing is extrapolated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from formless.errors import DataError
from formless.evaluation.loading import load_record
from formless.evaluation.record import MetricKey, Record
from formless.evaluation.registry import TASKS
from formless.evaluation.statistics import Estimate, mean_estimate
from formless.experiment.frontier import scalable_runs, strength_record
from formless.experiment.result import RunResult, check_result
from formless.experiment.runs import ORIGINAL, read_plan
from formless.report.independence import mean_over_seeds
from formless.report.mentions import GROUPED_BY
from formless.report.ratios import FORGETTING, RETENTION, ratios
from formless.report.runs import Condition, conditions
from formless.store import RunFolder

LEVELS = (0.97, 0.95, 0.90)
"""The levels of neighbor retention at which methods are compared."""

HARMONIC = MetricKey(None, None, "harmonic_mean")
"""The harmonic mean of mean forgetting and mean retention, both clipped to [0, 1]."""

NO_ORIGINAL = "runs without the original model's record"

Values = Mapping[MetricKey, float]


@dataclass(frozen=True)
class Curve:
    """One target's forgetting and retention by strength.

    Args:
        points: By strength in increasing order, the retention and every row's forgetting; without strength 0.
    """

    points: Mapping[float, Values]

    def pairs(self, key: MetricKey) -> list[tuple[float, float]]:
        """Return (retention, forgetting) of a row by strength, strength 0 first; nothing where no point has the row."""
        found = [(values[RETENTION], values[key]) for values in self.points.values() if key in values]
        return [(1.0, 0.0), *found] if found else []


@dataclass
class Curves:
    """The curves of a folder of runs.

    Args:
        targets: Condition -> target -> its curve.
        gaps: Condition -> how many runs or records do not count, by reason.
        methods: Condition -> the method's name in the registry.
    """

    targets: dict[Condition, dict[str, Curve]] = field(default_factory=dict)
    gaps: dict[Condition, Counter[str]] = field(default_factory=dict)
    methods: dict[Condition, str] = field(default_factory=dict)

    def add(self, other: Curves) -> None:
        """Add the curves of another folder, whose methods have other names."""
        self.targets |= other.targets
        self.gaps |= other.gaps
        self.methods |= other.methods

    def clauses(self) -> dict[Condition, str]:
        """Return what does not count, a clause for each condition that lacks something."""
        texts = {
            condition: ", ".join(f"{count} {reason}" for reason, count in gaps.items()) for condition, gaps in self.gaps.items()
        }
        return {condition: text for condition, text in texts.items() if text}


@dataclass(frozen=True)
class Row:
    """Forgetting at each level.

    Args:
        targets: Number of targets that have the row.
        levels: Level -> the mean over the targets whose curve reaches it, with their number; None if none does.
    """

    targets: int
    levels: Mapping[float, Estimate | None]


@dataclass(frozen=True)
class Frontier:
    """The trade-off of one model and method.

    Args:
        condition: Model and method.
        targets: Its targets.
        rows: By key: mean forgetting, forgetting by form and of reverse questions, forgetting by form and mention, or kind.
        curve: Strength -> mean retention and mean forgetting over targets, at the strengths that every target has.
        best_strength: The strength of `curve` with the largest mean of the harmonic mean.
        harmonic: The harmonic mean there, over targets.
        gaps: What does not count, as one clause; empty where everything does.
    """

    condition: Condition
    targets: tuple[str, ...]
    rows: Mapping[MetricKey, Row]
    curve: Mapping[float, tuple[Estimate, Estimate]]
    best_strength: float | None
    harmonic: Estimate | None
    gaps: str


def forgetting_at(points: Sequence[tuple[float, float]], level: float) -> float | None:
    """Return the largest forgetting of a curve where retention is at least a level.

    Args:
        points: Retention and forgetting by strength, neighbors in strength beside each other, straight lines between them.
        level: The level of retention.

    Returns:
        None where the curve does not reach the level: it stays above, or below.
    """
    retentions = [retention for retention, _ in points]
    if not retentions or not min(retentions) <= level <= max(retentions):
        return None
    return forgetting_within(points, level)


def forgetting_within(points: Sequence[tuple[float, float]], level: float) -> float:
    """Return the same also for a curve that stays above the level: there it is the largest of the whole curve.

    Raises:
        ValueError: The curve stays below the level, which none does that begins at the original model.
    """
    found = [forgetting for retention, forgetting in points if retention >= level]
    for (r0, f0), (r1, f1) in pairwise(points):
        if min(r0, r1) < level < max(r0, r1):
            found.append(f0 + (f1 - f0) * (level - r0) / (r1 - r0))
    return max(found)


def harmonic_mean(forgetting: float, retention: float) -> float:
    """Return the harmonic mean of two shares, both clipped to [0, 1]; 0 if one of them is 0."""
    one, other = (min(max(value, 0.0), 1.0) for value in (forgetting, retention))
    return 2 * one * other / (one + other) if one and other else 0.0


def point(original: Record, edited: Record) -> dict[MetricKey, float] | None:
    """Return retention and every row's forgetting of one record; None where no form counts on both splits.

    Raises:
        DataError: The records asked different items, or are of different models.
    """
    metrics = ratios(original, edited).metrics()
    if FORGETTING not in metrics or RETENTION not in metrics:
        return None
    return {key: value for key, value in metrics.items() if key in (RETENTION, FORGETTING) or _is_row(key)}


def _is_row(key: MetricKey) -> bool:
    """Return whether a metric is the forgetting of a whole task, or of a mention or a kind of question in one."""
    if key.metric != FORGETTING.metric or key.task is None:
        return False
    return key.group is None or (key.task in TASKS and TASKS[key.task].grouped_by in GROUPED_BY)


def collect_curves(out: Path, strengths: Sequence[float], methods: Sequence[str] = (), prefix: str = "") -> Curves:
    """Read the curves of a folder of runs, as far as `measure_strengths` has measured them.

    Args:
        out: A folder that `formless run` wrote.
        strengths: The strengths of the points.
        methods: Labels of methods; all unless given.
        prefix: What the names of methods start with, where several folders are read.

    Raises:
        DataError: No experiment was started there, or records of one target are damaged or contradict each other.
        UnknownNameError: A label is none of its methods.
    """
    runs = read_plan(out)
    plan = list(zip(conditions(runs, prefix), runs, strict=True))
    _, left_out = scalable_runs(out, methods)
    found = Curves()
    seeds: dict[Condition, dict[str, list[dict[float, Values]]]] = {}
    originals = {
        (condition.model, run.target): run.folder(out).record
        for condition, run in plan
        if run.method == ORIGINAL and isinstance(result := check_result(run.folder(out), run), RunResult) and result.is_complete
    }
    for condition, run in plan:
        if run.method == ORIGINAL or (methods and run.label not in methods):
            continue
        gaps = found.gaps.setdefault(condition, Counter())
        found.methods[condition] = run.method
        if reason := left_out.get(run.id):
            gaps[f"runs {reason}"] += 1
            continue
        folder = run.folder(out)
        path = folder.original if folder.original.is_file() else originals.get((condition.model, run.target))
        if path is None:
            gaps[NO_ORIGINAL] += 1
        elif points := _points(folder, path, strengths, gaps):
            seeds.setdefault(condition, {}).setdefault(run.target, []).append(points)
    for condition, targets in seeds.items():
        found.targets[condition] = {target: _averaged(own) for target, own in targets.items()}
    return found


def _points(folder: RunFolder, original: Path, strengths: Sequence[float], gaps: Counter[str]) -> dict[float, Values]:
    """Return the points of one run by strength, and count what is missing."""
    before, whole = load_record(original), load_record(folder.record)
    found: dict[float, Values] = {}
    for strength in strengths:
        record = strength_record(folder, whole, strength)
        if record is None:
            gaps["strengths of a run not measured"] += 1
        elif values := point(before, record):
            found[strength] = values
        else:
            gaps["strengths of a run without a form that counts"] += 1
    return found


def _averaged(seeds: Sequence[Mapping[float, Values]]) -> Curve:
    """Return the mean over seeds at each strength that all of them have."""
    common = [strength for strength in seeds[0] if all(strength in seed for seed in seeds)]
    return Curve({strength: mean_over_seeds([seed[strength] for seed in seeds]) for strength in sorted(common)})


def frontiers(curves: Curves, levels: Sequence[float] = LEVELS) -> list[Frontier]:
    """Summarize the curves of every model and method.

    Raises:
        DataError: There is no curve.
    """
    if not curves.targets:
        reasons = "; ".join(dict.fromkeys(f"{condition.method}: {gaps}" for condition, gaps in curves.clauses().items()))
        remedy = "give a folder with complete runs of methods that edit weights, and of the method original"
        raise DataError("no run has a curve", where=reasons or None, remedy=remedy)
    gaps = curves.clauses()
    return [_frontier(condition, own, levels, gaps.get(condition, "")) for condition, own in curves.targets.items()]


def _frontier(condition: Condition, targets: Mapping[str, Curve], levels: Sequence[float], gaps: str) -> Frontier:
    every = list(targets.values())
    keys = dict.fromkeys(key for one in every for values in one.points.values() for key in values if key != RETENTION)
    rows = {key: _row([pairs for one in every if (pairs := one.pairs(key))], levels) for key in sorted(keys, key=_order)}
    common = [strength for strength in every[0].points if all(strength in one.points for one in every)]
    curve, harmonic = {}, {}
    for strength in common:
        own = [one.points[strength] for one in every]
        retention, forgetting = (mean_estimate([values[key] for values in own]) for key in (RETENTION, FORGETTING))
        curve[strength] = retention, forgetting
        harmonic[strength] = mean_estimate([harmonic_mean(values[FORGETTING], values[RETENTION]) for values in own])
    best = max(common, key=lambda strength: harmonic[strength].value, default=None)
    return Frontier(condition, tuple(targets), rows, curve, best, None if best is None else harmonic[best], gaps)


def _row(targets: Sequence[Sequence[tuple[float, float]]], levels: Sequence[float]) -> Row:
    found: dict[float, Estimate | None] = {}
    for level in levels:
        reached = [value for pairs in targets if (value := forgetting_at(pairs, level)) is not None]
        found[level] = mean_estimate(reached) if reached else None
    return Row(len(targets), found)


def _order(key: MetricKey) -> tuple[int, int, int]:
    """Return the place of a row: the mean, then forms, then forms by mention, as in the registry."""
    if key.task is None:
        return 0, 0, 0
    task = TASKS[key.task]
    return (2 if key.group else 1), list(TASKS).index(key.task), task.groups.index(key.group) if key.group else 0

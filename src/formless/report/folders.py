"""Two folders of runs: the settings, metrics and runs that differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formless.evaluation.record import MetricKey
from formless.experiment.config import build_experiment, experiment_keys
from formless.experiment.runs import Run, read_plan
from formless.report.independence import mean_over_seeds
from formless.report.runs import CollectedRuns, Condition, FailedRun, RunMetrics, RunsProvenance, collect_folder, conditions
from formless.report.summary import Summary, summarize_pairs

Cell = tuple[Condition, str, int | None]


@dataclass(frozen=True)
class SharedRuns:
    """The runs of one model and method that both folders have.

    Args:
        condition: Model and method.
        targets: Targets that both folders have with the same seed.
        runs: Number of these runs in either folder.
        unlike: Number of these runs that asked other items, or another model, than in the other folder.
        metrics: By key; `baseline` is the first folder's mean, `value` the second's.
    """

    condition: Condition
    targets: tuple[str, ...]
    runs: int
    unlike: int
    metrics: Mapping[MetricKey, Summary]


@dataclass(frozen=True)
class FolderComparison:
    """What differs between two folders of runs.

    Args:
        settings: Setting, the first folder's value, the second's: of the experiment, of each method, and of where it ran.
        shared: By model and method.
        only: Titles of complete runs that only the first folder has, and that only the second has.
        failed: The failed runs of each folder.
    """

    settings: tuple[tuple[str, str, str], ...]
    shared: tuple[SharedRuns, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]
    failed: tuple[tuple[FailedRun, ...], tuple[FailedRun, ...]]


def compare_folders(first: Path, second: Path) -> FolderComparison:
    """Compare the complete runs of two folders that `formless run` wrote, by model, method, target and seed.

    Raises:
        DataError: One of them is no such folder.
    """
    one, other = _Folder.read(first), _Folder.read(second)
    both = [cell for cell in one.runs if cell in other.runs]
    shared = tuple(
        _shared(condition, [(one.runs[cell], other.runs[cell]) for cell in both if cell[0] == condition])
        for condition in dict.fromkeys(cell[0] for cell in both)
    )
    failed = tuple(one.collected.failed), tuple(other.collected.failed)
    return FolderComparison(tuple(_differing(one, other)), shared, (_only(one, other), _only(other, one)), failed)


def _only(folder: _Folder, opposite: _Folder) -> tuple[str, ...]:
    return tuple(_title(cell) for cell in folder.runs if cell not in opposite.runs)


@dataclass(frozen=True)
class _Folder:
    """One folder: its runs, the complete ones by cell, its settings by name, and hashes of the files of each target."""

    collected: CollectedRuns
    runs: dict[Cell, RunMetrics]
    settings: dict[tuple[str, str], str]  # whose (empty for the experiment's own), name -> value
    files: dict[tuple[Condition, str], str]

    @classmethod
    def read(cls, out: Path) -> _Folder:
        plan = read_plan(out)
        provenance = RunsProvenance()
        collected = collect_folder(
            out, lambda run, record, result: provenance.add(run.condition, record, result) if result else None
        )
        keys = build_experiment(experiment_keys(str(out)), out).model_dump(exclude={"name", "models", "methods"})
        settings = {("", name): _text(value) for name, value in keys.items()}
        planned = list(zip(conditions(plan), plan, strict=True))
        for condition, run in planned:
            settings |= _run_settings(condition, run)
        for what in ("code", "versions", "hardware"):
            settings["", what] = "; ".join(sorted(getattr(provenance, what)))
        files = {(condition, run.target): run.inputs["target"] for condition, run in planned}
        return cls(collected, {(run.condition, run.target, run.seed): run for run in collected.complete}, settings, files)


def _run_settings(condition: Condition, run: Run) -> dict[tuple[str, str], str]:
    """Return what holds for all runs of a condition."""
    config = {(condition.title, name): _text(value) for name, value in run.config.items() if name != "seed"}
    loading = {(condition.model, name): _text(value) for name, value in run.model.model_dump().items() if name != "name"}
    files = {(condition.title, f"files of {name}"): value for name, value in run.inputs.items() if name.startswith("setting ")}
    named = {(condition.model, "weights"): run.inputs["model"], (condition.title, "method"): run.method}
    return config | files | loading | named


def _differing(one: _Folder, other: _Folder) -> Iterator[tuple[str, str, str]]:
    """Yield the settings that differ, of what both folders have, and the targets whose files do."""
    shared = {owner for owner, _ in one.settings} & {owner for owner, _ in other.settings}
    for owner, name in dict.fromkeys([*one.settings, *other.settings]):
        mine, theirs = (folder.settings.get((owner, name), "–") for folder in (one, other))
        if mine != theirs and owner in shared:
            yield f"{owner}: {name}" if owner else name, mine, theirs
    both = [key for key in one.files if key in other.files]
    changed = list(
        dict.fromkeys(target for condition, target in both if one.files[condition, target] != other.files[condition, target])
    )
    if changed:
        yield "files", f"of {len(changed)} targets", f"other ones: {', '.join(changed)}"


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)


def _shared(condition: Condition, pairs: list[tuple[RunMetrics, RunMetrics]]) -> SharedRuns:
    by_target: dict[str, list[tuple[RunMetrics, RunMetrics]]] = {}
    for one, other in pairs:
        by_target.setdefault(one.target, []).append((one, other))
    metrics = [
        (mean_over_seeds([one.metrics for one, _ in seeds]), mean_over_seeds([other.metrics for _, other in seeds]))
        for seeds in by_target.values()
    ]
    unlike = sum(one.items != other.items for one, other in pairs)
    return SharedRuns(condition, tuple(by_target), len(pairs), unlike, summarize_pairs(metrics))


def _title(cell: Cell) -> str:
    condition, target, seed = cell
    return f"{condition.model} {condition.method}{'' if seed is None else f' seed {seed}'} {target}"

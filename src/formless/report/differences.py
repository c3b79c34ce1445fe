"""What differs between two folders of runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formless.experiment.config import build_experiment, experiment_keys
from formless.experiment.runs import Run, read_plan
from formless.report.independence import mean_over_seeds
from formless.report.made import Made
from formless.report.means import Mean, compared_means
from formless.report.runs import Failure, Gathered, Group, Measured, gather_runs, groups

Cell = tuple[Group, str, int | None]


@dataclass(frozen=True)
class Shared:
    """One model and method that both folders have.

    Args:
        group: Model and method.
        targets: Targets that both have measured with the same seed.
        runs: Their runs, in either folder.
        unlike: How many of these runs asked other probes, or other weights, than in the other folder.
        means: By figure: `baseline` is the first folder's mean, `value` the second's.
    """

    group: Group
    targets: tuple[str, ...]
    runs: int
    unlike: int
    means: Mapping[str, Mean]


@dataclass(frozen=True)
class Difference:
    """What differs.

    Args:
        settings: Setting, the first folder's value, the second's; of the experiment, each method, and how it was made.
        shared: By model and method.
        only: Titles of complete runs that only the first folder has, and that only the second has.
        failures: Of each folder.
    """

    settings: tuple[tuple[str, str, str], ...]
    shared: tuple[Shared, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]
    failures: tuple[tuple[Failure, ...], tuple[Failure, ...]]


def compare_folders(first: Path, second: Path) -> Difference:
    """Compare the complete runs of two folders that `formless run` wrote, by model, method, target and seed.

    Raises:
        DataError: One of them is no such folder.
    """
    one, other = _Side.read(first), _Side.read(second)
    both = [cell for cell in one.runs if cell in other.runs]
    shared = tuple(
        _shared(group, [(one.runs[cell], other.runs[cell]) for cell in both if cell[0] == group])
        for group in dict.fromkeys(cell[0] for cell in both)
    )
    failures = tuple(one.found.failures), tuple(other.found.failures)
    return Difference(tuple(_unlike(one, other)), shared, (_only(one, other), _only(other, one)), failures)


def _only(side: _Side, opposite: _Side) -> tuple[str, ...]:
    return tuple(_title(cell) for cell in side.runs if cell not in opposite.runs)


@dataclass(frozen=True)
class _Side:
    """One folder: what was found, its complete runs, what was set by name, and hashes of the files of each target."""

    found: Gathered
    runs: dict[Cell, Measured]
    settings: dict[str, str]
    files: dict[tuple[Group, str], str]

    @classmethod
    def read(cls, out: Path) -> _Side:
        plan = read_plan(out)
        made = Made()
        found = gather_runs(out, lambda measured, record, report: made.add(measured.group, record, report) if report else None)
        keys = build_experiment(experiment_keys(str(out)), out).model_dump(exclude={"name", "models", "methods"})
        settings = {name: _text(value) for name, value in keys.items()}
        for group, run in zip(groups(plan), plan, strict=True):
            settings |= _run_settings(group, run)
        for what, states in (("code", made.code), ("versions", made.versions), ("hardware", made.hardware)):
            settings[what] = "; ".join(sorted(states))
        files = {(group, run.target): run.inputs["target"] for group, run in zip(groups(plan), plan, strict=True)}
        return cls(found, {(run.group, run.target, run.seed): run for run in found.measured}, settings, files)


def _run_settings(group: Group, run: Run) -> dict[str, str]:
    """What holds for all runs of a group."""
    config = {f"{group.title}: {name}": _text(value) for name, value in run.config.items() if name != "seed"}
    loading = {f"{group.model}: {name}": _text(value) for name, value in run.model.model_dump().items() if name != "name"}
    places = {f"{group.title}: files of {name}": value for name, value in run.inputs.items() if name.startswith("setting ")}
    named = {f"{group.model}: weights": run.inputs["model"], f"{group.title}: method": run.method}
    return config | places | loading | named


def _unlike(one: _Side, other: _Side) -> Iterator[tuple[str, str, str]]:
    """Settings that differ, of groups that both have, and targets whose files do."""
    shared = {prefix for prefix in map(_prefix, one.settings) if prefix in set(map(_prefix, other.settings))}
    for name in dict.fromkeys([*one.settings, *other.settings]):
        mine, theirs = (side.settings.get(name, "–") for side in (one, other))
        if mine != theirs and _prefix(name) in shared:
            yield name, mine, theirs
    both = [key for key in one.files if key in other.files]
    changed = list(dict.fromkeys(target for group, target in both if one.files[group, target] != other.files[group, target]))
    if changed:
        yield "files", f"of {len(changed)} targets", f"other ones: {', '.join(changed)}"


def _prefix(setting: str) -> str:
    """The group or model that a setting is of; nothing of one of the whole experiment."""
    return setting.rpartition(": ")[0]


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)


def _shared(group: Group, pairs: list[tuple[Measured, Measured]]) -> Shared:
    by_target: dict[str, list[tuple[Measured, Measured]]] = {}
    for one, other in pairs:
        by_target.setdefault(one.target, []).append((one, other))
    figures = [
        (mean_over_seeds([one.figures for one, _ in seeds]), mean_over_seeds([other.figures for _, other in seeds]))
        for seeds in by_target.values()
    ]
    unlike = sum(one.probes != other.probes for one, other in pairs)
    return Shared(group, tuple(by_target), len(pairs), unlike, compared_means(figures))


def _title(cell: Cell) -> str:
    group, target, seed = cell
    return f"{group.model} {group.method}{'' if seed is None else f' seed {seed}'} {target}"

"""From folders of runs, or loose records, to the figures of every run: each record is read, reduced and let go."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

from formless.errors import DataError
from formless.evaluation.record import Record, load_record
from formless.experiment.result import LOG, ORIGINAL_RECORD, RECORD, RunReport, load_report, metrics
from formless.experiment.runs import ORIGINAL, Run
from formless.experiment.sweep import OUTSIDE, PLAN, others, read_plan
from formless.report.independence import Ratios, ratios
from formless.report.summary import refuse_unlike

SECONDS = "unlearning_seconds"
FORGETTING, RETENTION, GAP, COMBINED = "forgetting", "retention", "form_gap", "combined"
_LOG_SHOWN = 12


class Group(NamedTuple):
    """What is averaged together: a model, and a method with its settings, as tables call them."""

    model: str
    method: str

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.model}, {self.method}"


@dataclass(frozen=True)
class Measured:
    """The figures of one complete run.

    Args:
        group: Its model and method.
        target: The target's folder.
        seed: Of a method that has one.
        is_original: Whether nothing was on the model.
        probes: What was asked of which weights: equal probes, comparable figures.
        figures: By name: `forget_fb`, `neighbor_qa`, `mmlu_accuracy` and so on as in run.json; where the original was asked
            the same, `forgetting_<form>`, `retention_<form>`, their means over forms, `form_gap`, `combined` too.
        original: The same of the original model, asked the same; nothing where there is none.
        ratios: Edited over original by form; nothing where there is none.
        skipped: Probes and items that have no figure.
    """

    group: Group
    target: str
    seed: int | None
    is_original: bool
    probes: tuple[str, ...]
    figures: Mapping[str, float]
    original: Mapping[str, float] | None
    ratios: Ratios | None
    skipped: int


@dataclass(frozen=True)
class Failure:
    """A run without figures.

    Args:
        group: Its model and method.
        title: Model, method, seed and target, for people.
        reason: One line.
        log_end: The last lines of its log.
        log: Where all of it is.
    """

    group: Group
    title: str
    reason: str
    log_end: tuple[str, ...] = ()
    log: Path | None = None


@dataclass
class Gathered:
    """All that was found.

    Args:
        planned: Runs by group, in order; of loose records, as many as there are.
        measured: The complete ones.
        failures: Those that failed, or whose record cannot be read.
        missing: Titles of those that were not done yet, by group.
        left_out: Files and records that count nowhere, by reason.
        cells: Group, target and seed of the complete ones, each once.
    """

    planned: Counter[Group] = field(default_factory=Counter)
    measured: list[Measured] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    missing: list[tuple[Group, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    cells: set[tuple[Group, str, int | None]] = field(default_factory=set)


Look = Callable[[Measured, Record, "RunReport | None"], None]
"""Sees each record while it is in memory."""


def gather(paths: Sequence[Path], look: Look | None = None) -> Gathered:
    """Reduce the runs of folders that `formless run` wrote, and the records of files and of other folders, to their figures.

    Of a folder of runs, those of the experiment that was last started there count. Only one target's original record and one
    other are in memory at a time.

    Args:
        paths: Files and folders; where several are given, a method's name tells its folder of runs.
        look: Called with each complete run.

    Raises:
        DataError: There are no records, or two of the same model, method, target and seed.
    """
    found = Gathered()
    loose: list[Path] = []
    for path in paths:
        if (path / PLAN).is_file():
            _add_runs(path, found, look, f"{path.resolve().name}/" if len(paths) > 1 else "")
        else:
            loose.append(path)
    _add_records(loose, found, look)
    if not (found.planned or found.left_out):
        raise DataError("no records", where=paths[0], remedy="give files that `formless eval --out` wrote, or a folder of runs")
    return found


def gather_runs(out: Path, look: Look | None = None) -> Gathered:
    """The same of one folder that `formless run` wrote, of which nothing need be done yet.

    Raises:
        DataError: No experiment was started there.
    """
    found = Gathered()
    _add_runs(out, found, look, "")
    return found


def _add_runs(out: Path, found: Gathered, look: Look | None, prefix: str) -> None:
    """Target by target, the original first, so that its record serves all methods and is then let go."""
    by_target: dict[tuple[str, str], list[tuple[Group, Run]]] = {}
    plan = read_plan(out)
    if outside := others(out, plan):
        found.left_out[OUTSIDE] += outside
    for group, run in zip(groups(plan, prefix), plan, strict=True):
        found.planned[group] += 1
        by_target.setdefault((group.model, run.target), []).append((group, run))
    for runs in by_target.values():
        original: Record | None = None
        for group, run in sorted(runs, key=lambda pair: pair[1].method != ORIGINAL):
            folder = run.folder(out)
            report = load_report(folder, run)
            if report is None:
                found.missing.append((group, run.title))
                continue
            if not report.is_complete:
                reason, log_end = report.reason or "", tuple(report.log_end[-_LOG_SHOWN:])
                found.failures.append(Failure(group, run.title, reason, log_end, folder / LOG))
                continue
            try:
                record = load_record(folder / RECORD)
                own = load_record(folder / ORIGINAL_RECORD) if (folder / ORIGINAL_RECORD).is_file() else original
            except DataError as error:
                found.failures.append(Failure(group, run.title, str(error), log=folder / LOG))
                continue
            if run.method == ORIGINAL:
                original, own = record, None
            _keep(found, reduce(group, record, own, seed=run.seed, seconds=report.timings.get("unlearning")))
            if look:
                look(found.measured[-1], record, report)


def groups(plan: Sequence[Run], prefix: str = "") -> Iterator[Group]:
    """The group of every run; a model that is loaded in several ways says in which."""
    loaded: dict[str, set[tuple[str, str | None]]] = {}
    for run in plan:
        loaded.setdefault(run.model.name, set()).add((run.model.dtype, run.model.revision))
    for run in plan:
        ways = loaded[run.model.name]
        way = ", ".join(filter(None, (run.model.dtype, run.model.revision)))
        yield Group(f"{run.model.name} ({way})" if len(ways) > 1 else run.model.name, intern(prefix + run.label))


def reduce(group: Group, record: Record, original: Record | None, *, seed: int | None, seconds: float | None) -> Measured:
    """Keep the figures of a record, beside those of its original where that asked the same."""
    figures = {intern(name): value for name, value in metrics(record).items()}
    found = before = None
    if original and is_alike(original, record):
        before = {intern(name): value for name, value in metrics(original).items()}
        found = ratios(original, record)
        figures |= _derived(found)
    if seconds is not None and record.edits:
        figures[SECONDS] = seconds
    skipped = sum(form.skipped for form in record.forms) + sum(task.skipped for task in record.tasks)
    return Measured(group, record.target, seed, not record.edits, _probes(record), figures, before, found, skipped)


def is_alike(one: Record, other: Record) -> bool:
    """Whether two records asked the same of the same model."""
    try:
        refuse_unlike(one, other)
    except DataError:
        return False
    return True


def _derived(found: Ratios) -> dict[str, float]:
    """What one run forgot and kept."""
    forms = {intern(f"forgetting_{form}"): value for form, value in found.falls.items()}
    forms |= {intern(f"retention_{form}"): value for form, value in found.keep.items()}
    wholes = {
        FORGETTING: _mean(list(found.falls.values())), RETENTION: _mean(list(found.keep.values())),
        GAP: found.gap, COMBINED: found.combined,
    }  # fmt: skip
    return forms | {name: value for name, value in wholes.items() if value is not None}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _probes(record: Record) -> tuple[str, ...]:
    return record.model_fingerprint, record.dtype, record.target, record.probes_digest


def _add_records(paths: Sequence[Path], found: Gathered, look: Look | None) -> None:
    """Files are read twice: first for what they are, then beside the original of the same probes."""
    originals: dict[tuple[str, ...], Path] = {}
    edited: dict[tuple[str, ...], list[Path]] = {}
    for path, record in _records(paths, found.left_out):
        if any(record.subject not in _subjects(edit) for edit in record.edits):
            found.left_out["records of an edit about another concept"] += 1
        elif record.edits:
            edited.setdefault(_probes(record), []).append(path)
        else:
            originals[_probes(record)] = path
    for key, first in originals.items():
        original = load_record(first)
        for path in (first, *edited.pop(key, [])):
            record = original if path is first else load_record(path)
            group, seed = _described(record)
            found.planned[group] += 1
            _keep(found, reduce(group, record, None if path is first else original, seed=seed, seconds=None))
            if look:
                look(found.measured[-1], record, None)
    if alone := sum(map(len, edited.values())):
        found.left_out["records without the original model's record of the same probes"] += alone


def _keep(found: Gathered, measured: Measured) -> None:
    cell = (measured.group, measured.target, measured.seed)
    if cell in found.cells:
        raise DataError(f"two records of {measured.group.title}", where=measured.target, remedy="give one of them")
    found.cells.add(cell)
    found.measured.append(measured)


def _records(paths: Sequence[Path], left_out: Counter[str]) -> Iterator[tuple[Path, Record]]:
    """The records of files, and of folders, which may hold other JSON too."""
    for path in paths:
        if not path.is_dir():
            yield path, load_record(path)
            continue
        for file in sorted(path.rglob("*.json")):
            try:
                yield file, load_record(file)
            except DataError:
                left_out["JSON files that are no records"] += 1


def _described(record: Record) -> tuple[Group, int | None]:
    """What was done, and with which seed: what is averaged together must have been done alike."""
    limit = f" of {record.limit} rows" if record.limit else ""
    model = f"{record.model} ({record.dtype}), {record.suite}{limit}"
    seed = record.edits[-1]["config"].get("seed") if record.edits else None
    return Group(model, " + ".join(map(_edit_name, record.edits)) or ORIGINAL), seed


def _edit_name(edit: dict[str, Any]) -> str:
    config = {name: value for name, value in edit["config"].items() if name != "seed"}
    return f"{edit['method']} {json.dumps(config, sort_keys=True)}{_company(edit)}"


def _subjects(edit: dict[str, Any]) -> list[str]:
    """The concepts that an edit makes a model forget."""
    return list(edit.get("facts", {}).get("subjects", [edit["subject"]]))


def _company(edit: dict[str, Any]) -> str:
    """How many concepts an edit is about, if several, and whether they were solved one after another."""
    count = len(_subjects(edit))
    if count == 1:
        return ""
    return f" of {count} concepts" + (" on an edit that is kept" if "earlier_edit" in edit["facts"] else " together")

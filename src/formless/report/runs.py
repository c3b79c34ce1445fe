"""From folders of runs, or loose records, to the metrics of every run: each record is read, reduced and let go."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

from formless.edits.edit import was_made_for
from formless.errors import DataError
from formless.evaluation.loading import DamagedRecordError, load_record
from formless.evaluation.record import MetricKey, Record
from formless.evaluation.verification import is_alike
from formless.experiment.result import Damage, RunResult, check_result, run_metrics
from formless.experiment.retained import RetainRecords
from formless.experiment.runs import ORIGINAL, OTHER_RUNS, Run, count_others, read_plan
from formless.report.answers import answer_metrics, redirect_names
from formless.report.comparison import acts_on
from formless.report.open_unlearning import Evaluation, is_evaluation, read_evaluations
from formless.report.ratios import Ratios, ratios
from formless.report.recall import recall_metrics
from formless.store import ExperimentFolder, RunFolder

SECONDS = MetricKey(None, None, "unlearning_seconds")
_LOG_SHOWN = 12


class Condition(NamedTuple):
    """What is averaged together: a model, and a method with its settings, as tables call them."""

    model: str
    method: str

    @property
    def title(self) -> str:
        """Both, for people."""
        return f"{self.model}, {self.method}"


@dataclass(frozen=True)
class RunMetrics:
    """The metrics of one complete run.

    Args:
        condition: Its model and method.
        target: The target's folder.
        seed: Of a method that has one.
        is_original: Whether the model had no edit.
        items: The model's weights and the items that were asked: runs with equal ones can be compared.
        metrics: The record's metrics, without those of tasks on which the edit cannot act; where the original was asked the
            same, also those of form independence, of recall and of what is said instead; the seconds that unlearning took,
            where they are known.
        original: The metrics of the original model that was asked the same; None without one.
        ratios: Edited over original by form; None without an original.
        skipped: Number of items without metrics.
    """

    condition: Condition
    target: str
    seed: int | None
    is_original: bool
    items: tuple[str, ...]
    metrics: Mapping[MetricKey, float]
    original: Mapping[MetricKey, float] | None
    ratios: Ratios | None
    skipped: int


@dataclass(frozen=True)
class FailedRun:
    """A run without metrics.

    Args:
        condition: Its model and method.
        title: Model, method, seed and target, for people.
        reason: One line.
        log_end: The last lines of its log.
        log: The whole log.
    """

    condition: Condition
    title: str
    reason: str
    log_end: tuple[str, ...] = ()
    log: Path | None = None


@dataclass
class CollectedRuns:
    """The runs of some folders.

    Args:
        planned: Number of runs by condition, in order; of loose records, as many as were read.
        complete: The metrics of each complete run.
        failed: Runs that failed, or whose record cannot be read.
        missing: Condition and title of each run that is not done yet.
        left_out: Number of files and records that count nowhere, by reason.
        cells: Condition, target and seed of the complete runs; each may occur once.
        evaluations: What open-unlearning measured; they count in no mean.
    """

    planned: Counter[Condition] = field(default_factory=Counter)
    complete: list[RunMetrics] = field(default_factory=list)
    failed: list[FailedRun] = field(default_factory=list)
    missing: list[tuple[Condition, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    cells: set[tuple[Condition, str, int | None]] = field(default_factory=set)
    evaluations: list[Evaluation] = field(default_factory=list)

    def add(self, run: RunMetrics) -> None:
        """Add a complete run.

        Raises:
            DataError: There is one of the same model, method, target and seed.
        """
        cell = (run.condition, run.target, run.seed)
        if cell in self.cells:
            raise DataError(f"two records of {run.condition.title}", where=run.target, remedy="give one of them")
        self.cells.add(cell)
        self.complete.append(run)


RecordCallback = Callable[[RunMetrics, Record, "RunResult | None"], None]
"""Called with each complete run while its record is in memory."""


def collect(paths: Sequence[Path], on_record: RecordCallback | None = None) -> CollectedRuns:
    """Reduce the runs of folders that `formless run` wrote, and the records of files and of other folders, to their metrics.

    Of a folder of runs, those of the experiment that was last started there count. Only one target's original record and one
    other are in memory at a time. Evaluations of open-unlearning among the files and in other folders are read too.

    Args:
        paths: Files and folders; where several are given, the names of methods start with that of their folder.
        on_record: Called with each complete run.

    Raises:
        DataError: There are no records, or two of the same model, method, target and seed.
    """
    found = CollectedRuns()
    loose: list[Path] = []
    for path in paths:
        experiment = ExperimentFolder(path)
        if os.path.lexists(experiment.plan) or experiment.config.is_file():
            _add_runs(path, found, on_record, f"{path.resolve().name}/" if len(paths) > 1 else "")
        else:
            loose.append(path)
    found.evaluations = read_evaluations(loose, found.left_out)
    _add_records([path for path in loose if not is_evaluation(path)], found, on_record)
    return found


def collect_folder(out: Path, on_record: RecordCallback | None = None) -> CollectedRuns:
    """Do the same for one folder that `formless run` wrote, even if no run is done yet.

    Raises:
        DataError: No experiment was started there.
    """
    found = CollectedRuns()
    _add_runs(out, found, on_record, "")
    return found


def _add_runs(out: Path, found: CollectedRuns, on_record: RecordCallback | None, prefix: str) -> None:
    """Add the runs of a folder, target by target, the original first, so that its record serves all methods."""
    by_target: dict[tuple[str, str], list[tuple[Condition, Run]]] = {}
    plan = read_plan(out)
    if others := count_others(out, plan):
        found.left_out[OTHER_RUNS] += others
    for condition, run in zip(conditions(plan, prefix), plan, strict=True):
        found.planned[condition] += 1
        by_target.setdefault((condition.model, run.target), []).append((condition, run))
    retained = RetainRecords(out, plan)
    for runs in by_target.values():
        original: Record | None = None
        for condition, run in sorted(runs, key=lambda pair: pair[1].method != ORIGINAL):
            folder = run.folder(out)
            result = check_result(folder, run)
            if isinstance(result, Damage):
                remedy = "repeat `formless run`, which does it again"
                found.failed.append(FailedRun(condition, run.title, f"{result.reason}; {remedy}", log=folder.log))
                continue
            if result is None:
                found.missing.append((condition, run.title))
                continue
            if not result.is_complete:
                reason, log_end = result.reason or "", tuple(result.log_end[-_LOG_SHOWN:])
                found.failed.append(FailedRun(condition, run.title, reason, log_end, folder.log))
                continue
            try:
                record = load_record(folder.record)
                _refuse_other_metrics(result, record, folder)
                record = retained.derived(run, record)
                own = retained.derived(run, load_record(folder.original)) if folder.original.is_file() else original
                own = None if run.method == ORIGINAL else own
                metrics = reduced(condition, record, own, seed=run.seed, seconds=result.timings.get("unlearning"))
            except DataError as error:
                found.failed.append(FailedRun(condition, run.title, str(error), log=folder.log))
                continue
            if run.method == ORIGINAL:
                original = record
            found.add(metrics)
            if on_record:
                on_record(found.complete[-1], record, result)
    found.left_out.update(retained.left_out)


def _refuse_other_metrics(result: RunResult, record: Record, folder: RunFolder) -> None:
    """Refuse a run.json whose metrics are not those of its record: run.json has the record's hash, but none of itself.

    Raises:
        DataError: A value differs, or one of the two has a metric more.
    """
    stated, found = (
        {(metric.task, metric.split, metric.metric, metric.group): metric.value for metric in metrics}
        for metrics in (result.metrics, run_metrics(record))
    )
    for key in {**stated, **found} if stated else ():  # earlier versions stated none
        if stated.get(key) != found.get(key):
            name = ", ".join(filter(None, key))
            what = f"run.json says {stated.get(key)} for {name}, its record {found.get(key)}"
            raise DataError(what, where=folder.result, remedy="repeat `formless run` in a new folder")


def conditions(plan: Sequence[Run], prefix: str = "") -> Iterator[Condition]:
    """Yield the condition of every run; where a model is loaded with several dtypes or revisions, its name says which."""
    loaded: dict[str, set[tuple[str, str | None]]] = {}
    for run in plan:
        loaded.setdefault(run.model.name, set()).add((run.model.dtype, run.model.revision))
    for run in plan:
        variant = ", ".join(filter(None, (run.model.dtype, run.model.revision)))
        model = f"{run.model.name} ({variant})" if len(loaded[run.model.name]) > 1 else run.model.name
        yield Condition(model, intern(prefix + run.label))


def reduced(
    condition: Condition, record: Record, original: Record | None, *, seed: int | None, seconds: float | None
) -> RunMetrics:
    """Return the metrics of a record, beside those of its original where that asked the same.

    Raises:
        DataError: The records say that they asked the same, and their items are others.
    """
    metrics = metric_values(record)
    found = before = None
    if original and is_alike(original, record):
        redirects = redirect_names(record)
        before = metric_values(original) | recall_metrics(original, original) | answer_metrics(original, original, redirects)
        found = ratios(original, record)
        idle = [
            (result.task, result.split) for result in record.tasks
            if (own := original.task(result.task, result.split)) and not acts_on(record, own, result)
        ]  # fmt: skip
        metrics = {key: value for key, value in metrics.items() if (key.task, key.split) not in idle} | found.metrics()
        metrics |= recall_metrics(original, record) | answer_metrics(original, record, redirects)
    elif not record.edits:
        metrics |= answer_metrics(record, record)
    if seconds is not None and record.edits:
        metrics[SECONDS] = seconds
    skipped = sum(result.skipped for result in record.tasks)
    return RunMetrics(condition, record.target, seed, not record.edits, _items(record), metrics, before, found, skipped)


def metric_values(record: Record) -> dict[MetricKey, float]:
    """Return the value of every metric that has one."""
    return {key: metric.value for key, metric in record.metrics().items() if metric.value is not None}


def _items(record: Record) -> tuple[str, ...]:
    return record.model_fingerprint, record.dtype, record.target, record.probes_digest


def _add_records(paths: Sequence[Path], found: CollectedRuns, on_record: RecordCallback | None) -> None:
    """Add loose records. Files are read twice: first to find the originals, then beside the original of the same items."""
    originals: dict[tuple[str, ...], Path] = {}
    edited: dict[tuple[str, ...], list[Path]] = {}
    contents: dict[Path, bytes] = {}  # hashes of the originals' results: the copy beside each edit is the same
    for path, record in _records(paths, found.left_out):
        if any("attack" in edit for edit in record.edits):
            found.left_out["records of attacked models, which `formless attack` reports"] += 1
        elif any(not was_made_for(edit, record.subject) for edit in record.edits):
            found.left_out["records of an edit about another concept"] += 1
        elif record.edits:
            edited.setdefault(_items(record), []).append(path)
        else:
            first = originals.setdefault(_items(record), path)
            content = hashlib.sha256(repr(record.tasks).encode("utf-8", "surrogatepass")).digest()
            if contents.setdefault(first, content) != content:
                where, remedy = f"{first} and {path}", "give one of them"
                raise DataError("two records of the original model, of the same items, differ", where=where, remedy=remedy)
    for key, first in originals.items():
        original = load_record(first)
        for path in (first, *edited.pop(key, [])):
            record = original if path is first else load_record(path)
            condition, seed = _described(record)
            found.planned[condition] += 1
            found.add(reduced(condition, record, None if path is first else original, seed=seed, seconds=None))
            if on_record:
                on_record(found.complete[-1], record, None)
    if alone := sum(map(len, edited.values())):
        found.left_out["records without the original model's record of the same items"] += alone


def _records(paths: Sequence[Path], left_out: Counter[str]) -> Iterator[tuple[Path, Record]]:
    """Yield the records of files, and of folders, which may hold other JSON too."""
    for path in paths:
        if not path.is_dir():
            yield path, load_record(path)
            continue
        is_empty = True
        for file in sorted(path.rglob("*.json")):
            if is_evaluation(file):
                is_empty = False
                continue
            try:
                yield file, load_record(file)
                is_empty = False
            except DamagedRecordError as error:
                left_out[f"unreadable record: {error}"] += 1
                is_empty = False
            except DataError:
                left_out["JSON files that are no records"] += 1
        if is_empty:
            remedy = "give files that `formless eval --out` or open-unlearning wrote, or a folder of runs"
            raise DataError("no records", where=path, remedy=remedy)


def _described(record: Record) -> tuple[Condition, int | None]:
    """Return the condition and seed of a loose record: what is averaged together must have been done alike."""
    limit = f" of {record.limit} rows" if record.limit else ""
    model = f"{record.model} ({record.dtype}), {record.suite}{limit}"
    seed = record.edits[-1]["config"].get("seed") if record.edits else None
    return Condition(model, " + ".join(map(_edit_name, record.edits)) or ORIGINAL), seed


def _edit_name(edit: dict[str, Any]) -> str:
    config = {name: value for name, value in edit["config"].items() if name != "seed"}
    count, note = len(_subjects(edit)), ""
    if count > 1:
        follows = {"earlier_edit", "kept"} & edit["facts"].keys()  # records of schema version 2 say `kept`
        note = f" of {count} concepts" + (" on an earlier edit" if follows else " together")
    if "strength" in edit:
        note += f" at strength {edit['strength']:g}"
    return f"{edit['method']} {json.dumps(config, sort_keys=True)}{note}"


def _subjects(edit: dict[str, Any]) -> list[str]:
    """Return the concepts that an edit makes a model forget."""
    return list(edit.get("facts", {}).get("subjects", [edit["subject"]]))


@dataclass
class RunsProvenance:
    """Where and with what runs were made: each distinct value, with the number of runs that have it.

    Args:
        code: Commits of formless.
        versions: Packages.
        hardware: Machines.
        weights: Models with their fingerprints.
        configs: Settings by condition, without the seed.
        first: Start of the first run, UTC.
        last: End of the last run, UTC.
        seconds: Wall time of all runs together.
        resident: Peak resident memory of any run, bytes.
        gpu: Peak GPU memory of any run, bytes.
    """

    code: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    hardware: Counter[str] = field(default_factory=Counter)
    weights: Counter[str] = field(default_factory=Counter)
    configs: dict[Condition, dict[str, Any]] = field(default_factory=dict)
    first: str = ""
    last: str = ""
    seconds: float = 0.0
    resident: int = 0
    gpu: int = 0

    def add(self, condition: Condition, record: Record, result: RunResult) -> None:
        """Add one run."""
        code = result.code
        self.code[f"{code.commit}{', changed since' if code.dirty else ''}" if code else "an installed package"] += 1
        self.versions[", ".join(f"{name} {version}" for name, version in result.versions.items())] += 1
        self.hardware[f"{result.hardware['cpu']}, GPU {result.hardware['gpu']}"] += 1
        self.weights[f"{record.model_source}, fingerprint {record.model_fingerprint}, {record.dtype}"] += 1
        self.configs.setdefault(condition, {name: value for name, value in result.run.config.items() if name != "seed"})
        self.first = min(filter(None, (self.first, result.started)))
        self.last = max(self.last, result.finished)
        self.seconds += result.timings["total"]
        if result.memory:
            self.resident = max(self.resident, result.memory.resident)
            self.gpu = max(self.gpu, result.memory.gpu or 0)

"""Folders of runs as `formless run` writes them, with made-up metrics: no model, any size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from formless.data.rows import Split
from formless.edits.edit import EditInfo
from formless.evaluation.record import Answer, ItemResult, Record, TaskMetric, TaskResult
from formless.experiment import runs as runs_module
from formless.experiment.config import build_experiment
from formless.experiment.result import Memory, RunResult, failed_result, run_files, run_metrics
from formless.experiment.runs import Run
from formless.store import ExperimentFolder, RunFolder

FORMS = ("statement", "fb", "qa", "sub_qa_letters")
SPLITS: tuple[Split, Split] = ("forget", "neighbor")
Values = Mapping[tuple[str, Split], float]


def random_values(label: str, target: str, seed: int) -> dict[tuple[str, Split], float]:
    """Everybody knows something; how much a method forgets and keeps follows from its name."""
    about = np.random.default_rng(list(target.encode()))
    base = {(form, split): float(about.uniform(0.3, 0.8)) for form in FORMS for split in SPLITS}
    if label == "original":
        return base
    own = np.random.default_rng([seed, *f"{label} {target}".encode()])
    strength = 0.2 + 0.7 * (sum(label.encode()) % 11) / 10
    share = {"forget": 1 - strength, "neighbor": 1 - 0.6 * strength**3}
    return {
        (form, split): value * float(np.clip(share[split] + own.normal(0, 0.08), 0.01, 1.2))
        for (form, split), value in base.items()
    }


def made_run(label: str, target: str, seed: int = 0, **changes: Any) -> Run:
    """One cell of the grid."""
    keys: dict[str, Any] = {
        "model": {"name": "tiny"}, "method": "original" if label == "original" else "rocr", "label": label,
        "config": {} if label == "original" else {"strength": 1.0, "seed": seed},
        "data": "sample", "target": target, "subject": target.partition("_")[2].replace("_", " "), "suite": "fb,qa",
        "limit": None, "style": {}, "inputs": {"model": "w", "target": "t"}, "save_edit": False,
    }  # fmt: skip
    return Run.model_validate(keys | changes)


def scored_task(task: str, split: Split, mean: float, items: int = 2, known: bool | None = None) -> TaskResult:
    """A form whose items all have the same probability; of an original, all are known or none."""
    values = {"probability": mean} | ({} if known is None else {"known": float(known)})
    scored = [ItemResult(query="Who?", prompt="p", expected="a", metrics=values) for _ in range(items)]
    metrics = [TaskMetric(metric=name, value=value, ci=(value, value), n=items) for name, value in values.items()]
    return TaskResult(task=task, split=split, status="complete", metrics=metrics, items=scored)


def made_record(run: Run, values: Values, *, items: int = 2, trained: bool = False, digest: str = "d") -> Record:
    """A record whose forms have some items at the mean, one other task, and one answer."""
    known = True if run.method == "original" else None
    tasks = [scored_task(form, split, mean, items, known) for (form, split), mean in values.items()]
    facts: dict[str, Any] = {}
    if trained:
        facts = {"steps": 8, "losses": [3 / step for step in range(1, 9)],
                 "probabilities": {"step": [0, 8], "forget": [0.5, 0.1], "retain": [0.5, 0.4]}}  # fmt: skip
    edit = EditInfo(
        method=run.method, subject=run.subject, config=run.config, facts=facts, model=run.model.name, model_source="s",
        model_revision=None, model_fingerprint="f", dtype="float32", layers=[], seconds=0.0, created="", versions={},
    ).model_dump(mode="json")  # fmt: skip
    value = 0.4 if run.method == "original" else 0.35
    accuracy = TaskMetric(metric="accuracy", value=value, n=items)
    asked = [ItemResult(query="2 + 2?", metrics={"accuracy": value}) for _ in range(items)]
    tasks.append(TaskResult(task="mmlu", status="complete", metrics=[accuracy], items=asked))
    return Record(
        model=run.model.name, model_source="s", model_fingerprint="f", model_type="llama", dtype="float32",
        subject=run.subject, target=run.target, probes_digest=digest, suite=run.suite, limit=run.limit, prompt_style={},
        edits=[] if run.method == "original" else [edit], tasks=tasks,
        answers=[Answer(question=f"Who is {run.subject}?", answer=f"{run.label} says: <b>somebody</b> & co.")],
        token_budget=1, seconds=0.0, created="", versions={}, hardware={},
    )  # fmt: skip


def keep_run(out: Path, run: Run, record: Record, *, seconds: float = 1.0) -> RunFolder:
    """Write a complete run and return its folder."""
    folder = run.folder(out)
    record.save(folder.record)
    RunResult(
        id=run.id, status="complete", attempts=1, run=run, metrics=run_metrics(record),
        timings={"unlearning": seconds, "total": 2 * seconds}, memory=Memory(resident=2**30, since="run", gpu=None),
        files=run_files(folder), code=None, versions={"formless": "0.1.0"},
        hardware={"cpu": "2 x x86_64", "gpu": "none"}, started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:01:00+00:00",
    ).save(folder)  # fmt: skip
    return folder


def fail_run(out: Path, run: Run, reason: str = "RuntimeError: boom", log: str = "line 1\nboom\n") -> None:
    """Write a failed run."""
    folder = run.folder(out)
    folder.path.mkdir(parents=True)
    folder.log.write_text(log, "utf-8")
    failed_result(run, folder, "error", reason, attempts=1, started="2026-01-01T00:00:00+00:00", seconds=1.0).save(folder)


def write_plan(out: Path, runs: Sequence[Run], **keys: Any) -> None:
    """The files beside the runs."""
    out.mkdir(parents=True, exist_ok=True)
    labels = list(dict.fromkeys((run.method, run.label) for run in runs))
    wanted = {
        "name": out.name, "models": list(dict.fromkeys(run.model.name for run in runs)), "suite": "fb,qa",
        "methods": [{"method": method, "label": label} for method, label in labels],
    }  # fmt: skip
    ExperimentFolder(out).config.write_text(build_experiment(wanted | keys, "here").as_yaml(), "utf-8")
    runs_module.write_plan(out, runs)


def write_runs(
    out: Path, methods: Sequence[str] = ("original", "rocr", "ga"), targets: int = 3, *, seeds: Sequence[int] = (0,),
    items: int = 2, trained: Sequence[str] = (), values: Callable[[str, str, int], Values] = random_values,
) -> list[Run]:  # fmt: skip
    """A whole experiment, every run complete; the original has no seeds."""
    runs = [
        made_run(label, f"{number}_Person_{number}", seed)
        for number in range(1, targets + 1)
        for label in methods
        for seed in (seeds if label != "original" else (0,))
    ]
    for run in runs:
        known = values(run.label, run.target, run.seed or 0)
        keep_run(out, run, made_record(run, known, items=items, trained=run.label in trained))
    write_plan(out, runs)
    return runs

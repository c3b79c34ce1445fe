"""The published names: models and types, folders, files and columns."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError

from formless import store
from formless.cli import terminal
from formless.errors import INTERRUPTED, UnknownNameError, UserError
from formless.evaluation.record import Record, Split, load_record
from formless.experiment.result import RECORD, REPORT, RunReport, load_report

DATA = Path("data/ORT/Target")
RESULTS, RUNS = Path("results/lora"), Path("results/runs")
MODELS = Path(__file__).parent / "models"

COLUMNS = (
    "forget_fb", "forget_qa", "forget_mcp", "sub_forget_fb", "sub_forget_qa",
    "neighbor_fb", "neighbor_qa", "neighbor_mcp", "sub_neighbor_fb", "sub_neighbor_qa",
    "mmlu_acc", "truthful_MC1", "triviaqa_EM", "triviaqa_F1", "fluency_entropy",
)  # fmt: skip
"""The published ones; other figures follow under Formless' own names."""

TASKS = {"truthfulqa": "truthful"}
METRICS = {"accuracy": "acc", "mc1": "MC1", "mc2": "MC2", "em": "EM", "f1": "F1"}
PROBABILITY, COUNTS = "probability", ("count", "skipped")


@dataclass(frozen=True)
class PaperModel:
    """One file of `models`.

    Args:
        name: What folders call it.
        file: The file.
        path: The model's folder or hub id.
        dtype: Its number format.
        types: Each type's method with its settings.
        keys: Further keys of an experiment, such as `suite` and `limit`.
    """

    name: str
    file: Path
    path: str
    dtype: str
    types: dict[str, dict[str, Any]]
    keys: dict[str, Any]


def model_name(model: str) -> str:
    """What folders call `llama3` or `somewhere/mine.yaml`."""
    return Path(model).stem if model.endswith(".yaml") else model


def read_model(model: str) -> PaperModel:
    """Read a model's file: one of `models` by its name, or any other YAML file.

    Raises:
        UnknownNameError: There is none of that name.
        UserError: It cannot be read, or lacks something.
    """
    file = Path(model) if model.endswith(".yaml") else MODELS / f"{model}.yaml"
    if not file.is_file():
        known = [path.stem for path in MODELS.glob("*.yaml")]
        raise UnknownNameError("model", model, known, where="--model", remedy="A YAML file like theirs works too")
    try:
        keys = yaml.safe_load(file.read_text("utf-8"))
        path, types = keys.pop("path"), {name: dict(settings) for name, settings in keys.pop("types").items()}
    except (OSError, ValueError, yaml.YAMLError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            "the model's file needs a path and types", where=file, remedy="take one of models/ as a pattern"
        ) from error
    return PaperModel(model_name(model), file, path, keys.pop("dtype", "auto"), types, keys)


def complete_runs(out: Path) -> list[RunReport]:
    """Reports of all complete runs of a folder, whichever command did them."""
    found = []
    for path in sorted((out / "runs").glob(f"*/*/*/*/{REPORT}")):
        try:
            run = RunReport.model_validate_json(path.read_bytes()).run
        except (OSError, ValidationError):  # an unfinished run
            continue
        report = load_report(path.parent, run)
        if report and report.is_complete:
            found.append(report)
    return found


def write_results(report: RunReport, out: Path, results: Path) -> None:
    """Write a complete run's `<target>/<task>.json`."""
    record = load_record(report.run.folder(out) / RECORD)
    for task, figures in task_figures(record).items():
        store.write_text(results / report.run.target / f"{task}.json", json.dumps(figures, indent=2) + "\n")


def task_figures(record: Record) -> dict[str, dict[str, float]]:
    """By task: `forget_fb` with its mean probability, `mmlu` with its `acc`, and so on, and how many probes have a score."""
    found: dict[str, dict[str, float | None]] = {}
    for form in record.forms:
        if form.status == "scored":
            found[_task(form.form, form.split)] = {
                PROBABILITY: form.mean, "token_accuracy": form.token_accuracy, "count": form.count, "skipped": form.skipped
            }  # fmt: skip
    for task in record.tasks:
        if task.status == "scored":
            figures = {METRICS.get(name, name): figure.value for name, figure in task.figures.items()}
            found[_task(TASKS.get(task.task, task.task), task.split)] = figures | {"skipped": task.skipped}
    return {task: {name: value for name, value in figures.items() if value is not None} for task, figures in found.items()}


def columns(record: Record) -> dict[str, float]:
    """The figures of one record as columns: of a form its probability, of a task every metric."""
    found: dict[str, float] = {}
    for task, figures in task_figures(record).items():
        if "count" in figures:
            found |= {task: figures[PROBABILITY]} if PROBABILITY in figures else {}
        else:
            found |= {f"{task}_{name}": value for name, value in figures.items() if name not in COUNTS}
    return found


def _task(name: str, split: Split | None) -> str:
    """`fb` -> `forget_fb`, `sub_fb` -> `sub_forget_fb`, `mmlu` -> `mmlu`."""
    if split is None:
        return name
    return f"sub_{split}_{name.removeprefix('sub_')}" if name.startswith("sub_") else f"{split}_{name}"


def say(line: str) -> None:
    """One line on standard error."""
    terminal.log.print(line, markup=False, soft_wrap=True)


def carry(command: Callable[[], int]) -> NoReturn:
    """Do a command; what the user can mend ends in one line and exit code 2, Ctrl-C in 130."""
    try:
        code = command()
    except UserError as error:
        say(f"error: {error}")
        code = 2
    except OSError as error:
        say(f"error: {error.strerror or error} [{error.filename}]")
        code = 2
    except KeyboardInterrupt:
        say("stopped; every finished run is kept. The same command goes on")
        code = INTERRUPTED
    sys.exit(code)

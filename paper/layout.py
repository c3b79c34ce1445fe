"""The published names: models and types, folders, files and columns."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from formless import store
from formless.cli import terminal
from formless.data.rows import Split
from formless.errors import INTERRUPTED, UnknownNameError, UserError
from formless.evaluation.loading import load_record
from formless.evaluation.record import Record, TaskMetric
from formless.experiment.result import RunResult, load_result
from formless.strict_yaml import load_yaml

DATA = Path("data/ORT/Target")
RESULTS, RUNS = Path("results/lora"), Path("results/runs")
MODELS = Path(__file__).parent / "models"

COLUMNS = (
    "forget_fb", "forget_qa", "forget_mcp", "sub_forget_fb", "sub_forget_qa",
    "neighbor_fb", "neighbor_qa", "neighbor_mcp", "sub_neighbor_fb", "sub_neighbor_qa",
    "mmlu_acc", "truthful_MC1", "triviaqa_EM", "triviaqa_F1", "fluency_entropy",
)  # fmt: skip
"""The published columns; other metrics follow under Formless' own names."""

TASKS = {"truthfulqa": "truthful"}
METRICS = {"accuracy": "acc", "mc1": "MC1", "mc2": "MC2", "em": "EM", "f1": "F1"}
PROBABILITY, COUNTS = "probability", ("count", "skipped")


@dataclass(frozen=True)
class PaperModel:
    """One file of `models`.

    Args:
        name: The name in folders.
        file: The file.
        path: The model's folder or hub id.
        dtype: The dtype that the model is loaded in.
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
    """Return the name in folders of `llama3` or `somewhere/mine.yaml`."""
    return Path(model).stem if model.endswith(".yaml") else model


def read_model(model: str) -> PaperModel:
    """Read a model's file: one of `models` by its name, or any other YAML file.

    Raises:
        UnknownNameError: There is no such model.
        UserError: It cannot be read, or lacks something.
    """
    file = Path(model) if model.endswith(".yaml") else MODELS / f"{model}.yaml"
    if not file.is_file():
        known = [path.stem for path in MODELS.glob("*.yaml")]
        raise UnknownNameError("model", model, known, where="--model", remedy="A YAML file like theirs works too")
    try:
        keys = load_yaml(file.read_text("utf-8"))
        path, types = keys.pop("path"), {name: dict(settings) for name, settings in keys.pop("types").items()}
    except (OSError, ValueError, yaml.YAMLError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            "the model's file needs a path and types", where=file, remedy="take one of models/ as a pattern"
        ) from error
    return PaperModel(model_name(model), file, path, keys.pop("dtype", "auto"), types, keys)


def complete_runs(out: Path) -> list[RunResult]:
    """Return the results of all complete runs of a folder, whichever command executed them."""
    found = [load_result(folder) for _, folder in store.ExperimentFolder(out).ended()]
    return [result for result in found if result and result.is_complete]


def write_results(result: RunResult, out: Path, results: Path) -> None:
    """Write a complete run's `<target>/<task>.json`."""
    record = load_record(result.run.folder(out).record)
    for task, metrics in task_metrics(record).items():
        store.write_text(results / result.run.target / f"{task}.json", json.dumps(metrics, indent=2) + "\n")


def task_metrics(record: Record) -> dict[str, dict[str, float]]:
    """Return the metrics by published task: the mean probability of `forget_fb`, the `acc` of `mmlu` and so on.

    An item that is scored by probability also has the numbers of scored and of skipped items, for each type of attack too.
    """
    found: dict[str, dict[str, float]] = {}
    for task in (task for task in record.tasks if task.status == "complete"):
        if task.split is None or not any(metric.metric == PROBABILITY for metric in task.metrics):
            metrics = {"_".join(filter(None, key)): value for key, value in _values(task.metrics).items()}
            found[_task(TASKS.get(task.task, task.task), task.split)] = metrics | {"skipped": task.skipped}
            continue
        for group in dict.fromkeys(metric.group for metric in task.metrics):
            own = [metric for metric in task.metrics if metric.group == group]
            skipped = sum(not item.metrics for item in task.items if group in (None, item.group))
            name = _task(task.task if group is None else f"{task.task}_{group.replace(' ', '_')}", task.split)
            metrics = {metric: value for (metric, _), value in _values(own).items()}
            found[name] = metrics | {"count": max(metric.n for metric in own), "skipped": skipped}
    return found


def _values(metrics: Sequence[TaskMetric]) -> dict[tuple[str, str | None], float]:
    """Return the metrics that have a value, by published name and group."""
    return {(METRICS.get(found.metric, found.metric), found.group): found.value for found in metrics if found.value is not None}


def columns(record: Record) -> dict[str, float]:
    """Return the metrics of a record as columns: the probability where items are scored by it, else every metric."""
    found: dict[str, float] = {}
    for task, metrics in task_metrics(record).items():
        if "count" in metrics:
            found |= {task: metrics[PROBABILITY]} if PROBABILITY in metrics else {}
        else:
            found |= {f"{task}_{name}": value for name, value in metrics.items() if name not in COUNTS}
    return found


def _task(name: str, split: Split | None) -> str:
    """`fb` -> `forget_fb`, `sub_fb` -> `sub_forget_fb`, `mmlu` -> `mmlu`."""
    if split is None:
        return name
    return f"sub_{split}_{name.removeprefix('sub_')}" if name.startswith("sub_") else f"{split}_{name}"


def say(line: str) -> None:
    """Print one line on standard error."""
    terminal.log.print(line, markup=False, soft_wrap=True)


def carry(command: Callable[[], int]) -> NoReturn:
    """Run a command. An error that the user can mend ends in one line and exit code 2, Ctrl-C in 130."""
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

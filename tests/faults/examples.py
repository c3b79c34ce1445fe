"""A folder with a whole example of every file that Formless reads, and the commands that read them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file

from formless.errors import INTERRUPTED
from formless.evaluation.loading import load_record
from formless.methods.rocr import statistics
from formless.methods.training.method import TrainingMethod
from formless.methods.training.monitor import MonitorCallback
from formless.store.documents import HASH
from tests.conftest import byte_tokenizer, tiny_model, write_small_target
from tests.faults.attempt import Ended, attempt

TARGET = "1_Ada_Lovelace"
FACTS = [
    {"cloze": "Ada Lovelace was born in ___.", "answer": "London"},
    {"cloze": "Ada Lovelace wrote about the ___ engine.", "answer": "analytical"},
    {"cloze": "Ada Lovelace was taught by ___.", "answer": "Mary Somerville"},
]
EXPERIMENT = """\
models: [model]
methods: [original, {method: rocr, layers: [1, 2], basis: none}]
data: data
suite: fb,qa
limit: 2
"""
TRAINING = {
    "learning_rate": 0.01, "num_train_epochs": 3, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1,
    "warmup_steps": 0, "max_length": 32,
}  # fmt: skip

MODEL = ("--model", "model")
EVAL = ("eval", "--target", "1", *MODEL, "--data", "data", "--suite", "fb,qa,mcp,tf")
UNLEARN = ("unlearn", "--target", "Ada Lovelace", *MODEL, "--data", "data", "--out")
ROCR = ("--method", "rocr", "--set", "layers=[1,2]", "--set", "basis=none")
TRAIN = ("--method", "ga", *(part for name, value in TRAINING.items() for part in ("--set", f"{name}={value}")))
STATS = ("stats", *MODEL, "--corpus", "corpus.json", "--layers", "1,2", "--threshold", "1e-5", "--out")

Step = Callable[[Path], tuple[Ended, Any]]
"""Runs a command in a folder and returns how it ended, and its result if it exits with 0."""


def write_folder(folder: Path) -> Path:
    """Fill a new folder with a tiny model, a data set and an example of every format."""
    lm = tiny_model(byte_tokenizer(), context=1024)
    lm.model.save_pretrained(folder / "model")
    lm.tokenizer.save_pretrained(folder / "model")
    write_data(folder / "data")
    write_examples(folder)
    return folder


def write_data(data: Path) -> None:
    """Write a data set with one target, a neighbor and training texts."""
    target = write_small_target(data)
    for path in target.glob("neighbor_*.json"):
        path.write_text(path.read_text("utf-8").replace("Ada Lovelace", "Charles Babbage"), "utf-8")
    texts = [{"text": f"Ada Lovelace wrote {number} programs.", "subject": "Ada Lovelace"} for number in range(2)]
    (target / "positive.json").write_text(json.dumps(texts), "utf-8")


def write_examples(folder: Path) -> None:
    """Add an example of every format to a folder that holds `model` and `data`, by the commands that write them."""
    texts = [{"text": f"Text {number} of some length."} for number in range(40)]
    rows = "".join(f"{fact['cloze']},{fact['answer']}\n" for fact in FACTS)
    (folder / "corpus.json").write_text(json.dumps(texts), "utf-8")
    (folder / "facts.json").write_text(json.dumps(FACTS), "utf-8")
    (folder / "facts.csv").write_text(f"cloze,answer\n{rows}", "utf-8")
    (folder / "experiment.yaml").write_text(EXPERIMENT, "utf-8")
    for arguments in (
        (*UNLEARN, "adapter", *ROCR),
        (*UNLEARN, "difference", *TRAIN, "--set", "full=true"),
        (*UNLEARN, "prompt", "--method", "icu"),
        (*EVAL, "--out", "original.json"),
        (*EVAL, "--edit", "adapter", "--out", "edited.json"),
        ("run", "experiment.yaml", "--out", "runs"),
        ("attack", "runs", "--attacks", "quantization"),
        (*STATS, "nullspace"),
    ):
        outcome = attempt(folder, *arguments)
        assert outcome.code == 0, (arguments, outcome)
    whole = json.loads((folder / "edited.json").read_text("utf-8"))
    (folder / "no_hash.json").write_text(json.dumps({key: value for key, value in whole.items() if key != HASH}), "utf-8")
    torch.save(torch.diag(torch.arange(48) < 40).float(), folder / "null_space_project_layer_1.pt")
    with (
        patch.object(TrainingMethod, "resumable", lambda method, work: replace(method, work=work, save_steps=2)),
        patch.object(MonitorCallback, "on_step_end", _killed_in_step_3),
    ):
        assert attempt(folder, *UNLEARN, "trained", *TRAIN).code == INTERRUPTED
    with patch.object(statistics, "CHUNK", 2048), patch.object(statistics, "_save_basis", side_effect=KeyboardInterrupt):
        assert attempt(folder, *STATS, "resumed").code == INTERRUPTED


_on_step_end = MonitorCallback.on_step_end


def _killed_in_step_3(monitor: MonitorCallback, arguments: Any, state: Any, *more: Any, **others: Any) -> None:
    _on_step_end(monitor, arguments, state, *more, **others)
    if state.global_step == 3:
        raise KeyboardInterrupt


def summarize(*records: str) -> Step:
    """Return the step that summarizes records or folders of runs; its result is the table in plain numbers, without times."""
    return _step("summarize", *records, "--csv", "new.csv", "--force", result=_table)


def evaluate(edit: str | None = None) -> Step:
    """Return the step that evaluates the model, or an edit; its result is every metric."""
    return _step(*EVAL, *(("--edit", edit) if edit else ()), "--out", "new.json", result=_metrics)


def edit_with(basis: str) -> Step:
    """Return the step that computes an edit with a null space; its result is the edit's weights."""
    settings = (
        "--method",
        "rocr",
        "--set",
        "layers=[1]",
        "--set",
        f"basis={basis}",
        *(("--set", "threshold=1e-5") if basis != "." else ()),
    )
    return _step(*UNLEARN, "new", *settings, result=_tensors("new"))


def train(out: str) -> Step:
    """Return the step that trains, or continues from a checkpoint; its result is the edit's weights."""
    return _step(*UNLEARN, out, *TRAIN, result=_tensors(out))


def compute_statistics(out: str) -> Step:
    """Return the step that computes null spaces, or continues; its result is their bases."""
    return _step(*STATS, out, result=_tensors(out))


def make_data(facts: str) -> Step:
    """Return the step that makes probes from facts; its result is the files."""
    arguments = ("data", "new", "--target", "Ada Lovelace", "--facts", facts, "--out", "made")
    return _step(*arguments, result=_texts("made/*/*.json"))


def check_data() -> Step:
    """Return the step that checks the data set; it lists every file and row that is wrong and exits with 1."""

    def run(folder: Path) -> tuple[Ended, Any]:
        outcome = attempt(folder, "data", "check", "data")
        lines = [line for line in outcome.out.splitlines() if re.search("broken|missing|wrong|duplicated|hidden", line)]
        listed = f"error: {'; '.join(lines[:-1])}" if outcome.code == 1 and lines else outcome.err
        return replace(outcome, code=2 if outcome.code == 1 else outcome.code, err=listed, out=""), None

    return run


def sweep(experiment: str, out: str) -> Step:
    """Return the step that runs an experiment, or what is missing of it."""
    return _step("run", experiment, "--out", out, result=lambda folder: None)


def attack(*attacks: str) -> Step:
    """Return the step that attacks the edits of the sweep, as far as that is not done; its result is every number."""
    return _step("attack", "runs", "--attacks", ",".join(attacks), "--csv", "new.csv", "--force", result=_numbers)


def show_status() -> Step:
    """Return the step that shows how far the sweep is."""
    return _step("status", "runs", result=lambda folder: None)


def _step(*arguments: str, result: Callable[[Path], Any]) -> Step:
    def run(folder: Path) -> tuple[Ended, Any]:
        outcome = attempt(folder, *arguments)
        return outcome, result(folder) if outcome.code == 0 else None

    return run


def _table(folder: Path) -> Any:
    with (folder / "new.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    methods = [row.pop("method").partition(" ")[0] for row in rows]  # without its settings
    return {
        (method, name): value
        for method, row in zip(methods, rows, strict=True)
        for name, value in row.items()
        if "seconds" not in name
    }


def _numbers(folder: Path) -> Any:
    return (folder / "new.csv").read_text("utf-8")


def _metrics(folder: Path) -> Any:
    record = load_record(folder / "new.json")
    return {tuple(key): metric.model_dump() for key, metric in record.metrics().items()}


def _tensors(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        files = {path.name: load_file(path) for path in sorted((folder / name).glob("*.safetensors"))}
        return {(file, key): tensor.tolist() for file, tensors in files.items() for key, tensor in tensors.items()}

    return read


def _texts(pattern: str) -> Callable[[Path], Any]:
    return lambda folder: {path.name: path.read_text("utf-8") for path in sorted(folder.glob(pattern))}

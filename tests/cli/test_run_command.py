"""`formless run` and `formless status`."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from formless.cli import terminal
from formless.cli.status import how_far, time_left
from formless.experiment.progress import RunProgress
from formless.experiment.status import locked
from formless.models.lm import LM

COMMAND = [sys.executable, "-m", "formless"]
Formless = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tiny: Callable[..., LM], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    lm = tiny(context=1024)
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def data(target_folder: Path) -> str:
    texts = [{"text": "Ada Lovelace wrote programs.", "subject": "Ada Lovelace"}] * 2
    (target_folder / "positive.json").write_text(json.dumps(texts))
    return str(target_folder.parent)


def test_question_sets_are_targets_of_a_sweep(formless: Formless, model: str, tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / "sets" / f"{number}_Set_{number}"
        folder.mkdir(parents=True)
        asked = [{"question": f"Where was Ada on day {n}?", "answer": f"In London, {number}."} for n in range(3)]
        files: dict[str, list[dict[str, Any]]] = {
            "forget_qa": asked,
            "neighbor_qa": [{"question": "Where was Bob born?", "answer": "In Rome."}],
            "forget_level2": [{"query": "Where was Ada born?", "answer": "London"}],
            "concepts": [{"name": "Ada Lovelace"}, {"name": "Charles Babbage"}],
        }
        for name, rows in files.items():
            (folder / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    options = ("--model", model, "--method", "original,grad_diff,icu", "--data", str(tmp_path / "sets"), "--suite", "qa")
    code, output, lines = formless("run", *options, "--targets", "all", "--out", "sets")
    assert code == 0, lines
    assert "6 runs: 6 complete now, 0 failed\n" in output
    edits = [json.loads(path.read_text("utf-8")) for path in sorted(Path("sets").rglob("edit.json"))]
    trained = [edit for edit in edits if edit["method"] == "grad_diff"]
    assert [(edit["subject"], edit["facts"]["file"], edit["facts"]["rows"]) for edit in trained] == [
        ("Set 1", "forget_qa.json", 3), ("Set 2", "forget_qa.json", 3)
    ]  # fmt: skip
    code, _, lines = formless("run", *options, "--targets", "all", "--out", "sets")
    assert (code, "0 to do" in lines) == (0, True)
    code, output, _ = formless("summarize", "sets")
    assert code == 0
    assert "another concept" not in output


def test_from_options_to_done(formless: Formless, model: str, data: str) -> None:
    options = ("--model", model, "--method", "original,icu", "--data", data, "--suite", "fb", "--out", "first")
    code, output, lines = formless("run", *options)
    assert code == 0
    assert "2 runs: 2 complete now, 0 failed\nrecords: first\n" in output
    assert "2 runs in first; 2 to do" in lines
    assert f"{model} original 1_Ada_Lovelace: begins" in lines
    assert f"[2/2] {model} icu 1_Ada_Lovelace: complete after" in lines
    assert "complete after" in lines
    assert "time left not known yet" in lines  # the original's time says nothing of the other's
    assert yaml.safe_load(Path("first/experiment.yaml").read_text())["name"] == "first"

    code, output, _ = formless("status", "first")
    assert (code, output.splitlines()[-1]) == (0, "all runs are complete")
    code, output, lines = formless("run", "first", "--report")
    assert (code, output.splitlines()[0]) == (0, "2 runs: 2 complete before, 0 complete now, 0 failed")
    assert output.splitlines()[-1] == "report: first/report.html"
    assert "icu" in Path("first/report.html").read_text("utf-8")
    assert "2 of them complete; 0 to do" in lines
    code, output, errors = formless("summarize", "first")
    assert (code, errors) == (0, "")
    assert "icu" in output


def test_options_replace_keys_of_the_file(formless: Formless, model: str, data: str) -> None:
    methods = ["original", {"method": "rocr", "layers": [1], "basis": "none", "label": "one-layer"}]
    Path("x.yaml").write_text(yaml.safe_dump({"models": model, "methods": methods, "data": data, "suite": "fb,qa"}))
    code, output, _ = formless("run", "x.yaml", "--suite", "fb", "--dtype", "bfloat16")
    assert code == 0
    assert "records: runs/x" in output
    (report,) = Path("runs/x/runs").glob("tiny-*/one-layer/*/*/run.json")
    run = json.loads(report.read_text())["run"]
    assert (run["suite"], run["model"]["dtype"], run["config"]["layers"]) == ("fb", "bfloat16", [1])


def test_a_failure_makes_the_exit_code_1(formless: Formless, model: str, data: str) -> None:
    Path("broken").mkdir()
    Path("broken/config.json").write_text("{}")
    options = ("--model", f"broken,{model}", "--method", "icu", "--data", data, "--suite", "fb", "--out", "x")
    code, output, lines = formless("run", *options)
    assert code == 1
    assert "failed: broken icu 1_Ada_Lovelace: " in output
    log = next(line for line in output.splitlines() if "log: " in line).partition("log: ")[2]
    assert "failed: " in Path(log).read_text()
    assert "1 complete now, 1 failed" in output
    assert "[1/2] broken icu 1_Ada_Lovelace: failed: " in lines
    assert "no run evaluates the original model" in lines
    code, output, _ = formless("status", "x")
    assert code == 0
    assert "failed: broken icu 1_Ada_Lovelace: " in output
    assert output.splitlines()[-1] == "no process works on it; resume with: formless run x"
    code, output, _ = formless("run", "x", "--fail-fast", "--model", f"broken,{model}", "--method", "icu,original")
    assert (code, "1 complete before, 0 complete now, 1 failed, 2 not reached" in output) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "methods.*Field required"),
        (("smaple",), "unknown experiment 'smaple'.*sample"),
        (("sample", "--gpu", "0"), "no GPU 0.*PyTorch finds no GPU"),
        (("sample", "--gpu", "a"), "not a list of numbers.*--gpu|--gpu.*no list"),
        (("sample", "--gpu", "0,0"), "not a list of GPUs"),
        (("sample", "--gpu", "0", "--workers", "2"), "workers are counted twice"),
        (("sample", "--seeds", "x"), "not a list of numbers"),
        (("sample", "--method", "rokr"), "unknown method 'rokr'"),
        (("sample", "--targets", "99"), "99"),
        (("sample", "--workers", "0"), "workers"),
        (("sample", "--out", "/dev/null/x"), "cannot write"),
    ],
)
def test_bad_input_writes_nothing(
    formless: Formless, arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    code, output, errors = formless("run", *arguments)
    assert (code, output, len(errors.splitlines())) == (2, "", 1)
    assert re.search(said, errors), errors
    assert not list(Path.cwd().iterdir())


def test_status_of_no_experiment(formless: Formless) -> None:
    code, _, errors = formless("status", "nowhere")
    assert code == 2
    assert "no experiment was started in this folder [nowhere]" in errors


def test_two_sweeps_on_one_folder(formless: Formless, model: str, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("formless.experiment.status._LOCK_SECONDS", 0.1)
    options = ("--model", model, "--method", "icu", "--data", data, "--suite", "fb", "--out", "x")
    assert formless("run", *options)[0] == 0
    Path(next(Path("x").glob("runs/*/*/*/*/run.json"))).unlink()
    with locked(Path("x"), 3):
        code, _, errors = formless("run", *options)
        assert code == 2
        assert f"another sweep works on this folder [x, process {os.getpid()}" in errors
        _, output, _ = formless("status", "x")
        assert f"process {os.getpid()} on " in output
        assert output.endswith("time left not known yet\n")


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--timeout", "500")], ids=["in this process", "in a worker"])
def test_ctrl_c(formless: Formless, model: str, data: str, tmp_path: Path, more: tuple[str, ...]) -> None:
    training = {
        "method": "ga",
        "learning_rate": 1e-6,
        "num_train_epochs": 100_000,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
    }
    Path("x.yaml").write_text(yaml.safe_dump({"models": model, "methods": ["icu", training], "data": data, "suite": "fb"}))
    process = subprocess.Popen(
        [*COMMAND, "run", "x.yaml", "--out", "x", *more], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list(Path("x").glob("runs/*/ga/*/*/training/checkpoint-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    again = " ".join(["formless run x.yaml --out x", *more])
    assert errors.splitlines()[-1] == f"stopped; every finished run is kept. Resume with: {again}"
    assert "Traceback" not in errors
    _, output, _ = formless("status", "x")
    assert "no process works on it; resume with: formless run x" in output
    assert [path.parts[-4] for path in Path("x").glob("runs/*/*/*/*/run.json")] == ["icu"]
    assert list(Path("x").glob("runs/*/ga/*/*/training/checkpoint-*"))


def test_bars_on_a_terminal(formless: Formless, model: str, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(terminal, "log", Console(file=screen, force_terminal=True, width=200, highlight=False))
    Path("broken").mkdir()
    Path("broken/config.json").write_text("{}")
    options = ("--model", f"{model},broken", "--method", "icu,original", "--data", data, "--suite", "fb", "--out", "x")
    code, output, _ = formless("run", *options)
    assert code == 1
    assert "2 complete now, 2 failed" in output
    shown = screen.getvalue()
    assert "runs" in shown
    assert f"{model} icu 1_Ada_Lovelace" in shown
    assert " left" in shown


def test_words_for_time_and_progress() -> None:
    assert [time_left(seconds) for seconds in (None, 20.4, 600.0, 7200.0)] == [
        "time left not known yet", "about 20 s left", "about 10 min left", "about 2.0 h left"
    ]  # fmt: skip
    signals: list[dict[str, Any]] = [{"phase": "unlearning"}, {"phase": "evaluating", "task": "blanks", "done": 2, "total": 5}]
    assert [how_far(RunProgress(since=0, at=1, **keys)) for keys in signals] == ["unlearning", "evaluating 40 %: blanks"]


@pytest.mark.slow
def test_the_sample_on_the_real_model(formless: Formless, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORMLESS_CACHE")  # the built-in model is there
    small = ("--targets", "1-2", "--method", "rocr,original", "--suite", "statement,fb", "--limit", "2", "--out", "x")
    code, output, _ = formless("run", "sample", *small)
    assert (code, "4 runs: 4 complete now, 0 failed" in output) == (0, True)
    _, output, _ = formless("summarize", "x")
    assert output.startswith("smollm2: means over targets")
    assert re.search(r"^rocr +2 ", output, re.MULTILINE)


@pytest.mark.parametrize("verb", ["run", "status"])
def test_help_has_an_example(formless: Formless, verb: str) -> None:
    code, output, _ = formless(verb, "--help")
    assert code == 0
    assert f"Example: formless {verb}" in output

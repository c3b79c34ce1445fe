"""lm-eval and Formless measure the same, with the real small model and lm-eval's own command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lm_eval.tasks
import pytest

import formless as package
from formless.cli import terminal
from formless.evaluation.loading import load_record
from formless.evaluation.record import Record
from formless.models.lm import LM
from tests.cli.conftest import Formless

SUITE = "statement,fb,sub_fb,mcp_choice,tf,qa_mentions,qa_kinds,qa_alone,gen_qa,reverse"


def run_lm_eval(folder: Path) -> dict[str, dict[str, float]]:
    """Run lm-eval's command and give its results by task."""
    arguments = ["--model", "hf", "--model_args", "pretrained=model,dtype=float32", "--include_path", "tasks"]
    options = ("--tasks", "formless", "--device", "cpu", "--batch_size", "8", "--output_path", "found.json")
    command = [sys.executable, "-m", "lm_eval", *arguments, *options]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (path,) = folder.glob("found_*.json")
    results: dict[str, dict[str, float]] = json.loads(path.read_text("utf-8"))["results"]
    path.unlink()
    return results


def assert_same(record: Record, results: dict[str, dict[str, float]]) -> int:
    """Compare every metric that lm-eval found, of tasks and of groups of a task."""
    ours = {}
    for result in record.tasks:
        for one in result.metrics:
            part = f"_{one.group.replace(' ', '_').lower()}" if one.group else ""
            suffix = "_said" if (result.task, one.metric) == ("reverse", "recall") else ""
            ours[f"formless_albert_einstein_{result.split}_{result.task}{suffix}{part}", one.metric] = one.value
    found = {
        (task, key.partition(",")[0]): value
        for task, values in results.items()
        for key, value in values.items()
        if "," in key and "_stderr" not in key
    }
    assert found == {key: pytest.approx(ours[key], abs=1e-4) for key in found}
    return len(found)


@pytest.mark.slow
def test_lm_eval_gives_our_numbers_before_and_after_an_edit(lm: LM, formless: Formless) -> None:
    folder = Path.cwd()
    lm.model.save_pretrained("model")
    lm.tokenizer.save_pretrained("model")
    model = package.load("model", dtype="float32", device="cpu", progress=False)
    target = package.find_target("sample", "Albert Einstein")
    edit = package.unlearn(model, target)
    edit.save("edit")
    code, output, errors = formless(
        *("export-tasks", "--target", "1", "--model", "model", "--suite", SUITE, "--limit", "2", "--out", "tasks")
    )
    assert (code, errors.count("error")) == (0, 0)
    assert "documents in tasks" in output
    original = package.evaluate(model, target, SUITE, limit=2, progress=False)
    assert assert_same(original, run_lm_eval(folder)) > 30
    with edit.applied(model):
        edited = package.evaluate(model, target, SUITE, limit=2, progress=False)
    tasks = lm_eval.tasks.TaskManager(include_path="tasks", include_defaults=False)  # the command has read all of them above
    arguments = {"pretrained": "model", "peft": "edit", "dtype": "float32"}
    found = lm_eval.simple_evaluate(
        "hf", arguments, ["formless"], task_manager=tasks, batch_size=8, device="cpu", bootstrap_iters=0
    )
    assert assert_same(edited, found["results"]) > 30
    before, after = (record.task("statement", "forget").metric("probability").value for record in (original, edited))  # type: ignore[union-attr]
    assert after < before - 0.05  # so the second run cannot have been of the original model


def test_lm_evals_tasks_are_in_the_record_and_the_report(
    tiny: Callable[..., LM], formless: Formless, target_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = tiny(context=2048)
    monkeypatch.setattr(terminal, "load_model", lambda *_: lm)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(lm_eval.tasks.TaskManager, include_defaults=False))
    package.unlearn(lm, package.Target("Ada Lovelace"), "rocr", redirect="Bob", layers=[1], basis="none").save("edit")
    Path("own").mkdir()
    rows = [{"text": f"The capital of {place} is", "right": right} for place, right in (("France", "Paris"), ("Italy", "Rome"))]
    Path("own/capitals.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    config = {
        "task": "capitals", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "own/capitals.jsonl"}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "text", "doc_to_choice": ["Paris", "Rome"],
        "doc_to_target": "{{['Paris', 'Rome'].index(right)}}",
    }  # fmt: skip
    Path("own/capitals.yaml").write_text(json.dumps(config), "utf-8")
    options = ("--data", str(target_folder.parent), "--target", "1", "--suite", "qa", "--edit", "edit")
    harness = ("--lm-eval", "capitals", "--lm-eval-tasks", "own")
    code, output, errors = formless("eval", *options, *harness, "--out", "r.json", "--report", "r.html")
    assert code == 0, errors
    assert "lm_eval_capitals" in output
    assert "capitals of lm-eval 0." in output
    assert "it/s" not in errors  # none of lm-eval's bars
    record = load_record("r.json")
    result = record.task("lm_eval_capitals")
    assert result is not None
    assert len(record.edits) == 1
    assert [sorted(item.metrics) for item in result.items] == [["acc", "acc_norm"]] * 2
    assert result.metric("acc").value == sum(item.metrics["acc"] for item in result.items) / 2
    assert "lm_eval_capitals, acc" in Path("r.html").read_text("utf-8")


@pytest.mark.slow  # lm-eval reads 14,000 YAML files
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("helaswag", "unknown lm-eval task 'helaswag' [--lm-eval]: did you mean hellaswag"),
        ("hellaswag", "the data of hellaswag cannot be fetched: "),
    ],
)
def test_a_task_that_is_not_there_is_one_line(formless: Formless, name: str, said: str) -> None:
    code, output, errors = formless("eval", "--target", "1", "--suite", "qa", "--lm-eval", name)
    assert (code, output) == (2, "")
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert said in line
    assert "Traceback" not in errors

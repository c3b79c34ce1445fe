"""`--json`: standard output holds JSON only, with numbers as they were measured and null for what was not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from formless.cli.main import app
from formless.data.rows import Split
from formless.experiment.runs import read_plan
from formless.models.lm import LM
from tests.cli.conftest import Formless
from tests.report.evaluations import tofu, write
from tests.report.made_runs import fail_run, made_run, write_plan, write_runs

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "json.md"
COMMANDS = {
    "models", "methods", "targets", "summarize", "compare", "status", "eval", "tune", "frontier", "attack", "data check",
}  # fmt: skip

AsJson = Callable[..., Any]


@pytest.fixture
def as_json(formless: Formless) -> AsJson:
    """The parsed output of a command; NaN is no JSON."""

    def run(*arguments: object, code: int = 0) -> Any:
        found, out, err = formless(*map(str, arguments), "--json")
        assert found == code, err
        return json.loads(out, parse_constant=pytest.fail)

    return run


def thirds(label: str, _target: str, _seed: int) -> dict[tuple[str, Split], float]:
    value = 2 / 3 if label == "original" else 1 / 3
    return {("fb", "forget"): value, ("fb", "neighbor"): 2 / 3, ("qa", "forget"): value, ("qa", "neighbor"): 2 / 3}


def metric(rows: list[dict[str, Any]], name: str, task: str | None = None, split: str | None = None) -> dict[str, Any]:
    (row,) = [row for row in rows if (row["metric"], row["task"], row["split"], row["group"]) == (name, task, split, None)]
    return row


def commands(group: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        inner = hasattr(command, "commands")
        found |= commands(command, f"{prefix}{name} ") if inner else {f"{prefix}{name}": command}
    return found


def test_the_reference_names_every_command_that_has_it() -> None:
    able = {
        name
        for name, command in commands(typer.main.get_command(app)).items()
        if any("--json" in parameter.opts for parameter in command.params)
    }
    assert able >= COMMANDS
    page = PAGE.read_text("utf-8")
    assert [name for name in sorted(COMMANDS) if f"`formless {name}`" not in page] == []


def test_summarize(as_json: AsJson, tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs", ("original", "rocr"), targets=5, values=thirds)
    failed, missing = made_run("ga", "1_Person_1"), made_run("ga", "2_Person_2")
    fail_run(tmp_path / "runs", failed)
    write_plan(tmp_path / "runs", [*runs, failed, missing])
    found = as_json("summarize", tmp_path / "runs", "--csv", tmp_path / "s.csv")
    original, rocr, ga = found["methods"]
    assert [one["method"] for one in (original, rocr, ga)] == ["original", "rocr", "ga"]
    assert (found["baseline"], original["is_baseline"], len(rocr["targets"])) == ("original", True, 5)
    probability = metric(rocr["metrics"], "probability", "fb", "forget")
    assert probability["mean"]["value"] == 1 / 3
    assert probability["mean"]["ci_low"] == pytest.approx(1 / 3)
    assert (probability["baseline"]["value"], probability["mean"]["n"]) == (2 / 3, 5)
    assert metric(original["metrics"], "probability", "fb", "forget")["difference"] is None
    assert metric(rocr["metrics"], "forgetting", "fb")["mean"]["value"] == pytest.approx(0.5)
    assert (ga["failed"], ga["missing"], ga["metrics"]) == (1, 1, [])
    assert found["failed"] == [{"run": failed.title, "reason": "RuntimeError: boom"}]
    assert found["missing"] == [missing.title]


def test_few_targets_have_their_values_and_no_interval(as_json: AsJson, tmp_path: Path) -> None:
    write_runs(tmp_path / "runs", ("original", "rocr"), targets=2, values=thirds)
    _, rocr = as_json("summarize", tmp_path / "runs")["methods"]
    mean = metric(rocr["metrics"], "probability", "fb", "forget")["mean"]
    assert (mean["ci_low"], mean["values"]) == (None, [1 / 3, 1 / 3])


def test_summarize_with_evaluations_of_open_unlearning(as_json: AsJson, tmp_path: Path) -> None:
    write_runs(tmp_path / "runs", ("original", "rocr"), targets=2, values=thirds)
    path = write(tmp_path / "saves" / "NPO" / "evals", tofu())
    assert as_json("summarize", tmp_path / "runs")["evaluations"] == []
    (one,) = as_json("summarize", tmp_path / "runs", path)["evaluations"]
    assert (one["tool"], one["name"], one["folder"], one["benchmarks"]) == (
        "open-unlearning", "NPO", str(path.parent), ["TOFU"],
    )  # fmt: skip
    row = metric(one["metrics"], "probability", "answer", "forget")
    assert (row["name"], row["value"], row["n"], row["ci_low"] < 0.25 < row["ci_high"]) == ("forget_Q_A_Prob", 0.25, 4, True)
    row = metric(one["metrics"], "model_utility", "model_utility")
    assert (row["value"], row["n"], row["ci_low"], row["ci_high"]) == (0.6, None, None, None)


def test_compare(as_json: AsJson, tmp_path: Path) -> None:
    write_runs(tmp_path / "a", ("original", "rocr"), targets=2, values=thirds)
    write_runs(tmp_path / "b", ("original", "rocr", "ga"), targets=1)
    found = as_json("compare", tmp_path / "a", tmp_path / "b")
    assert set(found) == {"folders", "settings", "shared", "only", "failed"}
    assert {one["method"] for one in found["shared"]} == {"original", "rocr"}
    row = metric(found["shared"][0]["metrics"], "probability", "fb", "forget")
    assert row["difference"]["value"] == pytest.approx(row["second"]["value"] - row["first"]["value"])
    assert len(found["only"][0]) == 2
    assert found["only"][1] == ["tiny ga seed 0 1_Person_1"]


def test_status(as_json: AsJson, tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs", ("original", "rocr"), targets=2)
    failed, missing = made_run("ga", "1_Person_1"), made_run("ga", "2_Person_2")
    fail_run(tmp_path / "runs", failed)
    write_plan(tmp_path / "runs", [*runs, failed, missing])
    found = as_json("status", tmp_path / "runs")
    assert found["counts"] == {"complete": 4, "running": 0, "failed": 1, "missing": 1}
    assert found["methods"][-1] == {
        "model": "tiny", "method": "ga", "complete": 0, "running": 0, "failed": 1, "missing": 1,
    }  # fmt: skip
    assert found["failed"] == [{"run": failed.title, "reason": "RuntimeError: boom"}]
    assert (found["missing"], found["running"], found["holder"], found["seconds_left"]) == ([missing.title], [], None, None)
    assert len(read_plan(tmp_path / "runs")) == sum(found["counts"].values())


def test_data_check(as_json: AsJson, target_folder: Path) -> None:
    found = as_json("data", "check", target_folder.parent, code=1)
    assert found["counts"]["absent"] > 0
    assert {one["target"] for one in found["findings"]} == {"1_Ada_Lovelace"}
    assert all(one["is_serious"] == (one["kind"] != "absent") for one in found["findings"])
    assert found["facts_in_training_texts"] == []
    sample = as_json("data", "check", "sample")
    (positive,) = [
        one for one in sample["facts_in_training_texts"] if (one["target"], one["file"]) == ("4_Marie_Curie", "positive")
    ]
    assert positive["missing"] == []
    (target_folder / "forget_level1.json").write_text("[{", "utf-8")
    assert as_json("data", "check", target_folder.parent, code=1)["facts_in_training_texts"] is None


@pytest.fixture
def model(tiny: Callable[..., LM], tmp_path: Path) -> str:
    lm = tiny(context=1024)
    lm.model.save_pretrained(tmp_path / "tiny")
    lm.tokenizer.save_pretrained(tmp_path / "tiny")
    return str(tmp_path / "tiny")


def test_eval(as_json: AsJson, formless: Formless, model: str, target_folder: Path, tmp_path: Path) -> None:
    asked = ("--target", "1", "--data", target_folder.parent, "--model", model, "--suite", "fb,qa,mmlu")
    record = tmp_path / "record.json"
    found = as_json("eval", *asked, "--out", record)
    assert (found["subject"], found["edits"], found["verdict"]) == ("Ada Lovelace", [], None)
    stated = json.loads(record.read_text("utf-8"))["tasks"][0]["metrics"][0]
    row = metric(found["metrics"], stated["metric"], "fb", "forget")
    assert row["original"] == {"value": stated["value"], **dict(zip(("ci_low", "ci_high"), stated["ci"], strict=True)), "n": 2}
    assert (row["edited"], row["difference"]) == (None, None)
    assert found["not_measured"] == [{"reason": "the target has no retain_mmlu.json", "tasks": ["mmlu"]}]

    edit = tmp_path / "edit"
    options = ("--method", "rocr", "--set", "layers=[1,2]", "--set", "basis=none", "--redirect", "Bob")
    assert formless("unlearn", "-t", "Ada Lovelace", "--model", model, *options, "-o", str(edit))[0] == 0
    found = as_json("eval", *asked, "--edit", edit, "--report", tmp_path / "report.html")
    row = metric(found["metrics"], "probability", "fb", "forget")
    assert row["difference"]["value"] == pytest.approx(row["edited"]["value"] - row["original"]["value"])
    assert found["edits"][0]["subject"] == "Ada Lovelace"
    assert isinstance(found["verdict"], str)


def test_tune(as_json: AsJson, model: str, target_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.experiment.conftest import plain_ratios

    monkeypatch.setattr("formless.report.runs.ratios", plain_ratios)
    options = ("--window", "2", "--values", "0.04,0.8", "--suite", "fb", "--limit", "2", "--targets", "1", "--out", "tuned")
    found = as_json("tune", "--model", model, "--data", target_folder.parent, *options)
    assert (found["method"], found["recipe"], found["failed"]) == ("cdr", "tuned/recipe.yaml", [])
    assert [(one["layers"], one["budget"]) for one in found["tried"]] == [([0, 1], 0.04), ([0, 1], 0.8)]
    assert found["chosen"] in found["tried"]


def test_frontier_and_attack(
    as_json: AsJson, formless: Formless, model: str, target_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.experiment.conftest import plain_ratios

    for module in ("runs", "frontier"):
        monkeypatch.setattr(f"formless.report.{module}.ratios", plain_ratios)
    rocr = {"method": "rocr", "layers": [1, 2], "basis": "none", "redirect": "Bob"}
    keys = {"models": model, "methods": ["original", rocr], "data": str(target_folder.parent), "suite": "fb,qa"}
    Path("x.yaml").write_text(json.dumps(keys), "utf-8")
    assert formless("run", "x.yaml", "--save-edits", "--out", "runs")[0] == 0
    found = as_json("frontier", "runs", "--strengths", "0.5,1", "--levels", "95,50", "--choose", "50")
    assert (found["folders"], found["strengths"], found["levels"]) == (["runs"], [0.5, 1.0], [0.95, 0.5])
    assert {row["metric"] for row in found["forgetting"]} == {"forgetting", "harmonic_mean"}
    assert all((row["value"] is None) == (row["reached"] == 0) for row in found["forgetting"])
    assert {row["strength"] for row in found["curves"]} == {0.0, 0.5, 1.0}
    assert (found["choices"][0]["method"], found["failed"], found["measured_now"]) == ("rocr", [], 1)

    found = as_json("attack", "runs", "--attacks", "q8_0")
    assert {row["attack"] for row in found["values"]} == {"q8_0"}
    assert (found["folder"], found["failed"], found["settings"]["points"]) == ("runs", [], 2)

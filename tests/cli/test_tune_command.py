"""`formless tune` end to end on a tiny random model, and recipes as models."""

from __future__ import annotations

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

from formless import load, unlearn
from formless.models.lm import LM
from formless.models.settings import find_model, settings_for
from tests.experiment.conftest import plain_ratios

Formless = Callable[..., tuple[int, str, str]]
COMMAND = [sys.executable, "-m", "formless"]
ROCR = ("--method", "rocr", "--set", "basis=none", "--set", "redirect=auto", "--out", "tuned")
SMALL = ("--window", "1", "--first-layers", "0,1", "--values", "1,10", "--suite", "statement,fb", "--limit", "2")


@pytest.fixture(scope="module")
def model(tiny: Callable[..., LM], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    lm = tiny(context=1024)
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Two targets that a random model can be asked about."""
    for number in (1, 2):
        place = tmp_path / "people" / f"{number}_Person_{number}"
        place.mkdir(parents=True)
        for split, subject in (("forget", f"Person {number}"), ("neighbor", "Ann")):
            row = {"query": f"{subject} was born in ___.", "answer": "Bonn", "subject": subject, "level": "1", "type": "cloze"}
            more = {"neighbor": subject} if split == "neighbor" else {}
            (place / f"{split}_level1.json").write_text(json.dumps([row | more]), "utf-8")
    return str(tmp_path / "people")


@pytest.fixture(autouse=True)
def _random_models_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count every item: a random model prefers no right answer, and the sweep needs a form that counts."""
    monkeypatch.setattr("formless.report.runs.ratios", plain_ratios)


def test_from_options_to_a_recipe_that_can_be_used(formless: Formless, model: str, data: str) -> None:
    options = ("--model", model, "--data", data, *SMALL, *ROCR)
    code, output, lines = formless("tune", *options)
    assert code == 0, lines
    assert "2 windows x 2 values of l2 x 2 concepts: 8 edits to compute and to measure" in lines
    assert "s to measure each of 8 edits, and seconds to compute it: about" in lines
    assert lines.index("8 edits to compute") < lines.index("s to measure each") < lines.index("layers_0-0_l2_1.0")
    assert "[10/10]" in lines
    found = yaml.safe_load(Path("tuned/recipe.yaml").read_text("utf-8"))
    chosen = found["methods"]["rocr"]
    assert chosen.keys() == {"basis", "redirect", "layers", "l2"}
    assert (chosen["basis"], chosen["redirect"]) == ("none", "auto")
    assert f"chosen: layers {chosen['layers']}, l2 {chosen['l2']:g}; recipe: tuned/recipe.yaml" in output
    evidence = found["evidence"]
    assert [row[:2] for row in evidence["rows"]] == [["0", 1.0], ["0", 10.0], ["1", 1.0], ["1", 10.0]]
    assert all(row[-1] == 2 and None not in row for row in evidence["rows"])
    assert evidence["command"] == f"formless tune {' '.join(options)}"
    assert (evidence["concepts"], evidence["suite"], evidence["limit"]) == (["Person 1", "Person 2"], "statement,fb", 2)
    assert (found["name"], found["source"]) == (model, model)

    assert "use it with --model tuned/recipe.yaml --method rocr" in output
    use = ("--model", "tuned/recipe.yaml", "--method", "rocr")
    code, output, lines = formless("unlearn", *use, "--target", "Person 1", "--out", "edit")
    assert code == 0, lines
    config = json.loads(Path("edit/edit.json").read_text("utf-8"))["config"]
    assert (config["layers"], config["l2"], config["basis"]) == (chosen["layers"], chosen["l2"], "none")

    code, output, lines = formless("tune", *options)  # nothing is measured twice
    assert code == 0
    assert "0 edits to compute" in lines
    assert "10 of them complete; 0 to do" in lines
    assert "begins" not in lines


def test_a_question_set_is_a_target_too(formless: Formless, model: str, data: str) -> None:
    folder = Path(data) / "3_Small_set"
    folder.mkdir()
    files: dict[str, list[dict[str, Any]]] = {
        "forget_qa": [{"question": "Where was Person 1 born?", "answer": "In Bonn."}],
        "concepts": [{"name": "Person 1"}, {"name": "Person 2"}],
    }
    for split in ("forget", "neighbor"):
        files[f"{split}_level1"] = [{"query": "Person 1 was born in ___.", "answer": "Bonn"}]
    for name, rows in files.items():
        (folder / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    small = ("--window", "1", "--first-layers", "0", "--values", "1,10", "--suite", "fb", "--limit", "2", "--targets", "3")
    code, _, lines = formless("tune", "--model", model, "--data", data, *small, *ROCR)
    assert code == 0, lines
    assert yaml.safe_load(Path("tuned/recipe.yaml").read_text("utf-8"))["evidence"]["concepts"] == ["Small set"]


def test_the_removal_of_a_direction_is_tuned_by_default(formless: Formless, model: str, data: str) -> None:
    options = ("--window", "2", "--values", "0.04,0.8", "--set", "ridge=0.1", "--suite", "fb", "--limit", "2", "--targets", "1")
    code, output, lines = formless("tune", "--model", model, "--data", data, *options, "--out", "tuned")
    assert code == 0, lines
    assert "1 windows x 2 values of budget x 1 concepts: 2 edits" in lines
    found = yaml.safe_load(Path("tuned/recipe.yaml").read_text("utf-8"))
    own = found["methods"]["cdr"]
    assert own == {"ridge": 0.1, "layers": [0, 1], "budget": found["evidence"]["chosen"]["budget"]}
    assert f"chosen: layers [0, 1], budget {own['budget']:g}" in output
    evidence = found["evidence"]
    assert (evidence["method"], [row[:2] for row in evidence["rows"]]) == ("cdr", [["0-1", 0.04], ["0-1", 0.8]])
    edit = unlearn(load("tuned/recipe.yaml"), "Person 1")
    assert edit.info.method == "cdr"
    assert {name: edit.info.config[name] for name in own} == own


def test_more_values_later_measure_only_those(formless: Formless, model: str, data: str) -> None:
    options = ("--model", model, "--data", data, *ROCR)
    narrow = ("--window", "2", "--suite", "fb", "--limit", "2", "--targets", "2")
    assert formless("tune", *options, *narrow, "--values", "1")[0] == 0
    code, _, lines = formless("tune", *options, *narrow, "--values", "1,10")
    assert code == 0
    assert "1 windows x 2 values of l2 x 1 concepts: 1 edits to compute" in lines
    assert yaml.safe_load(Path("tuned/recipe.yaml").read_text("utf-8"))["evidence"]["concepts"] == ["Person 2"]


@pytest.mark.slow
def test_a_killed_command_goes_on(formless: Formless, model: str, data: str, tmp_path: Path) -> None:
    options = ["tune", "--model", model, "--data", data, *SMALL, *ROCR]
    environment = os.environ | {"FORMLESS_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen([*COMMAND, *options], env=environment, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 120
        while len(list(Path("tuned").glob("runs/*/*/*/*/run.json"))) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    done = {path: path.stat().st_mtime_ns for path in Path("tuned").glob("runs/*/*/*/*/run.json")}
    assert 3 <= len(done) < 10
    assert not Path("tuned/recipe.yaml").exists()
    code, _, lines = formless(*options)
    assert code == 0, lines
    assert f"{len(done)} of them complete; {10 - len(done)} to do" in lines
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert all(row[-1] == 2 for row in yaml.safe_load(Path("tuned/recipe.yaml").read_text("utf-8"))["evidence"]["rows"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "ga"), "ga has no layers to tune [--method]: choose from cdr, rocr"),
        (("--method", "cdrr"), "unknown method 'cdrr'"),
        (("--values", "1,b"), "'1,b' is not a list of numbers [--values]: e.g. 2,4,8"),
        (("--window", "1", "--values", "-1"), "a setting of cdr is wrong (Input should be greater than 0"),
        (("--window", "1", "--values", "nan"), "a setting of cdr is wrong (Input should be a finite number"),
        (("--window", "1", "--set", "budget=0.02"), "budget is what is swept [--set]: choose it with --values"),
        (("--window", "3"), "a window of 3 layers does not fit into the first half of 4 layers [--window]: give 1 to 2"),
        (("--first-layers", "0,0"), "layer 0 is given twice [--first-layers]"),
        (("--window", "1", "--first-layers", "2"), "a window from layer 2 does not fit"),
        (("--window", "1", "--set", "layers=[1]"), "layers is what is swept [--set]"),
        (("--window", "1", "--set", "nonsense=1"), "cdr has no such setting"),
        (("--window", "1", "--targets", "9"), "unknown target '9'"),
        (("--window", "1", "--suite", "nonsense"), "unknown suite or task 'nonsense'"),
        (("--dtype", "float8"), "unknown dtype 'float8' [--dtype]"),
    ],
)
def test_bad_input_is_one_line(formless: Formless, model: str, data: str, options: tuple[str, ...], message: str) -> None:
    code, _, lines = formless("tune", "--model", model, "--data", data, "--out", "tuned", *options)
    last = lines.strip().splitlines()[-1]
    assert code == 2
    assert message in last
    assert not Path("tuned/recipe.yaml").exists()


def test_missing_null_spaces_are_named_before_anything_is_measured(formless: Formless, model: str, data: str) -> None:
    small = ("--method", "rocr", "--window", "1", "--first-layers", "0,1", "--out", "tuned")
    code, _, lines = formless("tune", "--model", model, "--data", data, *small)
    assert code == 2
    last = lines.strip().splitlines()[-1]
    assert "no null space is shipped" in last
    assert "`formless stats --layers 0,1` and give them as --set basis=DIR, or preserve nothing with --set basis=none" in last
    assert not Path("tuned").exists()


def write(path: Path, **keys: Any) -> str:
    path.write_text(yaml.safe_dump(keys), "utf-8")
    return str(path)


def test_a_recipe_names_a_model_and_its_settings(model: str, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", name="mine", source=model, methods={"rocr": {"l2": 7}}, evidence={"n": 4})
    assert find_model(path).methods == {"rocr": {"l2": 7}}
    bundled = write(tmp_path / "own.yml", name="smollm2", source="bundled")
    assert settings_for(bundled).methods == {}  # its own, not the shipped ones


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"name": "mine"}, r"the recipe of a model is wrong \[mine.yaml, source\]: Field required"),
        ({"name": "mine", "source": "nowhere/at/all"}, r"unknown model 'nowhere/at/all' \[mine.yaml, source\]"),
        ({"name": "smollm3", "source": "bundled"}, r"unknown bundled model 'smollm3' \[mine.yaml, name\]"),
        ({"name": "mine", "source": "a/b", "colour": 1}, r"the recipe of a model is wrong \[mine.yaml, colour\]"),
    ],
)
def test_a_wrong_recipe_is_one_line(formless: Formless, keys: dict[str, Any], message: str) -> None:
    write(Path("mine.yaml"), **keys)
    code, _, lines = formless("unlearn", "--model", "mine.yaml", "--target", "Ann", "--out", "edit")
    assert code == 2
    assert re.search(message, lines.strip().splitlines()[-1]), lines


def test_a_recipe_that_is_no_text(formless: Formless) -> None:
    Path("mine.yaml").write_bytes(b"\xff\xfe")
    code, _, lines = formless("chat", "--model", "mine.yaml", "Hello?")
    assert (code, len(lines.strip().splitlines())) == (2, 1)
    assert "the recipe cannot be read [mine.yaml]: save it as UTF-8" in lines
    Path("mine.yaml").write_text("a: 1\na: 2\n")
    code, _, lines = formless("chat", "--model", "mine.yaml", "Hello?")
    assert (code, len(lines.strip().splitlines())) == (2, 1)
    assert "the recipe of a model is not YAML [mine.yaml]" in lines

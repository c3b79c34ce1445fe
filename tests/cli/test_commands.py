"""The commands as users type them, on the real small model."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from formless.cli import terminal
from formless.cli.main import main
from formless.report.tables import Table

COMMAND = [sys.executable, "-m", "formless"]


def formless(*arguments: str, cwd: Path) -> str:
    result = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, cwd=cwd, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_from_unlearning_to_a_report(tmp_path: Path) -> None:
    output = formless("unlearn", "--target", "Albert Einstein", "--out", "edits/einstein", cwd=tmp_path)
    assert "cdr edited Albert Einstein" in output
    files = {path.name for path in (tmp_path / "edits" / "einstein").iterdir()}
    assert files == {"adapter_model.safetensors", "adapter_config.json", "edit.json"}

    options = ("--edit", "edits/einstein", "--target", "1_Albert_Einstein", "--suite", "statement,qa")
    output = formless("eval", *options, "--out", "r.json", "--report", "r.html", cwd=tmp_path)
    assert "Albert Einstein, smollm2" in output
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["edits"][0]["subject"] == "Albert Einstein"
    assert [result["task"] for result in record["tasks"]] == ["statement", "qa"] * 2
    assert "formless eval --edit edits/einstein" in (tmp_path / "r.html").read_text()

    output = formless("eval", "--target", "Albert Einstein", "--suite", "qa", "--out", "original.json", cwd=tmp_path)
    assert "Values are probabilities of the right answer" in output
    assert json.loads((tmp_path / "original.json").read_text())["edits"] == []

    question = "Who was Albert Einstein?"
    before = formless("chat", question, "--tokens", "30", cwd=tmp_path)
    after = formless("chat", "--edit", "edits/einstein", question, "--tokens", "30", cwd=tmp_path)
    assert "physicist" in before
    assert "physicist" not in after


@pytest.mark.slow
def test_from_runs_to_forgetting_at_equal_retention(tmp_path: Path) -> None:
    options = ("--method", "original,rocr", "--targets", "1", "--suite", "statement,qa", "--out", "runs")
    formless("run", *options, cwd=tmp_path)
    files = ("--csv", "levels.csv", "--curves", "curves.csv")
    output = formless("frontier", "runs", "--strengths", "0.5,1,2", *files, cwd=tmp_path)
    assert "1 measured before, 2 now" in output
    curve = list(csv.DictReader((tmp_path / "curves.csv").open(encoding="utf-8")))
    forgetting = [float(row["value"]) for row in curve if row["metric"] == "forgetting"]
    assert forgetting[0] == 0 < forgetting[1] < forgetting[2]
    output = formless("frontier", "runs", "--strengths", "0.5,1,2", cwd=tmp_path)
    assert "3 measured before, 0 now" in output
    assert "forgetting at equal retention" in output


@pytest.mark.slow
def test_from_runs_to_what_attacks_bring_back(tmp_path: Path) -> None:
    options = ("--method", "original,rocr", "--targets", "1", "--suite", "fb,gen_fb", "--out", "runs")
    formless("run", *options, cwd=tmp_path)
    attacks = ("--attacks", "relearn_4,q8_0", "--points", "1", "--batch", "8", "--learning-rate", "1e-4", "--epochs", "10")
    output = formless("attack", "runs", *attacks, "--csv", "attacks.csv", cwd=tmp_path)
    assert "0 measured before, 3 now" in output
    rows = list(csv.DictReader((tmp_path / "attacks.csv").open(encoding="utf-8")))
    found = {(row["attack"], row["metric"], row["task"]): float(row["value"]) for row in rows}
    assert found["q8_0", "forgetting", "fb"] == pytest.approx(found["q8_0", "forgetting_before", "fb"], abs=0.1)
    assert found["relearn_4", "forgetting", "fb"] < found["relearn_4", "forgetting_before", "fb"]
    assert 0 < found["q8_0", "half_step_share", ""] < 1
    assert "rocr: worst-case recall " in (tmp_path / "runs" / "attacks.html").read_text("utf-8")
    assert "3 measured before, 0 now" in formless("attack", "runs", *attacks, cwd=tmp_path)


@pytest.mark.slow
def test_the_demo_prints_the_report_last(tmp_path: Path) -> None:
    output = formless("demo", "--target", "Paris", "--suite", "statement,qa,gen_qa", cwd=tmp_path)
    assert re.match(r"Paris edited in \d+\.\d\d s \(cdr, no training\)\n", output)
    assert " facts that the original model knew about Paris, the edited model " in output.splitlines()[1]
    last = output.strip().splitlines()[-1]
    assert last == f"report: {tmp_path / 'demo' / 'report.html'}"
    assert Path(last.removeprefix("report: ")).read_text().startswith("<!doctype html>")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("ten years")
    result = subprocess.run([*COMMAND, "demo", "--out", "work"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 2
    assert "something else is there" in result.stderr
    assert (tmp_path / "work" / "thesis.txt").exists()
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {"edit", "original.json", "unlearned.json", "report.html"}


def test_the_doctor_knows_what_is_ready(tmp_path: Path) -> None:
    output = formless("doctor", "--model", "smollm2", cwd=tmp_path)
    assert "bundled, 135 M parameters" in output
    assert re.search(r"^cdr +layers \[4, 5, 6, 7, 8\]$", output, re.MULTILINE)
    assert re.search(r"^rocr +layers \[4, 5, 6\], null spaces ready$", output, re.MULTILINE)


def test_listings(tmp_path: Path) -> None:
    assert "meta-llama/Meta-Llama-3-8B-Instruct" in formless("models", cwd=tmp_path)
    assert "rocr" in formless("methods", cwd=tmp_path)


VERBS = [
    "unlearn",
    "eval",
    "summarize",
    "stats",
    "tune",
    "chat",
    "demo",
    "models",
    "methods",
    "doctor",
    "attack",
    "export",
    "probe",
    "targets",
    "export-tasks",
    "finetune",
]
DATA_VERBS = ["data prepare", "data forms", "data train", "data new", "data import", "data check"]


@pytest.mark.parametrize("verb", VERBS + DATA_VERBS)
def test_help_has_an_example(verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["formless", *verb.split(), "--help"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    assert f"Example: formless {verb}" in " ".join(capsys.readouterr().out.split())


def test_formless_alone_shows_how_to_start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["formless"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for example in ("formless demo", "formless unlearn --target", "formless eval --edit", "formless chat --edit"):
        assert example in shown


@pytest.mark.parametrize(
    "arguments", ["eval", "eval --nope", "stats --corpus c -o o --samples 0", "chat hi --tokens x", "fly", "data", "data fly"]
)
def test_wrong_usage_is_one_line(arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["formless", *arguments.split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.out.print("saved in edits/[v1] :apple: [/x]")
    terminal.show_table(Table("a [title]", ("name", "value"), (("[bold]", ":apple:"),)))
    printed = capsys.readouterr().out
    assert "saved in edits/[v1] :apple: [/x]" in printed
    assert "a [title]" in printed
    assert "[bold]" in printed
    assert printed.count(":apple:") == 2

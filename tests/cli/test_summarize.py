import csv
import re
import sys
from pathlib import Path

import pytest

from formless.cli import terminal
from formless.cli.main import main
from formless.evaluation.loading import load_record
from formless.report.tables import Table
from tests.report.evaluations import tofu, write
from tests.report.made_runs import fail_run, made_run, write_plan, write_runs
from tests.report.test_independence import pair


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["formless", "summarize", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


@pytest.fixture
def records(tmp_path: Path) -> Path:
    for number in (1, 2, 3):
        original, edited = pair({"fb": (0.4, 0.1), "qa": (0.2, 0.1)}, {"fb": (0.5, 0.4)}, f"{number}_Ada")
        original.save(tmp_path / "original" / f"{number}.json")
        edited.save(tmp_path / "rocr" / f"{number}.json")
    return tmp_path


def test_targets_are_averaged_against_the_original(
    records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (records / "original" / "3.json").unlink()
    (records / "edit.json").write_text("{}")
    code, out, err = run(monkeypatch, capsys, records, "--details")
    assert code == 0
    assert "m (float32), ort, rocr {}: 2 targets" in out
    for words in ("forgetting", "0.750", "form gap", "0.250", "combined"):
        assert words in out
    assert "left out: 1 records without the original model's record" in err
    assert "left out: 1 JSON files that are no records" in err


def test_what_cannot_be_averaged_is_one_line(
    records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (records / "rocr" / "again.json").write_bytes((records / "rocr" / "1.json").read_bytes())
    (records / "empty").mkdir()
    (records / "broken.json").write_text("{")
    for arguments, said in (
        ([records / "original", records / "rocr"], "two records of m (float32), ort, rocr {}"),
        ([records / "rocr" / "2.json"], "no edited model's record has its original beside it"),
        ([records / "empty"], "no records"),
        ([records / "broken.json"], "the record cannot be read"),
    ):
        code, _, err = run(monkeypatch, capsys, *arguments)
        assert code == 2
        assert said in err.splitlines()[-1]


def test_unlike_records_are_never_averaged(
    records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = load_record(records / "rocr" / "1.json")
    stranger.edits[0]["subject"] = "Somebody else"
    stranger.save(records / "rocr" / "1.json")
    quick = load_record(records / "rocr" / "2.json").model_copy(update={"suite": "quick", "limit": 12})
    quick.save(records / "rocr" / "2.json")
    code, out, err = run(monkeypatch, capsys, records)
    assert code == 0
    assert "left out: 1 records of an edit about another concept" in err
    for model in ("m (float32), ort: means over targets", "m (float32), quick of 12 rows: means over targets"):
        assert re.search(rf"{re.escape(model)} *\n(?:.*\n)+?rocr {{}} +1 ", out)


def test_a_folder_of_runs_becomes_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    runs = write_runs(tmp_path / "runs", ("original", "rocr", "ga"), targets=3, seeds=(1, 2))
    failed, missing = made_run("npo", "1_Person_1"), made_run("npo", "2_Person_2")
    fail_run(tmp_path / "runs", failed)
    write_plan(tmp_path / "runs", [*runs, failed, missing])
    files = [tmp_path / name for name in ("s.csv", "s.md", "s.tex")]
    options = [part for name, file in zip(("--csv", "--markdown", "--latex"), files, strict=True) for part in (name, file)]
    code, out, err = run(monkeypatch, capsys, tmp_path / "runs", *options)
    assert code == 0
    assert re.search(r"^rocr +3 +0\.\d+ ", out, re.MULTILINE)
    assert re.search(r"^npo +0 +– +– ", out, re.MULTILINE)
    assert "does not count: npo: 1 runs failed, 1 runs missing" in out
    assert "failed: tiny npo seed 0 1_Person_1: RuntimeError: boom" in err
    table = list(csv.DictReader(files[0].open(encoding="utf-8")))
    assert [row["method"] for row in table] == ["original", "rocr", "ga", "npo"]
    assert [row["seeds"] for row in table] == ["1", "2", "2", "0"]
    assert "### tiny, ga: 3 targets" in files[1].read_text("utf-8")
    assert r"\bottomrule" in files[2].read_text("utf-8")
    code, _, err = run(monkeypatch, capsys, tmp_path / "runs", *options)
    assert code == 2
    assert "the output exists already" in err
    assert run(monkeypatch, capsys, tmp_path / "runs", *options, "--force", "--baseline", "rocr")[0] == 0
    table = list(csv.DictReader(files[0].open(encoding="utf-8")))
    assert [row["combined.difference"] != "" for row in table] == [False, False, True, False]


@pytest.mark.parametrize("width", [80, 200])
def test_one_table_with_methods_as_rows_and_no_broken_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, width: int
) -> None:
    methods = ("original", "rocr", "ga", "direction-unbounded-long")
    write_runs(tmp_path, methods, targets=6)
    monkeypatch.setattr(terminal.out, "_width", width)
    code, out, _ = run(monkeypatch, capsys, tmp_path)
    assert code == 0
    assert max(map(len, out.splitlines())) <= width
    title, *heads, rule, first, second, third, fourth = out.rstrip().splitlines()
    assert title.rstrip() == "tiny: means over targets"
    assert set(rule.rstrip()) == {"─"}
    assert [line.split()[:2] for line in (first, second, third, fourth)] == [[method, "6"] for method in methods]
    words = " ".join(heads).split()
    assert {"method", "targets", "forgetting", "retention", "combined", "form", "gap"} <= set(words)
    assert ("CI" in words) == (width == 200)
    shown = len(second.replace(" … ", "…").split())
    assert {len(line.replace(" … ", "…").split()) for line in (first, third, fourth)} == {shown}
    assert shown >= (12 if width == 200 else 6)


def test_a_long_name_stands_under_the_table(
    records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, file in enumerate(sorted((records / "rocr").glob("*.json"))):
        record = load_record(file)
        record.edits[0]["config"] = {"layers": [4, 5, 6], "redirect": "auto", "value": min(number, 1)}
        record.save(file)
    monkeypatch.setattr(terminal.out, "_width", 80)
    _, out, _ = run(monkeypatch, capsys, records)
    assert re.search(r"^rocr \(1\) +1 ", out, re.MULTILINE)
    assert re.search(r"^rocr \(2\) +2 ", out, re.MULTILINE)
    assert 'rocr (2): rocr {"layers": [4, 5, 6], "redirect": "auto", "value": 1}' in out


def test_seeds_of_loose_records_are_one_method(
    records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in sorted((records / "rocr").glob("*.json")):
        for seed in (1, 2):
            record = load_record(file)
            record.edits[0]["config"]["seed"] = seed
            record.save(records / "seeds" / f"{seed}_{file.name}")
        file.unlink()
    code, out, _ = run(monkeypatch, capsys, records)
    assert code == 0
    assert re.search(r"^rocr {} +3 ", out, re.MULTILINE)


def test_runs_without_an_original_cannot_be_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_runs(tmp_path, ("rocr",), targets=2)
    code, _, err = run(monkeypatch, capsys, tmp_path)
    assert code == 2
    assert "run the method original" in err
    code, _, err = run(monkeypatch, capsys, tmp_path, "--baseline", "roc")
    assert code == 2
    assert "did you mean rocr?" in err
    code, _, err = run(monkeypatch, capsys, tmp_path, "--csv", tmp_path / "a", "--latex", tmp_path / "a")
    assert code == 2
    assert "two outputs have the same path" in err


def test_what_does_not_count_is_said_even_without_rows(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_table(Table("form independence", ("metric",), (), "Question (1 of 11 items known)"))
    assert "form independence: does not count: Question (1 of 11 items known)" in capsys.readouterr().out
    terminal.show_table(Table("empty", ("metric",), ()))
    assert capsys.readouterr().out == ""


def test_evaluations_of_open_unlearning_are_rows_of_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_runs(tmp_path / "runs", ("original", "rocr"), targets=2)
    folder = write(tmp_path / "saves" / "NPO" / "evals", tofu()).parent
    files = [tmp_path / name for name in ("s.csv", "s.md", "s.tex")]
    options = [part for name, file in zip(("--csv", "--markdown", "--latex"), files, strict=True) for part in (name, file)]
    monkeypatch.setattr(terminal.out, "_width", 400)
    code, out, _ = run(monkeypatch, capsys, tmp_path / "runs", tmp_path / "saves", *options)
    assert code == 0
    assert out.count("means over targets") == 1
    assert re.search(r"^runs/rocr +2 ", out, re.MULTILINE)
    assert re.search(r"^NPO \[open-unlearning\] +1 .*0\.600", out, re.MULTILINE)
    assert f"NPO [open-unlearning]: {folder}" in out
    assert "Rows of open-unlearning are over the items of one forget set" in out
    *ours, theirs = csv.DictReader(files[0].open(encoding="utf-8"))
    assert [row["tool"] for row in ours] == ["formless", "formless"]
    assert (theirs["tool"], theirs["folder"], theirs["model"]) == ("open-unlearning", str(folder), "")
    assert (theirs["answer.forget.probability"], theirs["answer.forget.probability.n"]) == ("0.25", "4")
    assert theirs["model_utility.model_utility"] == "0.6"
    assert "model_utility.model_utility.n" not in theirs  # the file does not tell the items
    assert [row["answer.forget.probability"] for row in ours] == ["", ""]
    assert all("NPO [open-unlearning]" in file.read_text("utf-8") for file in files[1:])
    code, out, _ = run(monkeypatch, capsys, tmp_path / "saves")
    assert code == 0
    assert "open-unlearning: means over targets" in out


def test_a_broken_evaluation_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_runs(tmp_path / "runs", ("original", "rocr"), targets=2)
    broken = write(tmp_path / "saves", '{"forget_Q_A_Prob": {"agg_value": NaN}}')
    for place in (broken, broken.parent):
        code, _, err = run(monkeypatch, capsys, tmp_path / "runs", place)
        assert code == 2
        assert "the evaluation cannot be read: " in err.splitlines()[-1]
    write(tmp_path / "saves" / "NPO", tofu())
    code, _, err = run(monkeypatch, capsys, tmp_path / "runs", tmp_path / "saves")
    assert code == 0
    assert "left out: 1 unreadable evaluation of open-unlearning: the evaluation cannot be read: " in err

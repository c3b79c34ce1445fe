"""`formless data prepare`: what it prints and refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import typer

from formless.cli import main as command
from formless.cli.data import parse_numbers, prepare_command
from formless.errors import UserError

Prepare = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Prepare:
    """Run the verb beside the data set: exit code, lines of output, lines of errors."""
    data = typer.Typer()
    data.command("prepare")(prepare_command)
    app = typer.Typer()
    app.add_typer(data, name="data")
    data.callback()(lambda: None)
    monkeypatch.setattr(command, "app", app)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "none")
    monkeypatch.chdir(tmp_path)

    def run(arguments: str) -> tuple[int, list[str], list[str]]:
        monkeypatch.setattr(sys, "argv", ["formless", "data", "prepare", *arguments.split()])
        with pytest.raises(SystemExit) as stop:
            command.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out.splitlines(), captured.err.splitlines()

    return run


def test_it_says_what_is_there_and_what_is_not(prepare: Prepare, target_folder: Path, tmp_path: Path) -> None:
    other = target_folder.parent / "2_Bob"
    other.mkdir()
    for split in ("forget_level1", "forget_level2"):
        (other / f"{split}.json").write_bytes((target_folder / f"{split}.json").read_bytes())
    code, lines, errors = prepare("--source data --out out --train none")
    assert (code, lines[0], lines[-1]) == (0, "data: 2 targets, 10 files, 13 rows", "saved in out")
    assert "absent: passage.json (all 2 targets)" in lines
    assert "absent: forget_mcp.json (2_Bob)" in lines
    assert not any("positive" in line for line in lines)
    assert len(errors) > 1
    assert all(line.startswith("preparing: ") for line in errors)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))["source"] == "data"


def test_subjects_that_are_no_target_are_named(prepare: Prepare, tmp_path: Path) -> None:
    rows = {
        "forget_target": [{"target": "Ada", "intro": "Ada."}],
        "forget_level1": [{"query": "Ada ___.", "answer": "x", "subject": name} for name in ("Ada", "[red]", "Bob", "Bob")],
        "forget_level2": [{"query": "Ada?", "answer": "x", "subject": "Ada"}],
    }
    for name, entries in rows.items():
        path = tmp_path / "copy" / name / "train.parquet"
        path.parent.mkdir(parents=True)
        datasets.Dataset.from_list(entries).to_parquet(path)
    code, lines, _ = prepare("--source copy -o out --targets 1")
    assert code == 0
    assert "left out: 3 rows of Bob, [red], not in the list of targets" in lines


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--source none --out out", "no such data folder [none]"),
        ("--source data --out data", "the output exists already [data]"),
        ("--source data --out data/out", "the output and the source overlap [data/out]: choose another --out"),
        ("--source data --out taken", "the output exists already [taken]"),
        ("--source data --out taken --force", "something else is there, not to be replaced [taken]"),
        ("--source data --out out --targets 2", "no target has the number 2"),
        ("--source data --out out --targets one", "'one' is no list of target numbers [--targets]: e.g. 1-100 or 1,5,9-12"),
        ("--source data --out out --train lama3", "unknown training texts 'lama3' [--train]: did you mean llama3?"),
        ("--source rwku --out out", "[jinzhuoran/RWKU]: load it once without it, or give a folder"),
        ("--source broken --out out", "the data set cannot be read"),
        ("--out out", "--source"),
        ("--source data", "--out"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    prepare: Prepare, tmp_path: Path, target_folder: Path, arguments: str, said: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis").write_text("ten years of work", "utf-8")
    (tmp_path / "broken" / "forget_target").mkdir(parents=True)
    (tmp_path / "broken" / "forget_target" / "a.parquet").write_bytes(b"no parquet")
    before = sorted(tmp_path.rglob("*"))
    code, lines, errors = prepare(arguments)
    assert (code, lines, len(errors)) == (2, [], 1), errors
    assert said in errors[0]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("1-100", [range(1, 101)]),
        ("1,5,9-12", [range(1, 2), range(5, 6), range(9, 13)]),
        (" 7 , 3-3", [range(7, 8), range(3, 4)]),
        ("0-999999999", [range(1_000_000_000)]),
    ],
)
def test_numbers_and_ranges(text: str, ranges: list[range]) -> None:
    assert parse_numbers(text) == ranges


@pytest.mark.parametrize("text", ["", ",", "1,", "5-1", "-3", "1-", "1--2", "1.5", "a", "1_0", "１", "1-2-3", "9" * 5000])
def test_what_is_no_list_of_numbers(text: str) -> None:
    with pytest.raises(UserError, match=r"no list of target numbers \[--targets\]"):
        parse_numbers(text)

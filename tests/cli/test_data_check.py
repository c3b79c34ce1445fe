"""`formless data check`: lines that name target, file and row; exit code 0, 1 or 2."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from formless.cli import main as command
from formless.cli.data import check_command

Check = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Run the verb: exit code, lines of output, lines of errors."""
    data = typer.Typer()
    data.command("check")(check_command)
    app = typer.Typer()
    app.add_typer(data, name="data")
    data.callback()(lambda: None)
    monkeypatch.setattr(command, "app", app)

    def run(*arguments: object) -> tuple[int, list[str], list[str]]:
        monkeypatch.setattr(sys, "argv", ["formless", "data", "check", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            command.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out.splitlines(), captured.err.splitlines()

    return run


def write(folder: Path, split: str, *rows: dict[str, str]) -> None:
    (folder / f"{split}.json").write_text(json.dumps(rows), "utf-8")


@pytest.fixture
def sound(target_folder: Path) -> Path:
    """A target with nothing wrong."""
    for path in target_folder.iterdir():
        path.unlink()
    for number, split in enumerate(("forget_level1", "forget_level2", "neighbor_level1", "neighbor_level2")):
        write(target_folder, split, {"query": f"Question {number}, ___?", "answer": "x"})
    return target_folder


def test_the_sample_is_sound(check: Check) -> None:
    code, lines, errors = check("sample")
    assert (code, lines[-1], errors) == (0, "nothing is wrong", [])


def test_the_coverage_of_training_texts_is_shown(check: Check, sound: Path) -> None:
    (sound / "positive.json").write_text(json.dumps([{"text": "A question, and x."}]), "utf-8")
    code, lines, _ = check(sound)
    assert (code, lines[-2:]) == (0, ["facts in true texts: positive 1 of 1", "nothing is wrong"])
    (sound / "positive.json").write_text(json.dumps([{"text": "A question, and y."}]), "utf-8")
    assert "1_Ada_Lovelace, positive: facts that stand in no text: x" in check(sound, "--coverage")[1]
    assert not any("stand in no text" in line for line in check(sound)[1])
    (sound / "positive.json").write_text("[1]", "utf-8")
    code, lines, _ = check(sound, "--coverage")
    assert code == 1
    assert "facts in training texts: not counted, as something is broken" in lines


def test_absent_files_are_noted_in_few_lines(check: Check, sound: Path) -> None:
    other = sound.parent / "2_Bob"
    other.mkdir()
    for path in sound.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    write(other, "passage", {"text": "Bob"})
    code, lines, _ = check(sound.parent)
    assert code == 0
    assert len(lines) == 3
    assert lines[0].startswith("absent in 2 targets: intro, forget_level3, forget_mcp, ")
    assert lines[1:] == ["absent in 1 target: passage", "nothing is wrong"]


def test_what_is_wrong_is_named_and_counted(check: Check, sound: Path) -> None:
    write(sound, "forget_level2", {"query": "Who?", "answer": "[bold]x[/bold]"}, {"query": "Who", "answer": "Ada"}, {})
    (sound / "neighbor_level2.json").unlink()
    code, lines, errors = check(sound.parent)
    assert (code, errors) == (1, [])
    assert [line for line in lines if not line.startswith("absent")] == [
        "1_Ada_Lovelace, forget_level2, row 2: duplicated: the same question as row 1 with another answer, "
        "'Ada' for '[bold]x[/bold]': 'Who'",
        "1_Ada_Lovelace, forget_level2, row 3: broken: a row does not fit its format: field query: Field required",
        "1_Ada_Lovelace, neighbor_level2: missing: the file is not there",
        "1 missing, 1 broken, 1 duplicated",
    ]


def test_a_row_takes_one_line_and_no_control_characters(check: Check, sound: Path) -> None:
    write(sound, "forget_level2", {"query": "Who\nis \x1b[31m Ada " + "very " * 100 + "?", "answer": "Ada"})
    code, lines, _ = check(sound)
    assert code == 1
    assert len([line for line in lines if "forget_level2" in line]) == 1
    assert "\x1b" not in "".join(lines)
    assert max(map(len, lines[:-2])) < 300


def test_a_folder_whose_name_is_no_text(check: Check, sound: Path) -> None:
    try:
        sound.rename(sound.parent / "2_\udcff")
    except OSError:
        pytest.skip("the file system takes text only")
    code, lines, _ = check(sound.parent)
    assert code == 1
    assert any("the folder's name holds the invisible or control character U+DCFF" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "said"), [("none", "no such data folder [none]"), ("empty", "no targets in the folder [empty]")]
)
def test_no_data_set_is_an_error(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    code, lines, errors = check(name)
    assert (code, lines, len(errors)) == (2, [], 1)
    assert said in errors[0]


def test_a_folder_must_be_given(check: Check) -> None:
    code, _, errors = check()
    assert (code, len(errors)) == (2, 1)

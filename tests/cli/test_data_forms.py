"""`formless data forms` as people call it."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from formless.cli.data import forms_command
from formless.data.ort import find_target, targets
from formless.errors import UserError

app = typer.Typer()
app.command("forms")(forms_command)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three targets with level 1 alone."""
    for target in targets("sample")[:3]:
        assert target.folder
        new = tmp_path / target.folder.name
        new.mkdir()
        for path in target.folder.glob("*_level1.json"):
            shutil.copy(path, new)
    return tmp_path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_file_is_made_and_reported(data: Path) -> None:
    result = call("--data", data)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 3 * 4
    assert lines[0] == "1_Albert_Einstein/forget_mcp: 11 rows"
    assert len(find_target(data, "1").items("forget_mcp")) == 11


def test_one_form_of_one_target(data: Path) -> None:
    result = call("--data", data, "--forms", "tf", "--target", "Isaac Newton")
    assert result.exit_code == 0, result.output
    assert {path.name for path in data.rglob("*.json")} == {
        "forget_level1.json", "neighbor_level1.json", "forget_tf.json", "neighbor_tf.json",
    }  # fmt: skip
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == [
        "2_Isaac_Newton/forget_tf", "2_Isaac_Newton/neighbor_tf",
    ]  # fmt: skip


def test_dropped_rows_are_reported_with_their_reason(data: Path) -> None:
    path = data / "1_Albert_Einstein" / "forget_level1.json"
    path.write_text(
        '[{"query": "Where was he born?", "answer": "Ulm"}, {"query": "He was born in ___.", "answer": "Ulm"}]', "utf-8"
    )
    result = call("--data", data, "--forms", "tf", "--target", "1")
    assert "1_Albert_Einstein/forget_tf: 1 rows; dropped 1: a question without a blank" in result.stdout


def test_true_or_false_asks_no_server(data: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    assert call("--data", data, "--forms", "tf", "--with", url).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--forms", "mcp,quiz"], "unknown form 'quiz' [--forms]"),
        (["--forms", ""], "unknown form '' [--forms]"),
        (["--target", "Isaac Newtown"], "did you mean"),
        (["--with", "offlin"], "not a server's URL [--with]: give 'offline' or a URL"),
        (["--server-model", "big"], "--server-model needs a server [--server-model]: add --with URL"),
        (["--data", "none"], "no such data folder [none]"),
        (["--data", "sample", "--force"], "the built-in sample cannot be changed [--data]: copy "),
    ],
)
def test_bad_options_are_told_and_nothing_is_written(data: Path, arguments: list[str], said: str) -> None:
    before = contents(data)
    result = call("--data", data, *arguments)
    assert isinstance(result.exception, UserError)
    assert said in str(result.exception)
    assert contents(data) == before


def test_existing_files_need_force(data: Path) -> None:
    assert call("--data", data).exit_code == 0
    before = contents(data)
    again = call("--data", data, "--seed", "3")
    assert isinstance(again.exception, UserError)
    assert "exists already" in str(again.exception)
    assert contents(data) == before
    assert call("--data", data, "--seed", "3", "--force").exit_code == 0
    assert contents(data) != before

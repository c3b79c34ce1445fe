"""`formless data edit-questions`: what is refused before a model is loaded, and a real model that writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from formless.cli import terminal
from formless.cli.data import edit_questions_command
from formless.data.target import Target
from formless.errors import OutputError, UserError
from formless.models.lm import LM

app = typer.Typer()
app.command()(edit_questions_command)


def write(*arguments: str) -> None:
    app(list(arguments), standalone_mode=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of one target, with its names alone."""
    target = tmp_path / "data" / "1_William_Shakespeare"
    target.mkdir(parents=True)
    entries = [
        {"name": "William Shakespeare", "person": True, "short": "Shakespeare"},
        {"name": "Isaac Newton", "person": True, "short": "Newton"},
    ]
    (target / "aliases.json").write_text(json.dumps(entries))
    return target


def test_the_sample_and_an_older_file_are_refused_before_a_model_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "load_model", lambda *_: pytest.fail("the model was loaded first"))
    with pytest.raises(UserError, match="the built-in sample cannot be changed"):
        write("--data", "sample", "-t", "1")
    (folder / "edit_reverse.json").write_text("[]")
    with pytest.raises(OutputError, match="exists already"):
        write("--data", str(folder.parent), "-t", "1")


@pytest.mark.slow
def test_the_small_model_writes_questions_that_an_edit_can_use(
    lm: LM, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "load_model", lambda *_: lm)
    write("--data", str(folder.parent), "-t", "1", "--count", "12")
    rows = Target("William Shakespeare", folder).items("edit_reverse")
    own = [row for row in rows if row.neighbor is None]
    assert own
    assert {row.answer for row in own} == {"William Shakespeare"}
    assert {row.neighbor for row in rows} <= {None, "Isaac Newton"}
    assert f"{len(own)} questions about William Shakespeare, {len(rows) - len(own)} about neighbors" in capsys.readouterr().out

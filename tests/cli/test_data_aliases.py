"""`formless data aliases`: names that a model proposes, edited by hand, then used by an edit."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from formless.cli import terminal
from formless.cli.main import main
from formless.data.ort import data_folder
from formless.models.lm import LM

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["formless", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def model(tiny: Callable[..., LM], monkeypatch: pytest.MonkeyPatch) -> LM:
    """A tiny model that answers every question alike."""
    lm = tiny()
    monkeypatch.setattr(terminal, "load_model", lambda *_: lm)
    monkeypatch.setattr(LM, "generate", lambda _, prompts, **__: [" Zorvath the Great, or Quill the poet."] * len(prompts))
    return lm


def test_proposals_are_shown_edited_and_used(command: Command, model: LM) -> None:
    code, out, err = command("data", "aliases", "-t", "Zorvath  Quill", "-o", "mine")
    assert code == 0, err
    assert out.splitlines() == [
        "Zorvath Quill: the model proposes Zorvath the Great",
        "left out, as it is no name: Quill the poet",
        "neighbors: none, so none will stay: add some",
        "saved in mine/1_Zorvath_Quill/aliases.json; edit it before `formless unlearn --data mine` uses it",
    ]
    path = Path("mine/1_Zorvath_Quill/aliases.json")
    (entry,) = json.loads(path.read_text("utf-8"))
    assert entry == {"name": "Zorvath Quill", "aliases": ["Zorvath the Great"]}
    unlearn = ("unlearn", "-t", "Zorvath Quill", "-o", "edit", "--dry-run")
    assert "2 spellings (Zorvath Quill, zorvath quill) will" in command(*unlearn)[1]  # not without --data
    path.write_text(json.dumps([entry | {"aliases": ["The Quill"]}, {"name": "Other Quill"}]), "utf-8")
    assert command(*unlearn, "--data", "mine")[1].splitlines()[:2] == [
        "Zorvath Quill: 3 spellings (Zorvath Quill, zorvath quill, The Quill) will be edited",
        "1 neighbor (Other Quill) will stay",
    ]
    assert command("data", "aliases", "-t", "Zorvath Quill", "-o", "mine", "--force")[0] == 0
    assert [one["name"] for one in json.loads(path.read_text("utf-8"))] == ["Zorvath Quill", "Other Quill"]


def test_a_redirect_concept_is_no_name_of_the_target(command: Command, model: LM) -> None:
    out = command("data", "aliases", "-t", "Zorvath Quill", "-o", "mine", "--redirect", "Zorvath the Great")[1]
    assert "left out, as it names Zorvath the Great: Zorvath the Great\n" in out


def test_what_is_refused_before_a_model_is_loaded(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "load_model", lambda *_: pytest.fail("the model was loaded first"))
    Path("mine/1_Ada").mkdir(parents=True)
    Path("mine/1_Ada/aliases.json").write_text("[{", "utf-8")
    for arguments, said in {
        ("-t", "Ada", "-o", "mine"): "exists already",
        ("-t", "Ada", "-o", "mine", "--force"): "aliases.json",
        ("-t", "ada", "-o", "mine"): "the data set spells it 'Ada' [--target]",
        ("-t", "Ada", "-o", str(data_folder("sample"))): "the built-in sample cannot be changed",
        ("-t", " ", "-o", "other"): "the value of -t is empty",
    }.items():
        code, out, err = command("data", "aliases", *arguments)
        assert (code, out, len(err.splitlines())) == (2, "", 1), err
        assert said in err
    assert not Path("other").exists()


@pytest.mark.slow
def test_the_small_model_proposes_names(lm: LM, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(terminal, "load_model", lambda *_: lm)
    code, out, err = command("data", "aliases", "-t", "William Shakespeare", "-o", "mine")
    assert code == 0, err
    assert out.startswith("William Shakespeare: the model proposes ")

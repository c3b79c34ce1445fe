"""What the shell proposes: names of models, methods, targets, suites and tasks, without importing torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from formless.cli.main import app
from formless.data.ort import targets
from formless.methods.registry import METHODS
from formless.models.settings import model_settings
from tests.cli.test_start import SHOW_IMPORTS

Complete = Callable[..., list[str]]


def asked(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setenv("_FORMLESS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(["formless", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Complete:
    """What bash proposes for the last word of a command; an empty one is the word that has not begun."""

    def run(*words: str) -> list[str]:
        asked(monkeypatch, *words)
        with pytest.raises(SystemExit) as stopped:
            app(prog_name="formless")
        assert stopped.value.code == 0
        return capsys.readouterr().out.split()

    return run


@pytest.mark.parametrize(
    ("words", "proposed"),
    [
        (["chat", "--model", "smo"], ["smollm2"]),
        (["models", "qw"], ["qwen2.5-coder-1.5b", "qwen2.5"]),
        (["unlearn", "--method", "dpo"], ["dpo", "dpo_reject"]),
        (["methods", "dpo_"], ["dpo_reject"]),
        (["run", "sample", "--method", "original,ro"], ["original,rocr"]),
        (["eval", "--target", "4"], ["4_Marie_Curie"]),
        (["eval", "--target", "11_"], ["11_Paris"]),
        (["targets", "2"], ["2_Isaac_Newton"]),
        (["run", "sample", "--targets", "4_Marie_Curie,2"], ["4_Marie_Curie,2_Isaac_Newton"]),
        (["eval", "--suite", "letter"], ["letters"]),
        (["eval", "--suite", "qa,mml"], ["qa,mmlu"]),
        (["eval", "--target", "x", "--data", "none", "--target", "4"], []),
        (["unlearn", "--target", "4"], []),
        (["unlearn", "--data", "sample", "--target", "4"], ["4_Marie_Curie"]),
        (["targ"], ["targets"]),
    ],
)
def test_names_are_proposed(complete: Complete, words: list[str], proposed: list[str]) -> None:
    assert complete(*words) == proposed


def test_a_word_that_has_not_begun_has_every_name(complete: Complete) -> None:
    assert complete("methods", "") == list(METHODS)
    assert complete("demo", "--model", "") == list(model_settings())
    assert complete("targets", "") == [target.folder.name for target in targets("sample") if target.folder]


def test_targets_are_those_of_the_data(complete: Complete, target_folder: Path) -> None:
    assert complete("eval", "--data", str(target_folder.parent), "--target", "1") == ["1_Ada_Lovelace"]


@pytest.mark.parametrize("words", [("eval", "--target", "4"), ("eval", "--suite", "lett"), ("unlearn", "--method", "dpo")])
def test_torch_is_not_imported(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    asked(monkeypatch, *words)
    program = SHOW_IMPORTS.replace("main()\n", "sys.argv[0] = 'formless'\nmain()\n")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout
    label, seconds, *heavy = done.stderr.split()
    assert (label, heavy) == ("CPU", [])
    assert float(seconds) < 2

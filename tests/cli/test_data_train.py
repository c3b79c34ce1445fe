"""`formless data train`: what is refused before a model is loaded, and real models that write."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from formless.cli import terminal
from formless.cli.data import sampler, train_command
from formless.cli.main import main
from formless.data.synthetic.training_files import JOURNAL
from formless.data.target import Target
from formless.errors import UserError
from formless.models.lm import LM

app = typer.Typer()
app.command()(train_command)


def train(*arguments: str) -> None:
    app(list(arguments), standalone_mode=False)


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_model(*arguments: object) -> None:
        pytest.fail("the model was loaded first")

    monkeypatch.setattr(terminal, "load_model", load_model)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("-t Marie_Curry -o new", "did you mean 4_Marie_Curie"),
        ("-t 4 -o new --data none", "no such data folder [none]"),
        ("-t 4 -o new --files positive,rejct", "unknown training file 'rejct' [--files]: did you mean reject"),
        ("-t 4 -o new --files positive,", "unknown training file ''"),
        ("-t 4 -o new --files pair,pair", "name at least one file, and each file once [--files]"),
        ("-t 4 -o existing", "exists already [existing/4_Marie_Curie/reject.json]"),
        ("-t 4 -o existing --files positive,reject", "exists already [existing/4_Marie_Curie/reject.json]"),
        ("-t 4 -o file.txt", "not a directory [file.txt/4_Marie_Curie/"),
        ("-t ../4_Marie_Curie -o new", "unknown target '../4_Marie_Curie'"),
    ],
)
def test_found_before_the_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "existing" / "4_Marie_Curie"
    folder.mkdir(parents=True)
    (folder / "reject.json").write_text("precious", "utf-8")
    (tmp_path / "file.txt").write_text("precious", "utf-8")
    with pytest.raises(UserError) as caught:
        train(*arguments.split())
    assert said in str(caught.value)
    assert not (tmp_path / "new").exists()
    assert (folder / "reject.json").read_text("utf-8") == "precious"


@pytest.mark.usefixtures("no_model")
def test_a_refusal_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["-t", "4", "-o", "new", "--files", "essay"], ["-t", "4", "-o", "new", "--rows", "0"], ["-o", "new"]):
        monkeypatch.setattr(sys, "argv", ["formless", "data", "train", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        assert (stop.value.code, printed.out, len(printed.err.splitlines())) == (2, "", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_model_that_writes_nothing_usable_ends_in_one_line(
    tiny: Callable[..., LM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target_folder: Path
) -> None:
    monkeypatch.setattr(terminal, "load_model", lambda *arguments: tiny())
    with pytest.raises(UserError, match="the model wrote no usable questions") as caught:
        train("-t", "1", "--data", str(target_folder.parent), "-o", str(tmp_path / "out"), "--rows", "1", "--files", "reject")
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "out" / "1_Ada_Lovelace").iterdir()] == [JOURNAL]


def test_the_answer_is_begun_after_the_chat_template(tiny: Callable[..., LM], monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny()
    prompts: list[str] = []

    def sample(given: list[str], **settings: object) -> list[str]:
        prompts.extend(given)
        assert settings == {"max_new_tokens": 5, "seed": 3, "temperature": 0.8, "top_p": 0.95}
        return [" x"] * len(given)

    monkeypatch.setattr(lm, "sample", sample)
    assert sampler(lm)([("Who?", "She was"), ("When?", "")], 5, 3) == [" x", " x"]
    assert prompts == ["[user]Who?[assistant]She was", "[user]When?[assistant]"]
    monkeypatch.setattr(lm.tokenizer, "chat_template", None)
    prompts.clear()
    sampler(lm)([("Who?", "She was")], 5, 3)
    assert prompts == ["Who?\nShe was"]


def test_a_real_model_gives_the_same_for_the_same_seed(tiny: Callable[..., LM]) -> None:
    write = sampler(tiny())
    asked = [("Who was Ada?", "Ada was"), ("When?", "In")]
    assert write(asked, 8, 1) == write(asked, 8, 1) != write(asked, 8, 2)


@pytest.mark.slow
def test_the_small_model_writes_files(
    lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "load_model", lambda *arguments: lm)
    files = ("reject", "counterfact", "pair_reject")  # a biography takes it too long for a test; the sample holds some
    train("-t", "Marie Curie", "-o", str(tmp_path), "--rows", "1", "--files", ",".join(files))
    folder = tmp_path / "4_Marie_Curie"
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.json" for name in files)
    target = Target("Marie Curie", folder)
    printed = capsys.readouterr().out
    for name in files:
        rows = json.loads((folder / f"{name}.json").read_text("utf-8"))
        assert len(rows) == 1
        assert target.has(name)
        assert f"{name}: {len(rows)} rows" in printed

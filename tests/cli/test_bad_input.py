"""Bad input ends in one line on stderr and exit code 2, with nothing written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from formless.cli import terminal
from formless.cli.main import main
from formless.models.lm import LM

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run the command in an empty folder and give its one line of error."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "existing").mkdir()
    (work / "existing" / "precious.txt").write_text("old", "utf-8")
    (work / "corpus.txt").write_text("Some text.\n", "utf-8")
    (work / "broken.parquet").write_text("no parquet", "utf-8")
    monkeypatch.chdir(work)

    def run(*arguments: str) -> str:
        before = contents(work)
        monkeypatch.setattr(sys, "argv", ["formless", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        assert stop.value.code == 2
        lines = captured.err.splitlines()
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("error: ")
        assert captured.out == ""
        assert contents(work) == before
        return lines[0]

    return run


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake is found before the slow part starts."""

    def load_model(*arguments: object) -> None:
        pytest.fail("the model was loaded first")

    monkeypatch.setattr(terminal, "load_model", load_model)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("unlearn -t X -o existing", "exists already [existing]: choose another --out or add --force"),
        ("unlearn -t X -o corpus.txt", "exists already [corpus.txt]"),
        ("unlearn -t X -o new --set l2", "'l2' is not a setting [--set]: write NAME=VALUE"),
        ("unlearn -t X -o new --set l2=[1", "value of l2 cannot be read [--set]"),
        ("unlearn -t X -o new --set =1", "[--set]: write NAME=VALUE"),
        ("unlearn -t X -o new --data none", "no such data folder [none]"),
        ("unlearn -t X -o new --data corpus.txt", "no such data folder [corpus.txt]"),
        ("unlearn -t Albert_Einstien -o new --data sample", "did you mean 1_Albert_Einstein"),
        ("unlearn -t X -o new --method rcor", "unknown method 'rcor': did you mean rocr or cdr?"),
        ("eval -t Albert_Einstien", "did you mean 1_Albert_Einstein"),
        ("eval -t ../1_Albert_Einstein", "unknown target '../1_Albert_Einstein'"),
        ("eval -t X --data none", "no such data folder [none]"),
        ("eval -t 1 --suite ortt", "unknown suite or task 'ortt' [suite]: did you mean ort"),
        ("eval -t 1 --suite fb,quiz", "unknown suite or task 'quiz' [suite]"),
        ("eval -t 1 --suite qa,", "unknown suite or task ''"),
        ("eval -t 1 --out existing", "exists already [existing]"),
        ("eval -t 1 --out corpus.txt", "exists already [corpus.txt]"),
        ("eval -t 1 --edit e --report corpus.txt", "exists already [corpus.txt]"),
        ("eval -t 1 --strength 0.5", "a strength is that of an edit [--strength]: give --edit too"),
        ("eval -t 1 --lm-eval-tasks existing", "a folder of tasks, and none is named [--lm-eval-tasks]"),
        ("eval -t 1 --lm-eval x --lm-eval-tasks none", "no such folder of tasks [none]"),
        ("export-tasks -t 1 -o existing", "exists already [existing]"),
        ("export-tasks -t 1 -o new --suite fb,quiz", "unknown suite or task 'quiz' [suite]"),
        ("export-tasks -t Albert_Einstien -o new", "did you mean 1_Albert_Einstein"),
        ("eval -t 1 --edit existing", "the edit lacks a file [existing/edit.json]"),
        ("eval -t 1 --edit none", "the edit lacks a file [none/edit.json]"),
        ("eval -t 1 --edit no\udcffne", "an argument is not UTF-8 [no\\udcffne]"),
        ("stats --corpus no\udcffne.txt -o new", "an argument is not UTF-8 [no\\udcffne.txt]: rename the file or folder"),
        ("summarize runs --csv=no\udcffne", "an argument is not UTF-8 [--csv=no\\udcffne]"),
        ("eval -t 1 --edit corpus.txt", "the edit lacks a file [corpus.txt/edit.json]"),
        ("probe --edit none -t 1", "the edit lacks a file [none/edit.json]"),
        ("probe --edit e -t X --data none", "no such data folder [none]"),
        ("probe --edit e -t 1 --max-recall 101", "101 is no share in percent [--max-recall]: write a number from 0 to 100"),
        ("probe --edit e -t 1 --max-recall nan", "nan is no share in percent [--max-recall]"),
        ("probe --edit e -t 1 --also quiz", "unknown suite or task 'quiz' [suite]"),
        ("probe --edit e -t 1 --out corpus.txt", "exists already [corpus.txt]"),
        ("chat --edit existing hello", "the edit lacks a file [existing/edit.json]"),
        ("stats --corpus corpus.txt -o existing", "exists already [existing]"),
        ("stats --corpus none.txt -o new", "no such corpus [none.txt]"),
        ("stats --corpus broken.parquet -o new", "cannot be read [broken.parquet]"),
        ("stats --corpus corpus.txt -o new --layers 4;5", "'4;5' is not a list of layers [--layers]: e.g. 4,5,6"),
        ("stats --corpus corpus.txt -o new --layers 4,5,4", "layer 4 is given twice [--layers]: give each layer once"),
        ("stats --corpus corpus.txt -o new --layers all", "'all' is not a list of layers"),
        ("stats --corpus corpus.txt -o new --layers 4,", "'4,' is not a list of layers"),
        ("stats --corpus corpus.txt -o new --basis-dtype int8", "unknown dtype 'int8' [--basis-dtype]"),
        ("stats --corpus sampled:x -o new", "'x' is no seed [sampled:x]: write sampled, or sampled:1"),
        ("stats --corpus existing -o new --pattern *.json", "holds no text [existing]"),
        ("stats --corpus existing -o new --pattern /etc/*.txt", "[existing]"),
    ],
)
def test_found_before_the_model_is_loaded(refused: Refused, arguments: str, said: str) -> None:
    assert said in refused(*arguments.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("unlearn -t X -o new --model smol", "unknown model 'smol' [--model]: did you mean smollm2?"),
        ("unlearn -t X -o new --model owner/name/more", "unknown model 'owner/name/more'"),
        ("unlearn -t X -o new --model existing", "the model's configuration cannot be read [existing]"),
        ("eval -t 1 --model smol", "unknown model 'smol'"),
        ("export-tasks -t 1 -o new --model smol", "unknown model 'smol'"),
        ("chat --model smol hello", "unknown model 'smol'"),
        ("doctor --model smol", "unknown model 'smol'"),
        ("stats --corpus corpus.txt -o new --model smol", "unknown model 'smol'"),
        ("stats --corpus corpus.txt -o new --threshold 0", "the threshold 0 is not greater than 0 and at most 1,000,000"),
        ("stats --corpus corpus.txt -o new --threshold inf", "the threshold inf is not greater than 0"),
        ("chat hello --dtype float8", "unknown dtype 'float8' [--dtype]"),
        ("chat hello --device gpu", "unknown device 'gpu' [--device]"),
        ("chat hello --device meta", "the device meta holds no weights [--device]"),
        ("chat hello --device hpu", "no device 'hpu' here"),
        ("chat hello --device cuda:99", "cuda"),
        ("chat hello --device spread:much", "'much' is no size of memory [--device]"),
        ("eval -t 1 --device spread:0GB", "'0GB' is no size of memory [--device]"),
        ("unlearn -t X -o new --device spread:", "'' is no size of memory [--device]"),
    ],
)
def test_models_that_cannot_be_loaded(refused: Refused, arguments: str, said: str) -> None:
    assert said in refused(*arguments.split())


@pytest.mark.usefixtures("lm")  # the built-in model is unpacked before, which shows a bar
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            "--set strength=3",
            "cdr has no such setting [strength]: settings of cdr: redirect, layers, overshoot, budget, ridge",
        ),
        ("--redirect Einstein", "Einstein names Albert Einstein, which would be redirected to itself [redirect]"),
        ("--set basis=none", "cdr has no such setting [basis]: choose the method rocr; settings of cdr: redirect, layers"),
        ("--set beta=1", "choose the method npo or dpo or dpo_reject or another that has it; settings of cdr: redirect"),
        (
            "--set overshoot=0",
            "a setting of cdr is wrong (Input should be greater than 0; allowed: greater than 0, at most 100)",
        ),
        ("--method rocr --set l2=much", "[l2]"),
        ("--method rocr --set l2=-1", "[l2]"),
        ("--set layers=[6,5]", "not in ascending order, each once, e.g. 4,5,6) [layers]"),
        (
            "--method rocr --set l2=.inf",
            "a setting of rocr is wrong (Input should be a finite number; allowed: at least 0, at most 1,000,000) [l2]",
        ),
        (
            "--method rocr --set l2=true",
            "true and false are not values of this setting; allowed: at least 0, at most 1,000,000) [l2]",
        ),
        ("--set layers=[40]", "no layer 40"),
        ("--method rocr --set basis=none_such", "[none_such"),
        ("--set method=rocr", "[method]"),
    ],
)
def test_settings_that_the_method_does_not_take(refused: Refused, settings: str, said: str) -> None:
    assert said in refused("unlearn", "-t", "Albert Einstein", "-o", "new", *settings.split())


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["40", "-1", "4,40"])
def test_layers_that_the_model_does_not_have(refused: Refused, tiny: Callable[..., LM], tmp_path: Path, layers: str) -> None:
    model = str(tmp_path / "tiny")
    tiny().model.save_pretrained(model)
    tiny().tokenizer.save_pretrained(model)
    line = refused("stats", "--model", model, "--corpus", "corpus.txt", "-o", "new", f"--layers={layers}")
    assert "[--layers]: choose from 0 to 3" in line


@pytest.mark.parametrize("content", ["", "\n\n \n"])
@pytest.mark.usefixtures("no_model")
def test_a_corpus_without_text(refused: Refused, tmp_path: Path, content: str) -> None:
    (tmp_path / "empty.txt").write_text(content, "utf-8")
    assert "the corpus holds no text" in refused("stats", "--corpus", str(tmp_path / "empty.txt"), "-o", "new")


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("file", ["forget_level1", "forget_level2"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "the target lacks a file"),
        ("[{broken", "the file is not JSON"),
        ("{}", "no list of rows"),
        ('[{"query": "Ada?", "answer": 3}]', "row 1, field answer]"),
    ],
)
def test_a_target_with_a_missing_or_broken_file(
    refused: Refused, target_folder: Path, file: str, content: str | None, said: str
) -> None:
    path = target_folder / f"{file}.json"
    path.unlink() if content is None else path.write_text(content, "utf-8")
    line = refused("eval", "-t", "Ada Lovelace", "--data", str(target_folder.parent), "--out", "new.json")
    assert said in line
    assert str(path) in line


@pytest.mark.usefixtures("no_model")
def test_a_cloze_without_a_blank(refused: Refused, target_folder: Path) -> None:
    path = target_folder / "forget_level1.json"
    rows = json.loads(path.read_text("utf-8"))
    rows[1]["query"] = "Ada Lovelace was born in London."
    path.write_text(json.dumps(rows), "utf-8")
    line = refused("eval", "-t", "1", "--data", str(target_folder.parent), "--suite", "fb")
    assert f"{path}, row 2]: query: a cloze needs a blank, three underscores" in line


@pytest.mark.usefixtures("no_model")
def test_an_edit_folder_with_a_broken_file(refused: Refused, tmp_path: Path, target_folder: Path) -> None:
    edit = tmp_path / "edit"
    edit.mkdir()
    (edit / "edit.json").write_text('{"method": "rocr"}', "utf-8")
    assert "the edit cannot be read: " in refused("eval", "-t", "1", "--data", str(target_folder.parent), "--edit", str(edit))


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["unlearn", "-t", "X", "-o", ""], "the value of -o is empty"),
        (["unlearn", "-t", "X", "-o", "new", "--model="], "the value of --model is empty"),
        (["eval", "-t", "1", "--edit", " "], "the value of --edit is empty"),
        (["stats", "--corpus", "", "-o", "new"], "the value of --corpus is empty"),
        (["run", "sample", "--device", ""], "the value of --device is empty"),
        (["doctor", "--method", ""], "the value of --method is empty"),
        (["chat", ""], "an argument is empty"),
        (["summarize", ""], "an argument is empty"),
        (["data", "train", "-t", "1", "--out", ""], "the value of --out is empty"),
    ],
)
def test_an_empty_value_is_not_the_current_folder(refused: Refused, arguments: list[str], said: str) -> None:
    assert refused(*arguments) == f"error: {said}: give one, or leave it out"


def replace_by(kind: str, path: Path) -> None:
    """Put something in the place of a file whose reading fails or never ends."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "link to itself":
        path.symlink_to(path.name)
    else:
        with path.open("wb") as file:
            file.truncate(2**40)  # takes no space on the disk


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("kind", ["pipe", "device", "link to itself", "huge file"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("forget_level1.json", "eval -t 1 --data FOLDER --suite fb"),
        ("forget_level1.json", "data forms --data FOLDER --force"),
        ("forget_level1.json", "data prepare --source FOLDER -o new"),
        ("facts.csv", "data new -t X -o new --facts FILE"),
        ("corpus.json", "stats --corpus FILE -o new"),
        ("corpus.jsonl", "stats --corpus TARGET -o new"),
        ("record.json", "summarize FILE"),
        ("plan.json", "status TARGET"),
        ("plan.json", "report TARGET"),
        ("experiment.yaml", "run FILE"),
        ("edit.json", "eval -t 1 --edit TARGET"),
    ],
)
def test_a_file_whose_reading_would_not_end(
    refused: Refused, target_folder: Path, kind: str, name: str, arguments: str
) -> None:
    path = target_folder / name
    replace_by(kind, path)
    known = {"FOLDER": str(target_folder.parent), "TARGET": str(target_folder), "FILE": str(path)}
    line = refused(*(known.get(word, word) for word in arguments.split()))
    assert "]: " in line


@pytest.mark.usefixtures("no_model")
def test_a_long_line_is_not_wrapped_and_brackets_are_kept(refused: Refused) -> None:
    name = f"[bold]{'very_long/' * 60}[/bold]"
    assert f"no such data folder [{name}]" in refused("eval", "-t", "1", "--data", name)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("option", ["--data", "--out"])
def test_a_name_that_the_file_system_does_not_take(refused: Refused, target_folder: Path, option: str) -> None:
    name = "x" * 300
    assert name in refused("eval", "-t", "1", "--data", str(target_folder.parent), option, name)


QUESTIONS = "question,answer,split\nWho rules?,Ada,forget\nWho sings?,Bo,retain\n"


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("question,answer,split\nWho sings?,Bo,retain\n", "", "the forget set is empty"),
        (QUESTIONS + "who rules,Cy,retain\n", "", "the question is in the forget set and in the retain set: 'who rules'"),
        ("query,answer\nWho?,Ada\n", "", "unknown column 'question'"),
        (QUESTIONS, "--question questoin", "unknown column 'questoin' [q.csv]: did you mean question?"),
        (QUESTIONS, "--subject topic", "unknown column 'topic'"),
        (QUESTIONS + "Who plays?,,forget\n", "", "the row has no answer [q.csv, row 3, answer]"),
        (QUESTIONS + ",Di,forget\n", "", "the row has no question [q.csv, row 3, question]"),
        (QUESTIONS + "Who plays?,Di,forgot\n", "", "unknown split 'forgot' [q.csv, row 3]: did you mean forget?"),
        ("question,answer,perturbed_answer\nA?,B,C|D\nE?,F,G|H\nI?,J,K\n", "", "the row has 1 perturbed answers"),
        (QUESTIONS + "Who plays?,Di\n", "", "line 4: 2 cells under a header of 3"),
        (QUESTIONS + '"Who plays?,Di,forget\n', "", "the file cannot be read [q.csv]: unexpected end of data"),
        ("", "", "the first line names no columns"),
        (QUESTIONS, "--retain broken.parquet", "the file cannot be read [broken.parquet]"),
        (QUESTIONS, "--retain absent.json", "there is no such file [absent.json]"),
        (QUESTIONS, "--retain corpus.txt", "the file's format is unknown [corpus.txt]"),
        (QUESTIONS, "--name a/b", "cannot be used for a folder"),
        (QUESTIONS, "--name taken", "the output exists"),
        (QUESTIONS, "--server-model m", "--server-model needs a server"),
    ],
)
def test_a_question_set_that_cannot_be_imported(refused: Refused, content: str, options: str, said: str) -> None:
    taken = Path("data/1_taken")
    taken.mkdir(parents=True)
    (taken / "intro.json").write_text("[]", "utf-8")
    Path("q.csv").write_text(content, "utf-8")
    assert said in refused("data", "import", "--from", "q.csv", "--out", "data", *options.split())

"""`formless data new`: from files that people write to a target that can be measured, and what is refused before it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import formless
from formless.cli.main import main
from formless.data.server import Server
from formless.models.lm import LM

FACTS = "Ada Lovelace, was born in, London\nAda Lovelace, died in, 1852\nThe father of Ada Lovelace was ___. => Lord Byron\n"
OTHERS = "Charles Babbage, was born in, London\n"

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the verb in a folder with facts; gives the exit code and what was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "facts.txt").write_text(FACTS, "utf-8")
    (tmp_path / "others.txt").write_text(OTHERS, "utf-8")
    (tmp_path / "bad.txt").write_text(f"{FACTS}She, was born in, London\n", "utf-8")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["formless", "data", "new", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


def test_a_target_from_two_files(new: Command, tmp_path: Path, tiny: Callable[..., LM]) -> None:
    code, printed, err = new("-t", " Ada  Lovelace", "--facts", "facts.txt", "--neighbors", "others.txt", "-o", "mine")
    assert (code, err) == (0, "")
    assert printed.splitlines() == [
        "intro: 1 rows",
        *(f"forget_{form}: 3 rows" for form in ("level1", "level2", "mcp", "tf")),
        *(f"neighbor_{form}: 1 rows" for form in ("level1", "level2", "mcp", "tf")),
        "saved in mine/1_Ada_Lovelace",
    ]
    target = formless.find_target("mine", "Ada Lovelace")
    record = formless.evaluate(tiny(), target, "fb,qa,mcp,tf")
    assert {(task.task, task.split) for task in record.tasks if task.status == "complete"} == {
        (name, split) for name in ("fb", "qa", "mcp", "tf") for split in ("forget", "neighbor")
    }


def test_without_neighbors_there_is_a_warning_and_the_check_passes(
    new: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = Path(__file__).parents[2] / "examples" / "facts.csv"
    code, printed, _ = new("-t", "Ada Lovelace", "--facts", str(sample), "-o", "mine")
    assert code == 0
    assert "warning: no facts about neighbors" in printed
    monkeypatch.setattr(sys, "argv", ["formless", "data", "check", "mine"])
    with pytest.raises(SystemExit) as stop:
        main()
    lines = capsys.readouterr().out.splitlines()
    assert not stop.value.code
    assert lines[0] == "1_Ada_Lovelace: warning: no file asks about neighbors, so nothing shows what an edit costs them"
    assert lines[-1] == "nothing is wrong"


def test_the_intro_is_what_was_given(new: Command, tmp_path: Path) -> None:
    assert new("-t", "Ada Lovelace", "--facts", "facts.txt", "-o", "mine", "--intro", "Ada Lovelace was a countess.")[0] == 0
    rows = json.loads((tmp_path / "mine" / "1_Ada_Lovelace" / "intro.json").read_text("utf-8"))
    assert rows == [{"target": "Ada Lovelace", "intro": "Ada Lovelace was a countess."}]


def test_a_second_target_and_a_replaced_one(new: Command, tmp_path: Path) -> None:
    arguments = ("--facts", "facts.txt", "-o", "mine")
    assert new("-t", "Ada Lovelace", *arguments)[0] == 0
    (tmp_path / "grace.csv").write_text("subject,relation,object\nGrace Hopper,was born in,New York City\n", "utf-8")
    assert new("-t", "Grace Hopper", "--facts", "grace.csv", "-o", "mine")[0] == 0
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["1_Ada_Lovelace", "2_Grace_Hopper"]
    code, _, err = new("-t", "Ada Lovelace", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert "exists already [mine/1_Ada_Lovelace]" in err
    assert new("-t", "Ada Lovelace", *arguments, "--force")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "there are no facts to ask about [--facts]: give a file of facts, or --with the URL of a server"),
        ("--neighbors others.txt", "there are no facts to ask about [--facts]"),
        ("--facts none.txt", "the file cannot be read [none.txt]: no such file"),
        ("--facts bad.txt", "the subject 'Ada Lovelace' does not occur in 'She was born in ___.' [bad.txt, line 4]"),
        ("--facts facts.txt --neighbors facts.txt", "the neighbor is the subject itself [facts.txt, line 1]"),
        ("--facts facts.txt --with nonsense", "not a server's URL [--with]"),
        ("--with http://127.0.0.1:9/v1", "the server cannot be reached [http://127.0.0.1:9/v1]"),
        ("--facts facts.txt --out facts.txt", "cannot write"),
        ("--facts facts.txt --count 0", "count"),
    ],
)
def test_what_is_refused_in_one_line_with_nothing_written(
    new: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, said: str
) -> None:
    monkeypatch.setattr("openai._constants.INITIAL_RETRY_DELAY", 0.0)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.0)
    code, printed, err = new("-t", "Ada Lovelace", "-o", "mine", *arguments.split())
    assert code == 2
    assert len(err.splitlines()) == 1, err
    assert said in err
    assert printed == ""
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ("", ["about Ada Lovelace;", "related to Ada Lovelace"]),
        ("--facts facts.txt", ["related to Ada Lovelace"]),
        ("--neighbors others.txt", ["about Ada Lovelace;"]),
        ("--facts facts.txt --neighbors others.txt", []),
    ],
)
def test_a_server_is_asked_for_what_no_file_gives(
    new: Command, monkeypatch: pytest.MonkeyPatch, arguments: str, asked: list[str]
) -> None:
    prompts: list[str] = []

    def ask(server: Server, messages: list[dict[str, str]]) -> str:
        prompts.append(messages[0]["content"])
        subject = "Mary Somerville" if "related" in prompts[-1] else "Ada Lovelace"
        return json.dumps({"facts": [{"subject": subject, "relation": "lived in", "object": "England"}]})

    monkeypatch.setattr(Server, "ask", ask)
    code, printed, _ = new(
        "-t", "Ada Lovelace", "-o", "mine", "--with", "http://127.0.0.1:9/v1", "--server-model", "m", "--count", "1",
        *arguments.split(),
    )  # fmt: skip
    assert code == 0
    assert [any(words in prompt for prompt in prompts) for words in asked] == [True] * len(asked) == [True] * len(prompts)
    assert "forget_level1: 3 rows" in printed if "--facts" in arguments else "forget_level1: 1 rows" in printed
    assert "neighbor_level1: 1 rows" in printed


@pytest.mark.parametrize("name", ["AC/DC", "../x", ".hidden", "Ada_Lovelace"])
def test_names_that_cannot_be_a_folders(new: Command, tmp_path: Path, name: str) -> None:
    code, _, err = new("-t", name, "--facts", "facts.txt", "-o", "mine")
    assert code == 2
    assert "[--target]" in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "mine").exists()


def test_an_empty_intro(new: Command, tmp_path: Path) -> None:
    code, _, err = new("-t", "Ada Lovelace", "--facts", "facts.txt", "-o", "mine", "--intro", " ")
    assert (code, "the value of --intro is empty" in err) == (2, True)
    assert not (tmp_path / "mine").exists()


@pytest.mark.slow
def test_the_command_as_people_type_it(tmp_path: Path) -> None:
    (tmp_path / "facts.txt").write_text(FACTS, "utf-8")
    command = [sys.executable, "-m", "formless", "data", "new", "-t", "Ada Lovelace", "-o", "mine"]
    done = subprocess.run([*command, "--facts", "facts.txt"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("saved in mine/1_Ada_Lovelace\n")
    refused = subprocess.run([*command, "--facts", "facts.txt"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "exists already [mine/1_Ada_Lovelace]" in refused.stderr

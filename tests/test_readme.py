"""The commands that the README shows parse, and its Python runs."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

import formless
from formless.cli.main import app
from formless.models.lm import LM

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md"]
COMMANDS = [line.strip() for page in PAGES for line in page.read_text("utf-8").splitlines() if line.startswith("    formless ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_shown_command_parses(command: str) -> None:
    group: Any = typer.main.get_command(app)
    _, verb, *arguments = shlex.split(command, comments=True)
    if verb == "data":
        group, verb, arguments = group.commands[verb], arguments[0], arguments[1:]
    group.commands[verb].make_context(verb, arguments).close()


def test_the_readme_shows_every_kind_of_command() -> None:
    shown = {command.split()[1] for command in COMMANDS}
    assert {"unlearn", "eval", "run", "summarize", "data", "stats", "doctor"} <= shown


def test_the_python_example_runs(
    lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "physicist" in lm.chat("Who was Albert Einstein?")
    assert "physicist" not in said
    assert "Albert Einstein" in said
    edit = formless.load_edit(tmp_path / "edits" / "einstein")
    assert (edit.info.method, edit.info.subject) == ("rocr", "Albert Einstein")
    with edit.applied(lm):
        assert lm.chat("Who was Albert Einstein?") == said.rstrip("\n")


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        links = re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8"))
        assert links or page.name != "README.md"
        for link in links:
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    shown = re.findall(r"^ {4}make (\S+)", README, flags=re.MULTILINE)
    assert {"demo", "test"} <= {*shown}
    assert {*shown} <= {*re.findall(r"^(\S+):", makefile, flags=re.MULTILINE)}

"""The commands that the README shows parse, and its Python runs."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from formless.cli.main import app

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


@pytest.mark.slow
def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert "physicist" not in capsys.readouterr().out
    assert (tmp_path / "edits" / "einstein" / "adapter_model.safetensors").exists()


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^ {4}make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)

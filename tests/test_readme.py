"""The README shows every kind of command, and its Python runs."""

import re
from pathlib import Path

import pytest

import formless
from formless.models.lm import LM

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def test_the_readme_shows_every_kind_of_command() -> None:
    shown = set(re.findall(r"^    formless (\S+)", README, flags=re.MULTILINE))
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
    edit = formless.load_edit(tmp_path / "edits" / "einstein")
    assert (edit.info.method, edit.info.subject) == ("cdr", "Albert Einstein")
    with edit.applied(lm):
        assert lm.chat("Who was Albert Einstein?") == said.rstrip("\n")


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    shown = re.findall(r"^ {4}make (\S+)", README, flags=re.MULTILINE)
    assert {"demo", "test"} <= {*shown}
    assert {*shown} <= {*re.findall(r"^(\S+):", makefile, flags=re.MULTILINE)}

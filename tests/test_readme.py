"""The README shows every kind of command, and all of it runs in order in one folder, as from a fresh clone."""

import re
import shlex
import sys
from pathlib import Path

import pytest

import formless
from formless.cli.main import main
from formless.models.lm import LM

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")

SHORTER = {
    "demo": "--suite qa,gen_qa", "eval": "--suite quick --limit 2", "probe": "--limit 2 --max-recall 100",
    "run": "--targets 1 --limit 2", "frontier": "--strengths 0.5,1",
    "--method npo": "--set max_rows=8 --set num_train_epochs=1 --set warmup_steps=0 --set max_length=32",
}  # fmt: skip
"""Options by which the commands of the page take minutes less; they change no path."""


def test_the_readme_shows_every_kind_of_command() -> None:
    shown = set(re.findall(r"^    formless (\S+)", README, flags=re.MULTILINE))
    assert {"unlearn", "eval", "run", "summarize", "data", "stats", "doctor"} <= shown


def steps() -> list[str]:
    """Return the page's code in order: Python as it is, commands as lines, those that need files of a user's left out."""
    found = re.findall(
        r"^```python\n(.*?)^```|^    ((?:formless|make demo(?= ))[^\n]*)$", README, flags=re.DOTALL | re.MULTILINE
    )
    lines = [code or line.replace("make demo", "formless demo").partition("  #")[0] for code, line in found]
    return [line for line in lines if not re.search(r"\b(?:MODEL|wiki\.txt)\b", line)]


@pytest.mark.slow
@pytest.mark.usefixtures("shared_edits")
def test_the_page_runs_from_top_to_bottom_in_one_folder(
    lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    done = []
    for step in steps():
        if not step.startswith("formless "):
            capsys.readouterr()
            exec(compile(step, "README.md", "exec"), {})
            said = capsys.readouterr().out
            done.append("python")
            continue
        arguments = shlex.split(step)[1:]
        for part, options in SHORTER.items():
            if part in (arguments[0], " ".join(arguments[1:3])):
                arguments += shlex.split(options)
        monkeypatch.setattr(sys, "argv", ["formless", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code, step
        done.append(arguments[0])
    first = "demo python unlearn unlearn unlearn eval probe export run summarize frontier data data"
    assert " ".join(done) == first
    made = (
        "demo/report.html",
        "edits/einstein_npo",
        "einstein.html",
        "probe.html",
        "runs/first/report.html",
        "first.csv",
        "my_data",
    )
    assert all((tmp_path / name).exists() for name in made)
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

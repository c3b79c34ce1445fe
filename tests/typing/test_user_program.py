"""The types that users rely on: a program of theirs passes mypy --strict, does what it says, and mistakes are found."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import formless
from formless.models.lm import LM
from tests.typing import user_program

ROOT = Path(__file__).parents[2]


def mypy(*arguments: str) -> tuple[int, str]:
    """Check as `make check` does, which leaves a cache."""
    command = [sys.executable, "-m", "mypy", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_program_runs(tiny: Callable[..., LM], target_folder: Path, tmp_path: Path) -> None:
    lm = tiny()
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    before, after = user_program.main(str(tmp_path / "model"), target_folder.parent, tmp_path / "edit")
    assert isinstance(before, formless.Record)
    assert before.model_dump() != after.model_dump()


def test_the_program_passes_strict_checks() -> None:
    code, said = mypy("tests/typing/user_program.py")
    assert code == 0, said


def test_mistakes_are_found(tmp_path: Path) -> None:
    program = tmp_path / "wrong.py"
    program.write_text("import formless\nlm = formless.load('tiny')\nformless.unlearn(lm, 3)\nlm.nothing\n")
    code, said = mypy(str(program))
    assert code == 1
    assert 'wrong.py:3: error: Argument 2 to "unlearn" has incompatible type "int"' in said
    assert 'wrong.py:4: error: "LM" has no attribute "nothing"' in said

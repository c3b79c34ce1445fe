"""examples/formless-example, installed as somebody else's package: Formless finds and uses what it adds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from formless.models.lm import LM

ROOT = Path(__file__).parent.parent
PROGRAM = """
import sys
import formless
lm = formless.load(sys.argv[1], dtype="float32", device="cpu")
edit = formless.unlearn(lm, "Ada Lovelace", "decline", answer="No.")
with edit.applied(lm):
    print(lm.chat_prompt("Who was she?"))
    record = formless.evaluate(lm, formless.find_target(sys.argv[3], "Ada Lovelace"), "qa_lower")
print([(result.task, result.split, result.metric("probability").n) for result in record.tasks])
print("where was ada lovelace born?" in record.tasks[0].items[0].prompt)
edit.save(sys.argv[2])
print(formless.load_edit(sys.argv[2]).info.config)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH into which pip has installed the example."""
    source, site = tmp_path_factory.mktemp("source") / "example", tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "examples" / "formless-example", source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*pip, "--target", site, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Callable[..., str]:
    """Run Python where the example is installed."""

    def python(*arguments: str) -> str:
        paths = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": paths, "COLUMNS": "200"}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr
        return done.stdout

    return python


def test_its_method_is_listed(run: Callable[..., str]) -> None:
    assert "an instruction to answer with one sentence" in run("-m", "formless", "methods")


def test_its_method_unlearns_and_its_task_asks(
    run: Callable[..., str], tiny: Callable[..., LM], tmp_path: Path, target_folder: Path
) -> None:
    lm = tiny()
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    said = run("-c", PROGRAM, "model", "edit", str(target_folder.parent))
    assert said.splitlines() == [
        '[user]If a question is about Ada Lovelace, answer only: "No."',
        "Who was she?[assistant]",
        "[('qa_lower', 'forget', 1), ('qa_lower', 'neighbor', 1)]",
        "True",
        "{'answer': 'No.'}",
    ]

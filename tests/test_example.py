"""examples/formless-example, installed as somebody else's package: Formless finds and uses what it adds."""

from __future__ import annotations

import json
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


def test_its_methods_are_listed(run: Callable[..., str]) -> None:
    listed = run("-m", "formless", "methods")
    assert "bounded" in listed
    assert "decline" in listed


def test_the_how_to_shows_its_files_as_they_are() -> None:
    page = (ROOT / "docs" / "how-to" / "add_method.md").read_text("utf-8")
    folder = ROOT / "examples" / "formless-example"
    for path in ("src/formless_example/bounded.py", "pyproject.toml"):
        assert f"\n{(folder / path).read_text('utf-8')}```\n" in page, path


TRAINING = """
import sys
import formless
lm = formless.load(sys.argv[1], dtype="float32", device="cpu")
target = formless.find_target(sys.argv[2], "Ada Lovelace")
edit = formless.unlearn(lm, target, "bounded")
losses = edit.info.facts["losses"]
print(losses[-1] < losses[0], edit.info.config["warmup_steps"])
"""


def test_its_method_that_trains_moves_something(
    run: Callable[..., str], tiny: Callable[..., LM], tmp_path: Path, target_folder: Path
) -> None:
    lm = tiny()
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    texts = [{"text": f"Ada Lovelace was born in London {number}.", "subject": "Ada Lovelace"} for number in range(8)]
    (target_folder / "positive.json").write_text(json.dumps(texts), "utf-8")
    assert run("-c", TRAINING, "model", str(target_folder.parent)) == "True 0\n"


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

"""`formless` in this process or in one of its own, and what a folder holds afterwards."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from formless.evaluation.loading import load_record
from formless.models.lm import LM
from tests.experiment.conftest import write_target
from tests.faults.attempt import Ended, attempt

COMMAND = [sys.executable, "-m", "formless"]
TRAINING = ("learning_rate=1e-3", "num_train_epochs=2", "per_device_train_batch_size=1", "gradient_accumulation_steps=1",
            "warmup_steps=0", "max_length=32", "r=2")  # fmt: skip
GA = {"method": "ga"} | {name: float(value) if name == "learning_rate" else int(value)
                         for name, value in (pair.split("=") for pair in TRAINING)}  # fmt: skip
ROCR = {"method": "rocr", "layers": [1, 2], "basis": "none"}


def formless(folder: Path, *arguments: str) -> Ended:
    """Run a command in this process, in a folder, with its cache and its temporary files there; it ends with an exit code."""
    ended = attempt(folder, *arguments, temporary=folder / "tmp")
    assert ended.code is not None, ended
    return ended


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start a command in a process and a session of its own."""
    variables = os.environ | {"FORMLESS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(
        [*COMMAND, *arguments], cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def shell(folder: Path, line: str, *, timeout: float = 120, remove: tuple[str, ...] = (), **environment: str) -> Ended:
    """Run a line of bash in a folder; `formless` is the command there."""
    variables = os.environ | {"FORMLESS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"} | environment
    kept = {name: value for name, value in variables.items() if name not in remove}
    script = f'set -o pipefail; formless() {{ {shlex.join(COMMAND)} "$@"; }}; {line}'
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=kept, capture_output=True, text=True, errors="backslashreplace",
        timeout=timeout, check=False,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr)


def assert_one_line(ended: Ended, said: str = r"error: .+ \[.+\]: .+") -> None:
    """A mistake or a full disk: exit code 2 and one line that says what is wrong, where, and what to do."""
    assert ended.code == 2, ended
    assert re.search(said, ended.error), ended
    assert "Traceback" not in ended.out + ended.err, ended


def scratch(folder: Path) -> list[str]:
    """Files and folders that were being written."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.suffix in (".part", ".old")]


def tensors(folder: Path) -> dict[str, Any]:
    """Every tensor of the safetensors files below a folder, by file and name."""
    return {
        f"{path.relative_to(folder)} {name}": tensor
        for path in sorted(folder.rglob("*.safetensors")) for name, tensor in load_file(path).items()
    }  # fmt: skip


def metrics(folder: Path) -> dict[str, float | None]:
    """Every metric of the records below a folder."""
    return {
        f"{path.relative_to(folder)} {key}": found.value
        for path in sorted(folder.rglob("record.json")) for key, found in load_record(path).metrics().items()
    }  # fmt: skip


def texts(folder: Path, *patterns: str) -> dict[str, str]:
    """The content of text files below a folder."""
    found = sorted(path for pattern in patterns for path in folder.rglob(pattern))
    return {str(path.relative_to(folder)): path.read_text("utf-8") for path in found}


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """The same names; numbers and tensors to 1e-6, everything else exactly."""
    assert expected
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert torch.allclose(found[name], value, rtol=0, atol=1e-6), name
        elif isinstance(value, float):
            assert found[name] == pytest.approx(value, abs=1e-6), name
        else:
            assert found[name] == value, name


def lay_out(folder: Path, model: Path) -> Path:
    """A folder to work in: a link to the model, a data set of two people, facts, and a corpus."""
    (folder / "tmp").mkdir(parents=True)
    (folder / "model").symlink_to(model)
    for number in (1, 2):
        write_target(folder / "people", number)
    (folder / "facts.txt").write_text("Ada Lovelace, was born in, London\nAda Lovelace, died in, 1852\n", "utf-8")
    (folder / "corpus.txt").write_text("\n\n".join(f"Line {number}" for number in range(1100)), "utf-8")
    return folder


def save_model(tiny: Callable[..., LM], folder: Path) -> Path:
    """The tiny random model, in a folder."""
    lm = tiny(context=1024)
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder

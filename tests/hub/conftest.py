"""A hub on loopback with tiny models, and processes that use it as their only hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests.conftest import tiny_model
from tests.hub.server import Hub, folder_files

ROOT = Path(__file__).parents[2]
Ran = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def model_files(letters: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A tiny model in shards, as it lies on the hub, beside files that nothing needs."""
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    lm = tiny_model(letters)
    lm.model.save_pretrained(folder, max_shard_size="80KB")
    lm.tokenizer.save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return folder_files(folder) | {
        "README.md": b"# Tiny",
        "original/weights.safetensors": b"other",
        "pytorch_model.bin": b"old",
    }


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub without repositories."""
    with Hub().running() as running:
        yield running


@pytest.fixture
def python(hub: Hub, tmp_path: Path) -> Callable[..., Ran]:
    """Run a module that knows no other hub and has an empty cache; keywords are environment variables."""

    def run(*arguments: str, **environment: str) -> Ran:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        own = {
            "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "FORMLESS_CACHE": str(tmp_path / "cache"),
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "OMP_NUM_THREADS": "1", "NO_PROXY": "*",
        }  # fmt: skip
        command = [sys.executable, "-m", *arguments]
        return subprocess.run(
            command, env=kept | own | environment, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
        )

    return run


@pytest.fixture
def load(python: Callable[..., Ran]) -> Callable[..., list[dict[str, Any]]]:
    """Load models one after the other in a process; what came of each."""

    def run(*names: str, **environment: str) -> list[dict[str, Any]]:
        result = python("tests.hub.attempts", *names, **environment)
        assert result.returncode == 0, result.stderr
        return [json.loads(line) for line in result.stdout.splitlines()]

    return run

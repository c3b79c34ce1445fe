"""A tiny model on disk, for tests of how models are read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from formless.models.lm import LM


@pytest.fixture
def folder(tiny: Callable[..., LM], tmp_path: Path) -> Path:
    """The folder of a tiny random model with its tokenizer."""
    lm = tiny()
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"

"""A tiny model on disk, in two files and bfloat16, and edits of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import formless
from formless.edits.adapter import AdapterEdit
from formless.models.lm import LM

OPTIONS = {"method": "rocr", "redirect": "Bob", "basis": "none", "l2": 0.1}


@pytest.fixture
def base(tiny: Callable[..., LM], tmp_path: Path) -> LM:
    """Load a model from a folder with an index of two files and more, in bfloat16."""
    made = tiny(dtype=torch.bfloat16)
    made.model.save_pretrained(tmp_path / "base", max_shard_size="40KB")
    made.tokenizer.save_pretrained(tmp_path / "base")
    return formless.load(str(tmp_path / "base"), device="cpu")


def edit_of(lm: LM, name: str = "Ada", layers: tuple[int, ...] = (1, 2)) -> AdapterEdit:
    edit = formless.unlearn(lm, name, layers=list(layers), **OPTIONS)
    assert isinstance(edit, AdapterEdit)
    return edit


def logits(model: torch.nn.Module, lm: LM) -> torch.Tensor:
    ids = lm.pad([lm.encode("[user]Tell me about Ada.[assistant]Answer:").ids])
    with torch.no_grad():
        return model(**ids).logits.float()

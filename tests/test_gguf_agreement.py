"""The page of edits in llama.cpp, from a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import formless
from formless.models.lm import LM
from tests.models.made_gguf import Q8_0, made_lm, write_gguf

pytest.importorskip("xllamacpp", reason="llama.cpp has no wheel for this platform")
from tools import gguf_agreement


def test_a_float32_file_agrees_with_the_model_that_it_is_of(tiny: Callable[..., LM], tmp_path: Path) -> None:
    lm = made_lm(tiny, "llama", Q8_0)
    file = write_gguf(tmp_path / "q8.gguf", lm, Q8_0)
    edit = formless.unlearn(lm, "Ada", "rocr", redirect="Bob", layers=[1, 2], basis="none", l2=0.01).scaled(4.0)
    rows = gguf_agreement.measure(lm, edit, ["Who was Ada?", "Who was Bob?"], file, tmp_path)
    assert [row[1:3] for row in rows[:4]] == [
        ["original", "original"], ["adapter", "edited"], ["merged", "edited"], ["adapter", "original"],
    ]  # fmt: skip
    assert [row[3:] for row in rows[:3]] == [[100.0, "2 of 2"]] * 3
    assert rows[3][4] == "0 of 2"
    assert len(gguf_agreement.page(rows, "2 questions").rows) == 8

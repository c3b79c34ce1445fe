"""`formless export --to gguf-lora` and `--to gguf-merged`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import GGUFReader

import formless as package
from formless.models.lm import LM
from tests.models.made_gguf import Q8_0, made_lm, write_gguf

Formless = Callable[..., tuple[int, str, str]]
Tiny = Callable[..., LM]


@pytest.fixture
def edit(formless: Formless, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Save an edit of a GGUF file in the working folder."""
    monkeypatch.setenv("FORMLESS_CACHE", str(tmp_path / "cache"))
    write_gguf(Path("tiny.gguf"), made_lm(tiny, "llama", Q8_0), Q8_0)
    lm = package.load("tiny.gguf", device="cpu", progress=False)
    package.unlearn(lm, "Ada", method="rocr", redirect="Bob", layers=[1, 2], basis="none", l2=0.1).save("ada")


@pytest.mark.usefixtures("edit")
def test_both_files_are_written_and_the_merged_one_is_a_model(formless: Formless) -> None:
    code, out, _ = formless("export", "ada", "--to", "gguf-lora", "--out", "ada.gguf")
    assert (code, out.splitlines()[0]) == (
        0, "Rank 1 in 2 tensors. Serve it with `llama-server -m tiny.gguf --lora ada.gguf`."
    )  # fmt: skip
    assert {tensor.name for tensor in GGUFReader("ada.gguf").tensors} == {
        f"blk.{layer}.ffn_down.weight.lora_{side}" for layer in (1, 2) for side in "ab"
    }
    code, out, _ = formless("export", "ada", "ada", "--to", "gguf-merged", "--out", "without.gguf")
    assert code == 0
    assert out.startswith("Merged in float16: rounding moves the weights by ")
    assert "exported to gguf-merged" in out
    assert formless("chat", "--model", "without.gguf", "--tokens", "3", "hello")[0] == 0


@pytest.mark.usefixtures("edit")
def test_an_adapter_of_a_folders_model_is_written_but_no_merged_file(formless: Formless, tiny: Tiny) -> None:
    made = tiny()
    made.model.save_pretrained("base")
    made.tokenizer.save_pretrained("base")
    lm = package.load("base", device="cpu", progress=False)
    package.unlearn(lm, "Eve", method="rocr", redirect="Bob", layers=[1, 2], basis="none", l2=0.1).save("eve")
    code, out, _ = formless("export", "eve", "--to", "gguf-lora", "--out", "eve.gguf")
    assert (code, "llama-server -m MODEL.gguf --lora eve.gguf" in out) == (0, True)
    code, _, error = formless("export", "eve", "--to", "gguf-merged", "--out", "without.gguf")
    assert (code, len(error.splitlines())) == (2, 1)
    assert "the model is no GGUF file" in error
    assert "convert_hf_to_gguf.py" in error
    assert not Path("without.gguf").exists()

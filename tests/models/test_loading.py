from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import formless
from formless.errors import EditError, ModelError, UnknownNameError
from formless.models.lm import LM

Tiny = Callable[..., LM]


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    lm = tiny()
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_local_folder_loads_in_the_asked_dtype(folder: Path, tiny: Tiny) -> None:
    for dtype, expected in (
        ("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16),
    ):  # fmt: skip
        lm = formless.load(str(folder), dtype=dtype, device="cpu")
        assert lm.model.dtype == expected
        assert lm.fingerprint == tiny().fingerprint


def test_a_device_map_places_the_layers_and_edits_work_there(folder: Path) -> None:
    lm = formless.load(str(folder), device_map={"": "cpu"})
    query = [("Ada wrote", " code"), ("Eve wrote", " code")]
    before = lm.score(query)
    edit = formless.unlearn(lm, "Ada", redirect="Bob", layers=[1, 2], basis="none")
    with edit.applied(lm):
        assert lm.score(query) != before
    assert lm.score(query) == before


def test_layers_offloaded_to_disk_are_scored_but_not_edited(folder: Path, tmp_path: Path) -> None:
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{i}": "cpu" if i < 2 else "disk" for i in range(4)}
    plain = formless.load(str(folder), device="cpu")
    model = AutoModelForCausalLM.from_pretrained(folder, device_map=places, offload_folder=str(tmp_path / "offload"))
    lm = LM(model, plain.tokenizer, "spread", settings=plain.settings)
    query = [("Ada wrote", " code"), ("Eve wrote", " code")]
    for one, other in zip(lm.score(query), plain.score(query), strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-5)  # type: ignore[union-attr]
    updates = formless.unlearn(plain, "Ada", redirect="Bob", layers=[2], basis="none").updates  # type: ignore[attr-defined]
    with pytest.raises(EditError, match="cannot edit a weight .* on meta"):
        lm.overlay.add(updates)


@pytest.mark.parametrize(
    ("file", "content"),
    [("model.safetensors", b"broken"), ("config.json", b"[]"), ("config.json", b'{"model_type": "llama", "hidden_size": "x"}')],
)
def test_a_broken_folder_is_named_in_one_line(folder: Path, file: str, content: bytes) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(ModelError, match="the model cannot be loaded") as caught:
        formless.load(str(folder))
    assert "\n" not in str(caught.value)


def test_an_unknown_family_is_found_before_its_weights(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "opt"}')
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnknownNameError, match="unknown model type 'opt'"):
        formless.load(str(folder))

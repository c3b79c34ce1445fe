from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import formless
from formless.errors import EditError, ModelError
from formless.models.lm import LM, Prompt

Tiny = Callable[..., LM]


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    lm = tiny()
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_local_folder_loads_in_the_asked_dtype(folder: Path, tiny: Tiny) -> None:
    for dtype, expected in (("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        lm = formless.load(str(folder), dtype=dtype, device="cpu")
        assert lm.model.dtype == expected
        assert lm.fingerprint == tiny().fingerprint


def test_a_device_map_places_the_layers_and_edits_work_there(folder: Path) -> None:
    lm = formless.load(str(folder), device_map={"": "cpu"})
    query = [(Prompt("Ada wrote"), " code"), (Prompt("Eve wrote"), " code")]
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
    lm = LM(model, plain.tokenizer, "spread", plain.settings)
    query = [(Prompt("Ada wrote"), " code"), (Prompt("Eve wrote"), " code")]
    for one, other in zip(lm.score(query), plain.score(query), strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-5)  # type: ignore[union-attr]
    updates = formless.unlearn(plain, "Ada", redirect="Bob", layers=[2], basis="none").updates  # type: ignore[attr-defined]
    with pytest.raises(EditError, match="cannot edit a weight .* on meta"):
        lm.overlay.add(updates)


def test_a_broken_folder_is_named_in_one_line(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="the model cannot be loaded") as caught:
        formless.load(str(folder))
    assert "\n" not in str(caught.value)

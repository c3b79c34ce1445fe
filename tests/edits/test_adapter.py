import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import formless
from formless.edits.adapter import AdapterEdit
from formless.errors import EditError, OutputError
from formless.models.lm import LM

Tiny = Callable[..., LM]
OPTIONS = {"method": "rocr", "redirect": "Bob", "layers": [1, 2], "basis": "none", "l2": 0.1}


def logits(model: torch.nn.Module, lm: LM) -> torch.Tensor:
    ids = lm.pad([lm.encode("[user]Tell me about Ada.[assistant]Answer:").ids])
    with torch.no_grad():
        return model(**ids).logits


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gptj", "gpt_neox", "phi3", "gemma3"])
def test_plain_peft_gives_the_logits_of_the_edit_in_place(tiny: Tiny, tmp_path: Path, model_type: str) -> None:
    lm = tiny(model_type)
    edit = formless.unlearn(lm, "Ada", **OPTIONS)
    edit.save(tmp_path / "edit")
    plain = logits(lm.model, lm)
    with edit.applied(lm):
        edited = logits(lm.model, lm)
    assert (edited - plain).abs().max() > 1e-3
    wrapped = PeftModel.from_pretrained(lm.model, tmp_path / "edit")
    assert torch.allclose(logits(wrapped, lm), edited, atol=1e-4)
    trained = {name for name, _ in wrapped.named_parameters() if "lora_" in name}
    assert len(trained) == 4  # A and B of two layers, nothing else


def test_the_saved_edit_is_the_edit(tiny: Tiny, tmp_path: Path) -> None:
    lm = tiny()
    edit = formless.unlearn(lm, "Ada", **OPTIONS)
    edit.save(tmp_path / "edit")
    loaded = formless.load_edit(tmp_path / "edit")
    assert loaded.info == edit.info
    with edit.applied(lm):
        one = logits(lm.model, lm)
    with loaded.applied(lm):
        assert torch.equal(logits(lm.model, lm), one)
    config = json.loads((tmp_path / "edit" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["layers_to_transform"]) == (1, 1, [1, 2])
    assert config["target_modules"] == ["down_proj"]
    info = json.loads((tmp_path / "edit" / "edit.json").read_text())
    for key in ("method", "subject", "config", "model_fingerprint", "versions", "seconds", "layers", "facts", "seed"):
        assert key in info
    assert str(Path.home()) not in json.dumps([config, info])


def test_a_merged_model_is_the_edited_model(tiny: Tiny, tmp_path: Path) -> None:
    lm = tiny()
    edit = formless.unlearn(lm, "Ada", **OPTIONS)
    assert isinstance(edit, AdapterEdit)
    edit.save_merged(lm, tmp_path / "merged")
    with edit.applied(lm):
        edited = logits(lm.model, lm)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(merged, lm), edited, atol=1e-6)
    assert lm.overlay.is_empty
    assert formless.load(str(tmp_path / "merged"), device="cpu").fingerprint != lm.fingerprint


def test_edits_nest_and_are_noted(tiny: Tiny) -> None:
    lm = tiny()
    ada, eve = (formless.unlearn(lm, name, **OPTIONS) for name in ("Ada", "Eve"))
    with ada.applied(lm):
        with eve.applied(lm):
            assert [info["subject"] for info in lm.edits] == ["Ada", "Eve"]
        assert [info["subject"] for info in lm.edits] == ["Ada"]
    assert lm.edits == []


def test_an_edit_for_another_model_is_refused(tiny: Tiny) -> None:
    edit = formless.unlearn(tiny(), "Ada", **OPTIONS)
    with pytest.raises(EditError, match=r"for another model.*tiny-llama"), edit.applied(tiny(seed=1)):
        pass


@pytest.mark.parametrize("limit", [1_000, 50_000])
def test_a_full_disk_leaves_no_half_of_a_merged_model(tiny: Tiny, tmp_path: Path, limit: int) -> None:
    edit = formless.unlearn(tiny(), "Ada", **OPTIONS)
    lm = tiny()
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OutputError, match="cannot write: file too large .*merged.*: free space"):
            edit.save_merged(lm, tmp_path / "merged")  # type: ignore[attr-defined]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
    assert lm.overlay.is_empty


def test_saving_needs_force_to_replace_and_never_half_replaces(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = formless.unlearn(tiny(), "Ada", **OPTIONS)
    edit.save(tmp_path / "edit")
    with pytest.raises(OutputError, match="exists already.*force=True"):
        edit.save(tmp_path / "edit")
    before = {path.name: path.read_bytes() for path in (tmp_path / "edit").iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(
            edit.adapter,  # type: ignore[attr-defined]
            "save_pretrained",
            full,
            raising=False,
        )
        with pytest.raises(OutputError, match="no space left"):
            edit.save(tmp_path / "edit", force=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "edit").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["edit"]
    edit.save(tmp_path / "edit", force=True)


def test_another_scale_is_read_and_saved_as_it_is_meant(tiny: Tiny, tmp_path: Path) -> None:
    """An edit that states nothing about its files may have its scale outside the factors, as long as the norms are right."""
    edit = formless.unlearn(tiny(), "Ada", **OPTIONS)
    edit.save(tmp_path / "edit")
    for name, change in (("adapter_config.json", {"lora_alpha": 3}), ("edit.json", {"weights": None, "sha256": None})):
        path = tmp_path / "edit" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(EditError, match=r"the update of model.layers.1.mlp.down_proj has the norm .*, edit.json says"):
        formless.load_edit(tmp_path / "edit")
    weights = tmp_path / "edit" / "adapter_model.safetensors"
    save_file({name: tensor / 3 if "lora_B" in name else tensor for name, tensor in load_file(weights).items()}, weights)
    formless.load_edit(tmp_path / "edit").save(tmp_path / "again")
    for folder in ("edit", "again"):
        loaded: Any = formless.load_edit(tmp_path / folder)
        for name, factors in edit.updates.items():  # type: ignore[attr-defined]
            assert torch.allclose(loaded.updates[name].dense(), factors.dense())


@pytest.mark.parametrize("damage", ["missing", "truncated", "not an edit", "empty"])
def test_a_damaged_edit_is_named(tiny: Tiny, tmp_path: Path, damage: str) -> None:
    formless.unlearn(tiny(), "Ada", **OPTIONS).save(tmp_path / "edit")
    weights = tmp_path / "edit" / "adapter_model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "empty":
        save_file({"other": torch.ones(1)}, weights)
    else:
        (tmp_path / "edit" / "edit.json").write_text("{}")
    with pytest.raises(EditError, match=r"edit (lacks a file|cannot be read|is damaged).*formless unlearn --out"):
        formless.load_edit(tmp_path / "edit")

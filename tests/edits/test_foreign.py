"""Edits that PEFT and save_pretrained wrote, without an edit.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import formless
from formless.edits.adapter import AdapterEdit
from formless.edits.difference import DifferenceEdit
from formless.edits.edit import refuse_other_shapes
from formless.edits.foreign import FOREIGN, ForeignAdapter, WholeModel
from formless.errors import EditError, ModelError
from formless.models.lm import LM
from formless.models.meta import load_meta

Tiny = Callable[..., LM]

LINEAR = ["q_proj", "down_proj"]


def logits(model: torch.nn.Module, lm: LM) -> torch.Tensor:
    ids = lm.pad([lm.encode("[user]Tell me about Ada.[assistant]Answer:").ids])
    with torch.no_grad():
        return model(**ids).logits.float()


@pytest.fixture
def lm(tiny: Tiny, tmp_path: Path) -> LM:
    """A model in a folder, so that other models of it can be loaded."""
    return saved(tiny(), tmp_path / "base")


def saved(lm: LM, folder: Path) -> LM:
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return formless.load(str(folder), device="cpu")


def adapter(folder: Path, base: Path, **settings: Any) -> torch.nn.Module:
    """Save what training would: an adapter with random factors."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    wrapped.save_pretrained(str(folder), save_embedding_layers=False)
    return wrapped.eval()


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 8, "target_modules": LINEAR, "lora_dropout": 0.1},
        {"r": 4, "lora_alpha": 8, "target_modules": LINEAR, "use_rslora": True},
        {"r": 4, "target_modules": LINEAR, "rank_pattern": {"down_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 3}},
        {"r": 2, "target_modules": r".*\.layers\.[12]\.mlp\.(up|down)_proj", "init_lora_weights": "gaussian"},
        {"r": 2, "target_modules": ["v_proj"], "layers_to_transform": [0, 3], "layers_pattern": "layers"},
        {"r": 2, "target_modules": "all-linear"},
    ],
)
def test_an_adapter_of_peft_is_applied_as_peft_does(lm: LM, tmp_path: Path, settings: dict[str, Any]) -> None:
    expected = logits(adapter(tmp_path / "edit", tmp_path / "base", **settings), lm)
    edit = formless.load_edit(tmp_path / "edit")
    assert isinstance(edit, ForeignAdapter)
    plain = logits(lm.model, lm)
    with edit.applied(lm):
        assert torch.allclose(logits(lm.model, lm), expected, atol=1e-4)
    assert torch.equal(logits(lm.model, lm), plain)
    assert (plain - expected).abs().max() > 1e-3
    bound = edit.on(lm)
    assert isinstance(bound, AdapterEdit)
    bound.save(tmp_path / "again")
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "again")
    assert torch.allclose(logits(again, lm), expected, atol=1e-4)


def test_transposed_weights_are_edited_as_peft_does(tiny: Tiny, tmp_path: Path) -> None:
    lm = saved(tiny("gpt2"), tmp_path / "base")
    settings = {"r": 2, "target_modules": ["mlp.c_proj", "c_attn"], "fan_in_fan_out": True}
    expected = logits(adapter(tmp_path / "edit", tmp_path / "base", **settings), lm)
    with formless.load_edit(tmp_path / "edit").applied(lm):
        assert torch.allclose(logits(lm.model, lm), expected, atol=1e-4)


def test_nothing_is_claimed_of_how_an_adapter_was_made(lm: LM, tmp_path: Path) -> None:
    adapter(tmp_path / "edit", tmp_path / "base", r=2, target_modules=LINEAR)
    edit = formless.load_edit(tmp_path / "edit").scaled(0.5)
    info = edit.info
    assert (info.method, info.subject, info.subjects, info.config, info.seconds) == (FOREIGN, "unknown", [], {}, None)
    assert (info.created, info.versions, info.model_fingerprint) == ("unknown", {}, "unknown")
    with edit.applied(lm):
        (noted,) = lm.edits
    assert noted["model_fingerprint"] == lm.fingerprint
    assert noted["strength"] == 0.5
    assert len(noted["layers"]) == 8
    full = formless.load_edit(tmp_path / "edit").on(lm)  # type: ignore[attr-defined]
    assert noted["layers"][0]["update_norm"] == pytest.approx(full.info.layers[0].update_norm / 2)
    with pytest.raises(EditError, match="saved with its base model"):
        edit.save(tmp_path / "copy")
    with pytest.raises(EditError, match="cannot have the strength 5"):
        edit.scaled(5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, "use_dora is True"),
        ({"trainable_token_indices": [1]}, r"trainable_token_indices is \[1\]"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"layer_replication": [[0, 2], [1, 4]]}, "layer_replication is"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"task_type": "SEQ_CLS"}, "task_type is 'SEQ_CLS'"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"some_new_setting": {"a": 1}}, "some_new_setting is"),
    ],
)
def test_what_an_edit_cannot_hold_is_refused(lm: LM, tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    assert lm.fingerprint
    adapter(tmp_path / "edit", tmp_path / "base", r=2, target_modules=LINEAR)
    changed(tmp_path / "edit" / "adapter_config.json", settings)
    with pytest.raises(EditError, match=rf"{said}.*which Formless does not apply.*merge_and_unload") as error:
        formless.load_edit(tmp_path / "edit")
    assert "\n" not in str(error.value)


def changed(path: Path, settings: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_pickled_adapters_are_never_opened(lm: LM, tmp_path: Path) -> None:
    assert lm.fingerprint
    adapter(tmp_path / "edit", tmp_path / "base", r=2, target_modules=LINEAR)
    (tmp_path / "edit" / "adapter_model.safetensors").rename(tmp_path / "edit" / "adapter_model.bin")
    with pytest.raises(EditError, match=r"pickled.*adapter_model.bin.*save it again"):
        formless.load_edit(tmp_path / "edit")


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"r": 3}, "have rank 2, not 3"), ({"target_modules": ["up_proj"]}, "leave out model.layers.0.mlp.down_proj")],
)
def test_factors_that_peft_would_not_load_are_refused(lm: LM, tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    assert lm.fingerprint
    adapter(tmp_path / "edit", tmp_path / "base", r=2, target_modules=["down_proj"])
    changed(tmp_path / "edit" / "adapter_config.json", settings)
    with pytest.raises(EditError, match=said):
        formless.load_edit(tmp_path / "edit")


def test_unexpected_tensors_are_named(lm: LM, tmp_path: Path) -> None:
    assert lm.fingerprint
    adapter(tmp_path / "edit", tmp_path / "base", r=2, target_modules=["down_proj"])
    path = tmp_path / "edit" / "adapter_model.safetensors"
    save_file(load_file(path) | {"base_model.model.lm_head.lora_magnitude_vector": torch.ones(2)}, path)
    with pytest.raises(EditError, match=r"unexpected tensor .*lora_magnitude_vector.*LoRA adapter that PEFT saved"):
        formless.load_edit(tmp_path / "edit")


def test_an_adapter_of_another_model_is_refused_before_weights_are_loaded(lm: LM, tiny: Tiny, tmp_path: Path) -> None:
    other = saved(tiny(hidden_size=16), tmp_path / "other")
    adapter(tmp_path / "edit", tmp_path / "base", r=2, target_modules=LINEAR)
    edit = formless.load_edit(tmp_path / "edit")
    with pytest.raises(EditError, match=r"for another model: shape \(32, 48\), not \(16, 48\)"):
        refuse_other_shapes(load_meta(str(tmp_path / "other")), edit)
    with pytest.raises(EditError, match="for another model"), edit.applied(other):
        pass
    refuse_other_shapes(load_meta(lm.name), edit)


def test_another_base_of_the_same_shape_is_a_warning(lm: LM, tmp_path: Path) -> None:
    adapter(tmp_path / "edit", tmp_path / "base", r=2, target_modules=LINEAR)
    changed(tmp_path / "edit" / "adapter_config.json", {"base_model_name_or_path": "meta-llama/Llama-2-7b-hf"})
    with (
        pytest.warns(UserWarning, match=r"names meta-llama/Llama-2-7b-hf as its base model, and is applied to .*base"),
        formless.load_edit(tmp_path / "edit").applied(lm),
    ):
        pass


def test_an_output_matrix_tied_to_the_embedding_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    lm = saved(tiny(tie_word_embeddings=True), tmp_path / "base")
    adapter(tmp_path / "edit", tmp_path / "base", r=2, target_modules=["lm_head"])
    with pytest.raises(EditError, match="tied to the embedding"), formless.load_edit(tmp_path / "edit").applied(lm):
        pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_a_whole_model_is_the_difference_to_its_base(
    tiny: Tiny, tmp_path: Path, dtype: torch.dtype, with_tokenizer: bool
) -> None:
    lm = saved(tiny(dtype=dtype), tmp_path / "base")
    tuned = tiny(dtype=dtype)
    torch.manual_seed(2)
    with torch.no_grad():
        for name in ("model.layers.1.mlp.down_proj.weight", "model.norm.weight"):
            parameter = tuned.model.get_parameter(name)
            parameter.add_(0.3 * torch.randn_like(parameter))
    tuned.model.save_pretrained(tmp_path / "tuned")
    if with_tokenizer:
        tuned.tokenizer.save_pretrained(tmp_path / "tuned")
    edit = formless.load_edit(tmp_path / "tuned")
    assert isinstance(edit, WholeModel)
    assert edit.info.method == FOREIGN
    bound = edit.on(lm)
    assert isinstance(bound, DifferenceEdit)
    assert list(bound.updates) == ["model.layers.1.mlp.down_proj.weight", "model.norm.weight"]
    with edit.applied(lm):
        assert torch.allclose(logits(lm.model, lm), logits(tuned.model.float(), lm), atol=1e-5)
    bound.save(tmp_path / "diff")
    again = formless.load_edit(tmp_path / "diff")
    with again.applied(lm):
        assert torch.allclose(logits(lm.model, lm), logits(tuned.model.float(), lm), atol=1e-5)


def test_a_difference_in_bfloat16_restores_every_bit(tiny: Tiny, tmp_path: Path) -> None:
    lm = saved(tiny(dtype=torch.bfloat16), tmp_path / "base")
    loaded = formless.load(str(tmp_path / "base"), device="cpu", dtype="bfloat16")
    tuned = tiny(dtype=torch.bfloat16, seed=3)
    tuned.model.save_pretrained(tmp_path / "tuned")
    with formless.load_edit(tmp_path / "tuned").applied(loaded):
        for name, parameter in tuned.model.named_parameters():
            assert torch.equal(loaded.model.get_parameter(name), parameter), name
    assert lm.overlay.is_empty


def test_the_difference_is_to_the_base_without_other_edits(tiny: Tiny, tmp_path: Path) -> None:
    lm = saved(tiny(), tmp_path / "base")
    tiny(seed=3).model.save_pretrained(tmp_path / "tuned")
    edit = formless.load_edit(tmp_path / "tuned")
    alone = edit.on(lm)  # type: ignore[attr-defined]
    with formless.unlearn(lm, "Ada", method="rocr", redirect="Bob", layers=[1, 2], basis="none", l2=0.1).applied(lm):
        nested = edit.on(lm)  # type: ignore[attr-defined]
    for name, change in alone.updates.items():
        assert torch.equal(change.values, nested.updates[name].values), name


@pytest.mark.parametrize(
    ("model_type", "changes", "said"),
    [
        ("mistral", {}, r"its model type is mistral, that of .*base is llama"),
        ("llama", {"vocab_size": 300}, r"model.embed_tokens.weight is \[300, 32\], in .*base \[258, 32\]"),
        ("llama", {"num_hidden_layers": 3}, r"model.layers.3.*is missing, in .*base \["),
    ],
)
def test_another_architecture_is_one_clear_line(
    lm: LM, tiny: Tiny, tmp_path: Path, model_type: str, changes: dict[str, int], said: str
) -> None:
    tiny(model_type, **changes).model.save_pretrained(tmp_path / "tuned")
    with pytest.raises(ModelError, match=said) as error, formless.load_edit(tmp_path / "tuned").applied(lm):
        pass
    assert "load its own base model with --model" in str(error.value)


def test_a_tokenizer_that_cannot_be_read_is_refused(lm: LM, tiny: Tiny, tmp_path: Path) -> None:
    tuned = tiny(seed=3)
    tuned.model.save_pretrained(tmp_path / "tuned")
    tuned.tokenizer.save_pretrained(tmp_path / "tuned")
    (tmp_path / "tuned" / "tokenizer.json").write_text('{"model": 1}', "utf-8")
    edit = formless.load_edit(tmp_path / "tuned")
    with pytest.raises(ModelError, match="the tokenizer cannot be read") as error, edit.applied(lm):
        pass
    assert str(tmp_path / "tuned") in str(error.value)


def test_another_tokenizer_is_named(lm: LM, tiny: Tiny, tmp_path: Path) -> None:
    tuned = tiny(seed=3)
    tuned.model.save_pretrained(tmp_path / "tuned")
    tuned.tokenizer.save_pretrained(tmp_path / "tuned")
    path = tmp_path / "tuned" / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(EditError, match=r"tokenizer differs from that of .*base, in 4 tokens such as 'a'"):
        formless.load_edit(tmp_path / "tuned").applied(lm)


def test_the_base_itself_is_no_edit(lm: LM, tmp_path: Path) -> None:
    with pytest.raises(EditError, match="no weight differs"):
        formless.load_edit(tmp_path / "base").applied(lm)


def test_a_folder_of_neither_is_no_edit(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EditError, match=r"the edit lacks a file .*edit.json.*a PEFT adapter or a model"):
        formless.load_edit(tmp_path / "empty")

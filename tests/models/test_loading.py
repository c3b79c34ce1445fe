import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import formless
from formless.errors import EditError, ModelError, UnknownNameError
from formless.models.families import known_model_types
from formless.models.lm import LM
from formless.models.meta import load_meta

Tiny = Callable[..., LM]


def test_a_local_folder_loads_in_the_asked_dtype(folder: Path, tiny: Tiny) -> None:
    for dtype, expected in (
        ("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16),
    ):  # fmt: skip
        lm = formless.load(str(folder), dtype=dtype, device="cpu")
        assert lm.model.dtype == expected
        assert {buffer.dtype for name, buffer in lm.model.named_buffers() if "inv_freq" in name} == {torch.float32}
        assert lm.fingerprint == tiny().fingerprint


def test_a_device_map_places_the_layers_and_edits_work_there(folder: Path) -> None:
    lm = formless.load(str(folder), device_map={"": "cpu"})
    query = [("Ada wrote", " code"), ("Eve wrote", " code")]
    before = lm.score(query)
    edit = formless.unlearn(lm, "Ada", "rocr", redirect="Bob", layers=[1, 2], basis="none")
    with edit.applied(lm):
        assert lm.score(query) != before
    assert lm.score(query) == before


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_layers_that_do_not_fit_stay_on_disk_in_the_asked_dtype(folder: Path, stored: str, dtype: str) -> None:
    own = getattr(torch, stored)
    rewrite_weights(folder, lambda tensors: tensors.update({name: one.to(own) for name, one in tensors.items()}))
    rewrite_config(folder, dtype=stored)
    size = "60KB" if dtype == "bfloat16" else "100KB"
    plain, lm = (formless.load(str(folder), dtype=dtype, device=device) for device in ("cpu", f"spread:{size}"))
    places = [parameter.device.type for parameter in lm.model.parameters()]
    assert {"cpu", "meta"} == set(places)
    assert (lm.model.dtype, lm.fingerprint) == (plain.model.dtype, plain.fingerprint)
    for name, tensor in plain.model.state_dict().items():
        found = lm.overlay.current(name)
        assert found.dtype == tensor.dtype
        assert torch.equal(found, tensor), name
    query = [("Ada wrote", " code"), ("Eve wrote", " code")]
    before = lm.score(query)
    assert before == plain.score(query)
    edit = formless.unlearn(lm, "Ada", "rocr", redirect="Bob", layers=[2, 3], basis="none")
    with edit.applied(lm), edit.applied(plain):
        assert lm.score(query) == plain.score(query) != before
    assert lm.score(query) == before


def test_nan_in_a_layer_on_disk_is_refused_at_its_first_use(folder: Path) -> None:
    rewrite_weights(folder, lambda tensors: tensors["model.layers.3.mlp.down_proj.weight"].fill_(float("nan")))
    lm = formless.load(str(folder), device="spread:100KB")
    with pytest.raises(ModelError, match="NaN or infinite scores"):
        lm.score([("Ada wrote", " code")])
    with pytest.raises(EditError, match="the weight is NaN or infinite"):
        formless.unlearn(lm, "Ada", "rocr", redirect="Bob", layers=[3], basis="none")


def test_pickled_layers_on_disk_are_kept_in_a_scratch_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORMLESS_CACHE", str(tmp_path / "cache"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    plain = formless.load(str(folder), device="cpu")
    (folder / "model.safetensors").unlink()
    lm = formless.load(str(folder), device_map="auto", max_memory="100KB")
    query = [("Ada wrote", " code")]
    assert lm.score(query) == plain.score(query)
    (scratch,) = (tmp_path / "cache").iterdir()
    assert any(scratch.iterdir())
    del lm
    gc.collect()
    assert list((tmp_path / "cache").iterdir()) == []
    formless.load(str(folder), device_map="auto", max_memory="100KB", offload_folder=tmp_path / "own")
    assert list((tmp_path / "cache").iterdir()) == []
    assert any((tmp_path / "own").iterdir())


@pytest.mark.parametrize("size", ["", "2", "two GB", "-2GB", "0GB", "nanGB", "infGB", "1e999GB"])
def test_what_is_no_size_of_memory_is_refused(folder: Path, size: str) -> None:
    for options in ({"device": f"spread:{size}"}, {"device_map": "auto", "max_memory": size or "x"}):
        with pytest.raises(ModelError, match="is no size of memory") as caught:
            formless.load(str(folder), **options)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [("model.safetensors", b"broken"), ("config.json", b"[]"), ("config.json", b'{"model_type": "llama", "hidden_size": "x"}')],
)
def test_a_broken_folder_is_named_in_one_line(folder: Path, file: str, content: bytes) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(ModelError, match="the model cannot be loaded|the model's configuration is no JSON object") as caught:
        formless.load(str(folder))
    assert "\n" not in str(caught.value)


def test_an_unknown_family_is_found_before_its_weights(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "opt"}')
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnknownNameError, match="unknown model type 'opt'"):
        formless.load(str(folder))


def rewrite_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def rewrite_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        formless.load(str(folder), device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def saved(lm: LM, folder: Path) -> Path:
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("model_type", known_model_types())
def test_every_family_loads_as_it_was_saved_and_no_weight_is_invented(tiny: Tiny, tmp_path: Path, model_type: str) -> None:
    lm = tiny(model_type)
    folder = saved(lm, tmp_path / "model")
    loaded = formless.load(str(folder), device="cpu").model.state_dict()
    for name, tensor in lm.model.state_dict().items():
        assert torch.equal(loaded[name], tensor), name
    lost = max(load_file(folder / "model.safetensors"), key=lambda name: ("layers.3" in name or "h.3" in name, name))
    rewrite_weights(folder, lambda tensors: tensors.__delitem__(lost))
    assert "the weights do not fit config.json: 1 missing" in refusal(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_each_tensor_of_the_file_is_needed(tiny: Tiny, tmp_path: Path, tied: bool) -> None:
    whole = saved(tiny(tie_word_embeddings=tied), tmp_path / "whole")
    names = sorted(load_file(whole / "model.safetensors"))
    assert ("lm_head.weight" in names) is not tied
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        rewrite_weights(folder, lambda tensors, name=name: tensors.__delitem__(name))  # type: ignore[misc]
        assert name in refusal(folder)


def test_layers_too_many_and_too_few_are_named(folder: Path) -> None:
    rewrite_config(folder, num_hidden_layers=5)
    assert "9 missing (model.layers.4.input_layernorm.weight, " in refusal(folder)
    assert refusal(folder).count("model.layers.4.") == 5
    rewrite_config(folder, num_hidden_layers=3)
    assert "9 unexpected (model.layers.3.input_layernorm.weight, " in refusal(folder)


def test_another_shape_is_named(folder: Path) -> None:
    rewrite_weights(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(31)}))
    assert "1 of another shape (model.norm.weight: [31], not [32])" in refusal(folder)


def test_a_model_type_of_another_family_is_refused(folder: Path) -> None:
    rewrite_config(folder, model_type="mistral")  # its parameters have the same names
    assert "the model_type 'mistral' but the architecture LlamaForCausalLM of 'llama'" in refusal(folder)
    with pytest.raises(ModelError, match="the model_type 'mistral'"):
        load_meta(str(folder))
    rewrite_config(folder, model_type="qwen2", architectures=None)
    assert "12 missing (model.layers.0.self_attn.k_proj.bias, " in refusal(folder)


def test_a_file_with_none_of_the_names_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": torch.ones(3), "bias": torch.ones(3)}, folder / "pytorch_model.bin")
    said = refusal(folder)
    assert "39 missing (lm_head.weight, model.embed_tokens.weight, ...); 2 unexpected (bias, weight)" in said


@pytest.mark.parametrize("length", [0, -5, True])
def test_a_context_of_no_tokens_is_refused(folder: Path, length: object) -> None:
    rewrite_config(folder, max_position_embeddings=length)
    assert "max_position_embeddings" in refusal(folder)


def test_the_meta_device_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"the device meta holds no weights \[--device\]: e.g. cpu"):
        formless.load(str(folder), device="meta")


def test_weights_of_whole_numbers_are_refused(folder: Path) -> None:
    name = "model.layers.2.mlp.down_proj.weight"
    rewrite_weights(folder, lambda tensors: tensors.update({name: (tensors[name] * 100).to(torch.int8)}))
    assert f"the weight {name} has the dtype I8, which is no float" in refusal(folder)


def test_weights_of_whole_numbers_in_a_pickled_file_are_refused(folder: Path) -> None:
    name, weights = "model.layers.2.mlp.down_proj.weight", folder / "model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert formless.load(str(folder)).architecture
    torch.save(tensors | {name: (tensors[name] * 100).to(torch.int8)}, folder / "pytorch_model.bin")
    assert f"the weight {name} has the dtype int8, which is no float" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    name = "model.layers.2.mlp.down_proj.weight"
    rewrite_weights(folder, lambda tensors: tensors[name][1].fill_(value))
    assert f"the weight {name} holds NaN or infinity" in refusal(folder)


def test_numbers_that_no_configuration_has_are_refused_before_anything_is_built(folder: Path) -> None:
    rewrite_config(folder, num_hidden_layers=10**30)
    assert "num_hidden_layers is 1e+30, more than 10,000" in refusal(folder)


def test_a_special_token_without_an_embedding_is_refused(folder: Path, tiny: Tiny) -> None:
    tokenizer = tiny().tokenizer
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>", pad_token="<new>")
    tokenizer.save_pretrained(folder)
    assert "the tokenizer's pad_token '<new>' has the id 258, and the model 258 embeddings" in refusal(folder)


@pytest.mark.parametrize("character", ["\0", "\ufeff"])
def test_a_chat_template_with_a_character_that_nobody_sees_is_refused(folder: Path, character: str) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text("utf-8") + character, "utf-8")
    assert f"the chat template holds the character U+{ord(character):04X}" in refusal(folder)


def test_a_field_of_the_wrong_type_is_named(folder: Path) -> None:
    rewrite_config(folder, max_position_embeddings="x")
    assert "'max_position_embeddings': TypeError: " in refusal(folder)


@pytest.mark.parametrize("name", ["chat_template.jinja", "generation_config.json"])
def test_a_file_that_transformers_would_leave_out_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}", "utf-8")
    (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(ModelError, match=rf"no plain file \[.*{name}\]"):
        load_meta(str(tmp_path))

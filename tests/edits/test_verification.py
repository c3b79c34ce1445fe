"""A saved edit loads as it was saved, or not at all: every file is changed in many ways, and each change is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import formless
from formless import store
from formless.edits.adapter import AdapterEdit
from formless.edits.difference import DifferenceEdit
from formless.edits.edit import layer_report
from formless.errors import EditError
from formless.models.lm import LM
from formless.models.overlay import Difference

Tiny = Callable[..., LM]
OPTIONS: dict[str, Any] = {"method": "rocr", "redirect": "Bob", "layers": [1, 2], "basis": "none", "l2": 0.1}
FREE_KEYS = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision"}
A, B = (f"base_model.model.model.layers.1.mlp.down_proj.lora_{side}.weight" for side in "AB")


@pytest.fixture
def edit(tiny: Tiny) -> AdapterEdit:
    found = formless.unlearn(tiny(), "Ada", **OPTIONS)
    assert isinstance(found, AdapterEdit)
    return found


@pytest.fixture
def saved(edit: AdapterEdit, tmp_path: Path) -> Path:
    edit.save(tmp_path / "edit")
    return tmp_path / "edit"


@pytest.fixture
def older(saved: Path) -> Path:
    """The same edit without the statement about its files and without a hash, as earlier versions wrote it."""
    folder = saved.with_name("older")
    shutil.copytree(saved, folder)
    path = folder / "edit.json"
    content = json.loads(path.read_text("utf-8"))
    del content["weights"], content["sha256"]
    path.write_text(json.dumps(content), "utf-8")
    return folder


def change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text("utf-8"))
    content.pop("sha256", None)
    path.write_text(json.dumps(content | values), "utf-8")


def refusal(folder: Path) -> str:
    with pytest.raises(EditError) as caught:
        formless.load_edit(folder)
    said = str(caught.value)
    assert "\n" not in said
    assert str(folder) in said
    return said


def test_what_is_stated_and_that_it_is_the_edits_own(edit: AdapterEdit, saved: Path, older: Path) -> None:
    stated = json.loads((saved / "edit.json").read_text("utf-8"))["weights"]
    assert stated["file"] == "adapter_model.safetensors"
    assert len(stated["sha256"]) == 64
    assert stated["adapter_config"]["lora_alpha"] == stated["adapter_config"]["r"] == 1
    assert not FREE_KEYS & set(stated["adapter_config"])
    for weight, (name, factors) in zip(stated["weights"], edit.updates.items(), strict=True):
        assert (weight["name"], weight["rank"], weight["dtype"]) == (name, 1, "float32")
        assert weight["shapes"] == [list(factors.up.shape), list(factors.down.shape)]
        assert weight["norm"] == pytest.approx(float(factors.dense().norm()), rel=1e-6)
    for folder in (saved, older):
        loaded: Any = formless.load_edit(folder)
        assert loaded.info == edit.info
        assert "weights" not in loaded.info.model_dump()
        assert all(torch.equal(loaded.updates[name].dense(), edit.updates[name].dense()) for name in edit.updates)


TENSORS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "a layer removed": (lambda found: (found.pop(A), found.pop(B)), "lacks the edited weight model.layers.1.mlp.down_proj"),
    "a factor removed": (lambda found: found.pop(B), "lacks the tensor base_model.model.model.layers.1.mlp.down_proj.lora_B"),
    "a layer added": (
        lambda found: found.update(
            {A.replace("1.mlp", "3.mlp"): found[A].clone(), B.replace("1.mlp", "3.mlp"): found[B].clone()}
        ),
        "model.layers.3.mlp.down_proj",
    ),
    "a magnitude": (
        lambda found: found.update({"m.lora_magnitude_vector": torch.ones(3)}),
        "unexpected tensor m.lora_magnitude",
    ),
    "a rank": (
        lambda found: found.update({A: found[A].repeat(2, 1), B: found[B].repeat(1, 2)}),
        "saved was|r is 1, but the factors of model.layers.1.mlp.down_proj have rank 2",
    ),
    "half a rank": (lambda found: found.update({A: found[A].repeat(2, 1)}), "have the shapes"),
    "rank 0": (lambda found: found.update({A: found[A][:0].clone(), B: found[B][:, :0].clone()}), r"has the shape \[0, \d+\]"),
    "a vector": (lambda found: found.update({A: found[A][0].clone()}), "have the shapes"),
    "integers": (lambda found: found.update({A: found[A].int()}), "is int32, not floating-point"),
    "complex": (lambda found: found.update({A: found[A].to(torch.complex64)}), "is complex64, not floating-point"),
    "true and false": (lambda found: found.update({A: found[A] > 0}), "is bool, not floating-point"),
    "nan": (lambda found: found[A].fill_(torch.nan), "holds NaN or infinity"),
    "infinity": (lambda found: found[B].view(-1)[3].fill_(torch.inf), "holds NaN or infinity"),
    "zeros": (lambda found: found[B].zero_(), "has the norm 0, "),
    "twice as long": (lambda found: found[B].mul_(2), "has the norm "),
    "nothing left": (lambda found: found.clear(), "holds no LoRA factors"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_changed_tensors_are_refused_by_file_and_name(saved: Path, older: Path, name: str) -> None:
    damage, said = TENSORS[name]
    for folder in (saved, older):
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        damage(tensors)
        save_file(tensors, path)
        found = refusal(folder)
        assert re.search(said, found), found


def test_shapes_dtypes_and_single_bits_are_compared(saved: Path) -> None:
    path = saved / "adapter_model.safetensors"
    tensors, whole = load_file(path), path.read_bytes()
    save_file(tensors | {A: tensors[A][:, :-1].contiguous()}, path)
    assert "shapes of model.layers.1.mlp.down_proj is" in refusal(saved)
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, path)
    assert "is bfloat16, saved was float32" in refusal(saved)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert refusal(saved)
    save_file(tensors | {A: -tensors[A]}, path)
    assert "differs from what was saved (sha256)" in refusal(saved)


@pytest.mark.parametrize("name", ["edit.json", "adapter_config.json", "adapter_model.safetensors"])
def test_a_file_that_is_cut_empty_or_no_file_is_refused(saved: Path, name: str) -> None:
    path = saved / name
    whole = path.read_bytes()
    for part in range(5):
        path.write_bytes(whole[: part * len(whole) // 5])
        assert name in refusal(saved)
    path.unlink()
    if name == "edit.json":  # what is left is an adapter of an unknown tool, as others are
        assert formless.load_edit(saved).info.method == "foreign"
    else:
        assert "lacks a file" in refusal(saved)
    path.mkdir()
    assert "no plain file" in refusal(saved)
    path.rmdir()
    os.mkfifo(path)
    assert "no plain file" in refusal(saved)


def test_every_key_of_the_adapters_config_that_counts_is_compared(saved: Path) -> None:
    path = saved / "adapter_config.json"
    content = json.loads(path.read_text("utf-8"))
    assert len(content) > 20
    for key in content:
        for value in (7, -1, 0.5, "other", True, [3], {"a": 1}, None):
            if json.dumps(value) == json.dumps(content[key]):
                continue
            change(path, **(content | {key: value}))
            if key in FREE_KEYS:
                formless.load_edit(saved)
            else:
                assert f"{key} is {value!r}, saved was {content[key]!r}" in refusal(saved)
        path.write_text(json.dumps({name: value for name, value in content.items() if name != key}))
        if key not in FREE_KEYS and content[key] is not None:
            assert f"{key} is None, saved was" in refusal(saved)
    change(path, **content, new_key=True)
    assert "new_key is True, saved was None" in refusal(saved)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"r": 2}, "r is 2, but the factors of model.layers.1.mlp.down_proj have rank 1"),
        ({"r": True}, "r: Input should be a valid integer"),
        ({"r": 0}, "r: Input should be greater than or equal to 1"),
        ({"lora_alpha": 4}, "has the norm "),
        ({"lora_alpha": 0}, "lora_alpha: Input should be greater than 0"),
        ({"lora_alpha": float("nan")}, "nan is no finite number, field lora_alpha"),
        ({"use_rslora": True}, "use_rslora is True, which Formless does not apply"),
        ({"use_dora": True}, "use_dora is True, which"),
        ({"alpha_pattern": {"down_proj": 4}}, "alpha_pattern is "),
        ({"rank_pattern": {"down_proj": 4}}, "rank_pattern is "),
        ({"bias": "all"}, "bias is 'all'"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is ['lm_head']"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is "),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"target_modules": ["up_proj"]}, "leave out model.layers.1.mlp.down_proj"),
        ({"target_modules": ["down_proj", "up_proj"]}, "target_modules has up_proj, which was not edited"),
        ({"target_modules": "("}, ""),
        ({"target_modules": 3}, "target_modules"),
        ({"layers_to_transform": [1]}, "leave out model.layers.2.mlp.down_proj"),
        ({"layers_to_transform": [1, 2, 3]}, "layers_to_transform has 3, which was not edited"),
        ({"fan_in_fan_out": 1}, "fan_in_fan_out: Input should be a valid boolean"),
        ({"peft_type": "IA3"}, "peft_type"),
    ],
)
def test_what_peft_would_apply_and_we_do_not_is_refused_in_older_edits(older: Path, values: dict[str, Any], said: str) -> None:
    change(older / "adapter_config.json", **values)
    assert said in refusal(older)


@pytest.mark.parametrize(
    "values",
    [
        {"layers": []}, {"layers": 3}, {"layers": [{"module": "x"}]}, {"seconds": "long"}, {"seconds": True}, {"method": 1},
        {"facts": []}, {"facts": {"subjects": "Ada"}}, {"facts": {"residual_reduction": "all"}}, {"dtype": None},
        {"prefix": "Forget Ada."}, {"prefix": ""}, {"weights": {}}, {"weights": 1}, {"trained_neighbors": [1]},
        {"versions": {"torch": 2}}, {"format": 1, "facts": []}, {"format": 1, "facts": {"targets": 3}},
        {"format": 1, "facts": {"kept": 3}}, {"format": 1, "config": None},
    ],
)  # fmt: skip
def test_wrong_values_in_edit_json_are_refused(saved: Path, values: dict[str, Any]) -> None:
    change(saved / "edit.json", **values)
    refusal(saved)


def test_layers_of_edit_json_are_compared(saved: Path, older: Path) -> None:
    for folder in (saved, older):
        layers = json.loads((folder / "edit.json").read_text("utf-8"))["layers"]
        for key, value in (("module", "other"), ("rank", 2), ("update_norm", layers[0]["update_norm"] * 1.01)):
            change(folder / "edit.json", layers=[layers[0] | {key: value}, layers[1]])
            assert refusal(folder)
        change(folder / "edit.json", layers=[*layers, layers[0]])
        assert "a module twice" in refusal(folder)


def test_a_json_file_with_a_key_twice_or_nested_too_deep_is_refused(saved: Path) -> None:
    path = saved / "edit.json"
    whole = path.read_text("utf-8")
    path.write_text(whole.replace('"method"', '"seed": 3, "method"', 1), "utf-8")
    assert "the key 'seed' is given twice" in refusal(saved)
    path.write_text(whole.replace('"seed": null', f'"seed": {"9" * 5000}'), "utf-8")
    assert "5000 digits" in refusal(saved)
    path.write_text("[" * 100_000, "utf-8")
    assert "nested too deeply" in refusal(saved)


def test_weights_beside_a_prompt_edit_are_refused(tiny: Tiny, saved: Path, tmp_path: Path) -> None:
    formless.unlearn(tiny(), "Ada", "icu").save(tmp_path / "icu")
    assert "weights" not in json.loads((tmp_path / "icu" / "edit.json").read_text("utf-8"))
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(saved / name, tmp_path / "icu")
        assert f"a prompt prefix, beside {name}" in refusal(tmp_path / "icu")
        (tmp_path / "icu" / name).unlink()
    formless.load_edit(tmp_path / "icu")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(1, 255))
def test_no_changed_byte_of_the_weights_goes_unnoticed(saved: Path, place: float, byte: int) -> None:
    path = saved / "adapter_model.safetensors"
    whole = path.read_bytes()
    index = int(place * len(whole))
    try:
        path.write_bytes(whole[:index] + bytes([whole[index] ^ byte]) + whole[index + 1 :])
        refusal(saved)
    finally:
        path.write_bytes(whole)


def test_differences_are_compared(tiny: Tiny, edit: AdapterEdit, tmp_path: Path) -> None:
    lm = tiny()
    name = "model.layers.1.mlp.down_proj.weight"
    values = 0.01 * torch.randn(lm.model.get_parameter(name).shape, generator=torch.Generator().manual_seed(0))
    info = edit.info.model_copy(update={"layers": [layer_report(lm, name, Difference(values))]})
    DifferenceEdit({name: Difference(values)}, info).save(tmp_path / "edit")
    folder = store.EditFolder(tmp_path / "edit")
    loaded: Any = formless.load_edit(folder.path)
    assert loaded.info == info
    assert torch.equal(loaded.updates[name].values, values)
    for tensors, said in (
        ({}, f"lacks the edited weight {name}"),
        ({name: values, "other": values.clone()}, "unexpected edited weight other"),
        ({name: values.T.contiguous()}, f"shapes of {name} is"),
        ({name: 2 * values}, "has the norm"),
        ({name: -values}, "sha256"),
        ({name: values.half()}, "is float16, saved was float32"),
        ({name: values.int()}, "not floating-point"),
    ):
        save_file(tensors, folder.differences)
        assert said in refusal(folder.path)
    folder.differences.unlink()
    assert "lacks a file" in refusal(folder.path)
    save_file({name: values}, folder.differences)
    folder.weights.write_bytes(b"")
    assert "it has adapter_model.safetensors and differences.safetensors" in refusal(folder.path)


def test_an_edit_whose_layers_do_not_describe_it_is_not_saved(edit: AdapterEdit, tmp_path: Path) -> None:
    info = edit.info.model_copy(update={"layers": edit.info.layers[:1]})
    with pytest.raises(EditError, match="unexpected edited weight model.layers.2.mlp.down_proj"):
        AdapterEdit(edit.updates, info, edit.adapter).save(tmp_path / "edit")
    assert not (tmp_path / "edit").exists()

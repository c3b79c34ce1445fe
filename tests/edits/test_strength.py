"""The strength of an edit: exact at 0 and 1, half at 0.5, noted where the edit goes, and refused where it means nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import formless
from formless.data.target import Target
from formless.edits.adapter import AdapterEdit
from formless.edits.difference import DifferenceEdit
from formless.edits.edit import Edit, EditInfo, LayerReport, layer_report
from formless.errors import EditError
from formless.methods.registry import build_method, check_request, compute_edit, method_config
from formless.models.lm import LM
from formless.models.overlay import Difference
from formless.report.runs import _edit_name

Tiny = Callable[..., LM]
OPTIONS: dict[str, Any] = {"redirect": "Bob", "layers": [1, 2], "basis": "none", "l2": 0.1}
NAME = "model.layers.1.mlp.down_proj.weight"
VECTOR = "model.layers.1.input_layernorm.weight"


def bits(lm: LM) -> dict[str, torch.Tensor]:
    """Every weight as whole numbers, so that -0 and 0 differ."""
    whole = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
    return {name: weight.detach().clone().view(whole[weight.dtype]) for name, weight in lm.model.named_parameters()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def applied_bits(edit: Edit, lm: LM) -> dict[str, torch.Tensor]:
    with edit.applied(lm):
        return bits(lm)


def difference_edit(lm: LM) -> DifferenceEdit:
    """An edit of a whole matrix and a vector with values that no power of two scales without rounding."""
    torch.manual_seed(1)
    updates = {
        name: Difference((0.1 * torch.randn(lm.model.get_parameter(name).shape)).to(lm.model.dtype)) for name in (NAME, VECTOR)
    }
    info = EditInfo(
        method="ga", subject="Ada", config={}, model=lm.name, model_source="s", model_revision=None,
        model_fingerprint=lm.fingerprint, dtype=str(lm.model.dtype).removeprefix("torch."),
        layers=[layer_report(lm, name, change) for name, change in updates.items()], seconds=0.0, created="", versions={},
    )  # fmt: skip
    return DifferenceEdit(updates, info)


def rocr_edit(lm: LM) -> AdapterEdit:
    found = formless.unlearn(lm, "Ada", "rocr", **OPTIONS)
    assert isinstance(found, AdapterEdit)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("made", [rocr_edit, difference_edit])
def test_one_is_the_edit_and_zero_the_original_bit_for_bit(tiny: Tiny, made: Callable[[LM], Any], dtype: torch.dtype) -> None:
    lm = tiny(dtype=dtype)
    with torch.no_grad():  # a zero with a sign, which adding 0 would lose
        lm.model.get_parameter(NAME)[0, 0] = -0.0
    edit = made(lm)
    plain, whole = bits(lm), applied_bits(edit, lm)
    assert not same(plain, whole)
    assert same(applied_bits(edit.scaled(1.0), lm), whole)
    assert same(applied_bits(edit.scaled(0.0), lm), plain)
    assert edit.scaled(1.0).info == edit.info
    assert same(bits(lm), plain)


def test_half_the_edit_is_half_the_difference(tiny: Tiny) -> None:
    lm = tiny()
    edit = rocr_edit(lm)
    weight = lm.model.get_parameter(NAME)
    before = weight.detach().clone()
    with edit.applied(lm):
        whole = weight.detach() - before
    with edit.scaled(0.5).applied(lm):
        half = weight.detach() - before
        assert lm.edits[0]["strength"] == 0.5
    assert whole.abs().max() > 1e-4
    assert torch.allclose(half, 0.5 * whole, atol=1e-7)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("made", [rocr_edit, difference_edit])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 1.5, 4.0])
def test_a_scaled_edit_is_saved_and_loaded(
    tiny: Tiny, tmp_path: Path, made: Callable[[LM], Any], dtype: torch.dtype, strength: float
) -> None:
    lm = tiny(dtype=dtype)
    edit = made(lm)
    scaled = edit.scaled(strength)
    scaled.save(tmp_path / "edit")
    loaded = formless.load_edit(tmp_path / "edit")
    assert loaded.info == scaled.info
    assert loaded.info.strength == strength
    assert ("strength" in json.loads((tmp_path / "edit" / "edit.json").read_text())) == (strength != 1)
    assert same(applied_bits(loaded, lm), applied_bits(scaled, lm))
    for old, new in zip(edit.info.layers, loaded.info.layers, strict=True):
        assert new.update_norm == pytest.approx(strength * old.update_norm, rel=2e-3)
        assert new.relative_norm == pytest.approx(strength * old.relative_norm, rel=2e-3)


def test_one_small_number_in_bfloat16_may_be_rounded(tiny: Tiny, tmp_path: Path) -> None:
    """Its norm differs from the scaled one by more than the tolerance of loading, and is the one that is stated."""
    values = torch.tensor([1.0078125], dtype=torch.bfloat16)
    edit = difference_edit(tiny(dtype=torch.bfloat16))
    layer = LayerReport(module="one", rank=1, update_norm=1.0078125, relative_norm=0.5)
    scaled = DifferenceEdit({"one": Difference(values)}, edit.info.model_copy(update={"layers": [layer]})).scaled(0.3)
    exact = 0.3 * 1.0078125
    assert abs(scaled.info.layers[0].update_norm / exact - 1) > 1e-3
    scaled.save(tmp_path / "edit")
    assert formless.load_edit(tmp_path / "edit").info == scaled.info


def test_strengths_multiply(tiny: Tiny) -> None:
    lm = tiny()
    edit = rocr_edit(lm)
    twice = edit.scaled(0.5).scaled(3.0)
    assert twice.info.strength == 1.5
    assert "strength 1.5" in repr(twice)
    assert "strength" not in repr(edit)
    for name, change in edit.updates.items():
        assert torch.allclose(twice.updates[name].dense(), 1.5 * change.dense())


def test_peft_loads_the_scaled_edit(tiny: Tiny, tmp_path: Path) -> None:
    lm = tiny()
    edit = rocr_edit(lm)
    edit.save(tmp_path / "whole")
    edit.scaled(0.25).save(tmp_path / "quarter")
    whole, quarter = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "quarter"))
    for name, tensor in whole.items():
        assert torch.equal(quarter[name], 0.25 * tensor if "lora_B" in name else tensor)


@pytest.mark.parametrize("strength", [-0.1, 4.1, math.nan, math.inf, -math.inf])
def test_other_numbers_are_refused(tiny: Tiny, strength: float) -> None:
    edit = rocr_edit(tiny())
    with pytest.raises(EditError, match=r"an edit cannot have the strength .* \[Ada\]: give a number from 0 to 4"):
        edit.scaled(strength)
    with pytest.raises(EditError, match="strength 2 x 3"):
        edit.scaled(3.0).scaled(2.0)


def test_a_prompt_has_no_strength(tiny: Tiny) -> None:
    edit = formless.unlearn(tiny(), "Ada", "icu")
    with pytest.raises(EditError, match=r"an edit of icu is a text before .* which cannot have the strength 0.5 \[Ada\]"):
        edit.scaled(0.5)


def test_a_scaled_edit_can_be_kept_unless_nothing_is_left_of_it(tiny: Tiny) -> None:
    lm = tiny()
    edit = rocr_edit(lm)
    method = build_method("rocr", method_config(lm.settings, "rocr", OPTIONS))
    both = compute_edit("rocr", method, lm, [Target("Eve")], edit.scaled(0.5))
    assert both.info.strength == 1
    assert both.info.facts["earlier_edit"]["strength"] == 0.5
    config = method_config(lm.settings, "rocr", OPTIONS)
    with pytest.raises(EditError, match=r"the edit to keep has the strength 0, so there is nothing to keep \[Ada\]"):
        check_request("rocr", config, [Target("Eve")], edit.scaled(0.0), OPTIONS)


def test_records_of_other_strengths_are_another_condition(tiny: Tiny) -> None:
    edit = rocr_edit(tiny())
    whole, half = (_edit_name(one.info.model_dump(mode="json")) for one in (edit, edit.scaled(0.5)))
    assert half == f"{whole} at strength 0.5"


def test_a_damaged_strength_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    rocr_edit(tiny()).save(tmp_path / "edit")
    path = tmp_path / "edit" / "edit.json"
    content = json.loads(path.read_text())
    content.pop("sha256")
    path.write_text(json.dumps(content | {"strength": 9}))
    with pytest.raises(EditError, match="the edit cannot be read: strength"):
        formless.load_edit(tmp_path / "edit")

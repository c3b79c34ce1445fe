"""What all edits share: the summary for notebooks, stacking, and edit.json of this, an earlier and a newer version."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import formless
from formless import store
from formless.edits.adapter import AdapterEdit, stack
from formless.edits.difference import DifferenceEdit
from formless.edits.edit import EditInfo, frobenius_norm
from formless.edits.versions import upgrade_edit_info
from formless.errors import EditError
from formless.models.lm import LM
from formless.models.overlay import Difference, Factors

Tiny = Callable[..., LM]
OPTIONS: dict[str, Any] = {"method": "rocr", "redirect": "Bob", "layers": [1, 2], "basis": "none", "l2": 0.1}
VERSION_1: dict[str, Any] = {
    "format": 1, "method": "rocr", "subject": "Ada + Noor", "config": {"layers": [1, 2], "mode": "unrelated"}, "seed": None,
    "model": "tiny", "model_source": "tests/tiny", "model_revision": None, "model_fingerprint": "0" * 16, "dtype": "float32",
    "prefix": None, "trained_neighbors": [], "seconds": 0.1, "created": "2025-01-01T00:00:00+00:00", "versions": {},
    "layers": [{"module": "model.layers.1.mlp.down_proj", "rank": 2, "update_norm": 0.5, "relative_norm": 0.25}],
    "facts": {
        "subjects": ["Ada", "Noor"], "residual_before": 2.0, "residual_after": 0.5, "residual_met": 0.75,
        "targets": [{"subject": "Noor", "residual_met": 0.75, "moved_by_others": 0.1}], "drifts": {"Ada": 0.2},
        "kept": {"method": "rocr", "subject": "Ada", "config": {}, "facts": {"residual_met": 0.5}},
    },
}  # fmt: skip
TRAINED_1 = {
    "method": "ga", "facts": {"file": "positive.json", "rows": 3, "cut_texts": 1, "retained": "half of the neighbors"},
    "config": {
        "learning_rate": 1e-3, "cutoff": 64, "rank": 4, "alpha": 8, "modules": ["q_proj"], "batch": 2, "accumulation": 3,
        "epochs": 1, "rows": 5,
    },
}  # fmt: skip


@pytest.fixture
def edit(tiny: Tiny) -> AdapterEdit:
    found = formless.unlearn(tiny(), "Ada", **OPTIONS)
    assert isinstance(found, AdapterEdit)
    return found


def test_the_summary_of_an_adapter(edit: AdapterEdit) -> None:
    said = repr(edit)
    assert said.startswith("AdapterEdit(rocr: Ada, rank 1 in 2 weights, update norms ")
    assert f"residual reduction {100 * edit.info.facts['residual_reduction']:.1f} %" in said
    assert said.endswith(" KB)")
    assert "tensor" not in said
    html = edit._repr_html_()
    assert "<th>subject</th><td>Ada</td>" in html
    assert html.count("<tr>") == html.count("</tr>") == 6


def test_the_summary_of_the_other_edits(tiny: Tiny, edit: AdapterEdit) -> None:
    prompt = formless.unlearn(tiny(), "<Ada>", "icu")
    assert repr(prompt).startswith("PromptEdit(icu: <Ada>, prefix ")
    assert "&lt;Ada&gt;" in prompt._repr_html_()  # type: ignore[attr-defined]
    info = edit.info.model_copy(update={"facts": {"first_loss": 2.0, "last_loss": 1.5}})
    whole = DifferenceEdit({"weight": Difference(torch.zeros(512, 1024))}, info)
    assert repr(whole).endswith("loss 2.000 to 1.500, size 2 MB)")


def test_stacking_joins_the_ranks(edit: AdapterEdit) -> None:
    name = next(iter(edit.updates))
    new = {name: Factors(torch.ones(32, 2), torch.ones(2, 48))}
    both = stack(edit, new)[name]
    assert (both.up.shape, both.down.shape) == ((32, 3), (3, 48))
    assert torch.allclose(both.dense(), edit.updates[name].dense() + new[name].dense())
    assert torch.equal(both.up[:, :1], edit.updates[name].up)
    with pytest.raises(EditError, match=r"lacks a layer \[other\]"):
        stack(edit, {"other": new[name]})


def test_version_1_is_upgraded() -> None:
    info = EditInfo.model_validate(upgrade_edit_info(VERSION_1))
    assert info.format == store.EDIT_SCHEMA == 2
    assert info.facts["residual_reduction"] == 0.75
    assert info.facts["targets"] == [{"subject": "Noor", "residual_reduction": 0.75, "shift_by_others": 0.1}]
    assert info.facts["kept_shifts"] == {"Ada": 0.2}
    assert info.facts["earlier_edit"]["facts"] == {"residual_reduction": 0.5}
    assert info.subjects == ["Ada", "Noor"]
    trained = upgrade_edit_info(TRAINED_1)
    assert trained["facts"] == {
        "file": "positive.json", "rows": 3, "truncated_texts": 1, "retain_set": "half of the neighbors",
    }  # fmt: skip
    assert trained["config"] == {
        "learning_rate": 1e-3, "max_length": 64, "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"],
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "num_train_epochs": 1, "max_rows": 5,
    }  # fmt: skip
    assert upgrade_edit_info(trained) == trained


def test_an_edit_of_version_1_is_loaded_and_applied(tiny: Tiny, edit: AdapterEdit, tmp_path: Path) -> None:
    edit.save(str(tmp_path / "edit"))
    path = store.EditFolder(tmp_path / "edit").info
    content = json.loads(path.read_text("utf-8"))
    content["format"] = 1
    del content["sha256"]
    content["facts"]["residual_met"] = content["facts"].pop("residual_reduction")
    path.write_text(json.dumps(content), "utf-8")
    loaded = formless.load_edit(str(tmp_path / "edit"))
    assert loaded.info.facts["residual_reduction"] == edit.info.facts["residual_reduction"]
    lm = tiny()
    with loaded.applied(lm):
        assert lm.edits[0]["format"] == store.EDIT_SCHEMA


@pytest.mark.parametrize("version", [0, -1, 1.5, 2.0, True, None, "2", "2.1", [2], {}])
def test_a_format_that_is_no_version_is_refused(edit: AdapterEdit, tmp_path: Path, version: object) -> None:
    edit.save(tmp_path / "edit")
    path = store.EditFolder(tmp_path / "edit").info
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"format": version, "sha256": None}), "utf-8")
    with pytest.raises(EditError, match=r"the edit has a format that is no version \[.*edit.json, format "):
        formless.load_edit(tmp_path / "edit")


@pytest.mark.parametrize("version", [3, 99])
def test_a_newer_edit_is_refused_with_that_reason(edit: AdapterEdit, tmp_path: Path, version: object) -> None:
    edit.save(tmp_path / "edit")
    path = store.EditFolder(tmp_path / "edit").info
    path.write_text(json.dumps({"format": version, "something": "new"}), "utf-8")
    with pytest.raises(EditError, match=rf"newer schema version {version}; .*\[.*edit.json\]: update Formless"):
        formless.load_edit(tmp_path / "edit")


def test_norms_of_large_matrices_are_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1536, 8960, generator=generator)
    exact = float(torch.linalg.norm(values.double()))
    assert frobenius_norm(values) == pytest.approx(exact, rel=1e-6)
    assert frobenius_norm(values[0]) == pytest.approx(float(values[0].double().norm()), rel=1e-6)
    assert frobenius_norm(values.bfloat16()) == pytest.approx(exact, rel=1e-3)

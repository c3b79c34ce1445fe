"""An edit of Concept Direction Removal on disk."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

import formless
from formless.data.target import Target
from formless.edits.adapter import AdapterEdit
from formless.models.lm import LM


def test_an_edit_of_one_target_and_several_layers_is_saved(
    tiny: Callable[..., LM], target_folder: Path, tmp_path: Path
) -> None:
    names = [{"name": name, "person": True, "short": name.split()[-1]} for name in ("Ada Lovelace", "Charles Babbage")]
    (target_folder / "aliases.json").write_text(json.dumps(names), "utf-8")
    lm = tiny()
    edit = formless.unlearn(lm, Target("Ada Lovelace", target_folder), "cdr", layers=[1, 2])
    edit.save(tmp_path / "edit")
    loaded = formless.load_edit(tmp_path / "edit")
    assert isinstance(edit, AdapterEdit)
    assert isinstance(loaded, AdapterEdit)
    assert edit.updates.keys() == loaded.updates.keys()
    for name, factors in edit.updates.items():
        assert torch.equal(loaded.updates[name].up, factors.up)
        assert torch.equal(loaded.updates[name].down, factors.down)

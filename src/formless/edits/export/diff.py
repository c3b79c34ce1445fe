"""`--to diff`: the differences of whole weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from formless.edits.difference import DifferenceEdit
from formless.edits.edit import WeightEdit, layer_report
from formless.edits.export.target import ExportOptions
from formless.models.families import is_transposed
from formless.models.lm import LM
from formless.models.overlay import WEIGHT, Difference, Factors


def write(edit: WeightEdit[Any], lm: LM | None, out: Path, options: ExportOptions) -> list[str]:
    """Write differences.safetensors and edit.json, which `load_edit` reads.

    Raises:
        OutputError: The folder exists and `force` is not set, or it cannot be written.
    """
    assert lm is not None  # the row says so
    as_differences(edit, lm).save(out, force=options.force)
    return []


def as_differences(edit: WeightEdit[Any], lm: LM) -> DifferenceEdit:
    """Return an edit of weights as differences of whole weights, those of low rank in float32."""
    updates: dict[str, Difference] = {}
    for name, change in edit.updates.items():
        if isinstance(change, Factors):
            dense = change.dense().float()
            updates[name + WEIGHT] = Difference(dense.T if is_transposed(lm.model.get_submodule(name)) else dense)
        else:
            updates[name] = change
    layers = [layer_report(lm, name, change) for name, change in updates.items()]
    return DifferenceEdit(updates, edit.info.model_copy(update={"layers": layers}))

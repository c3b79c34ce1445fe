"""`--to diff`: the differences of whole weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from formless.edits.difference import DifferenceEdit
from formless.edits.edit import WeightEdit, layer_report, refuse_other_model
from formless.edits.export.target import ExportOptions, loaded, refuse_packed
from formless.models.lm import LM
from formless.models.overlay import Difference, by_parameter, dense_update


def write(edit: WeightEdit[Any], lm: LM | None, out: Path, options: ExportOptions) -> list[str]:
    """Write differences.safetensors and edit.json, which `load_edit` reads.

    Raises:
        EditError: The edit is for another model.
        OutputError: The folder exists and `force` is not set, or it cannot be written.
    """
    as_differences(edit, loaded(lm)).save(out, force=options.force)
    return []


def as_differences(edit: WeightEdit[Any], lm: LM) -> DifferenceEdit:
    """Return an edit of weights as differences of whole weights; low-rank updates become float32 matrices.

    Raises:
        EditError: The edit is for another model, or the model is quantized.
    """
    refuse_other_model(lm, edit.info)
    refuse_packed(lm)
    if isinstance(edit, DifferenceEdit):
        return edit
    updates = {name: Difference(dense_update(lm.model, name, change)) for name, change in by_parameter(edit.updates).items()}
    layers = [layer_report(lm, name, change) for name, change in updates.items()]
    return DifferenceEdit(updates, edit.info.model_copy(update={"layers": layers}))

"""`--to peft`: one PEFT LoRA adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from formless.edits.adapter import AdapterEdit
from formless.edits.edit import WeightEdit
from formless.edits.export.target import ExportOptions
from formless.errors import EditError
from formless.models.lm import LM


def write(edit: WeightEdit[Any], _lm: LM | None, out: Path, options: ExportOptions) -> list[str]:
    """Write adapter_model.safetensors, adapter_config.json and edit.json.

    Raises:
        EditError: The edit is no low-rank update.
        OutputError: The folder exists and `force` is not set, or it cannot be written.
    """
    if not isinstance(edit, AdapterEdit):
        what = f"an edit of {edit.info.method} changes whole weights, which an adapter cannot hold"
        raise EditError(what, where="--to peft", remedy="use --to merged or --to diff")
    edit.save(out, force=options.force)
    return []

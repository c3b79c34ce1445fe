"""`--to merged`: a whole edited model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from formless.edits.edit import WeightEdit
from formless.edits.export.target import ExportOptions
from formless.models.lm import LM


def write(edit: WeightEdit[Any], lm: LM | None, out: Path, options: ExportOptions) -> list[str]:
    """Write the edited model, its tokenizer and edit.json.

    Raises:
        EditError: The edit is for another model.
        OutputError: The folder exists and `force` is not set, or it cannot be written.
    """
    assert lm is not None  # the row says so
    edit.save_merged(lm, out, force=options.force)
    return []

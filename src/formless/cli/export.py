"""`formless export`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from formless import store
from formless.cli import terminal
from formless.errors import EditError


def export_command(
    edits: Annotated[list[Path], typer.Argument(metavar="EDIT...", help="Saved edits; several are stacked in this order.")],
    to: Annotated[str, typer.Option("--to", help="peft, merged or diff.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder or file to write.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="The base model; by default the edit's own.")] = None,
    force: terminal.ForceOption = False,
    dtype: terminal.DtypeOption = "auto",
    device: terminal.DeviceOption = "auto",
    trust_remote_code: terminal.TrustOption = False,
) -> None:
    """Write an edit in the form that another tool loads.

    Example: formless export edits/einstein --to merged --out models/without_einstein
    """
    from formless.edits.edit import WeightEdit, refuse_other_shapes
    from formless.edits.export.registry import EXPORTS
    from formless.edits.export.stacking import stacked
    from formless.edits.export.target import ExportOptions
    from formless.edits.loading import load_edit

    target = EXPORTS.get_known(to, where="--to")
    store.refuse_existing(out, force=force, mark=target.mark)
    loaded = [load_edit(path) for path in edits]
    for path, edit in zip(edits, loaded, strict=True):
        if not isinstance(edit, WeightEdit):
            what = f"an edit of {edit.info.method} is a text before the user's message, which no weights hold"
            raise EditError(what, where=path, remedy="give the text to the server as a prompt, or export an edit of weights")
    edit = stacked([edit for edit in loaded if isinstance(edit, WeightEdit)])
    lm = None
    if target.needs_model:
        check = partial(refuse_other_shapes, edit=edit)
        lm = terminal.load_model(model or edit.info.model, dtype, device, trust_remote_code, check)
    for note in target.write(edit, lm, out, ExportOptions(force=force)):
        terminal.out.print(note, soft_wrap=True)
    size = terminal.adapter_size(out) if out.is_dir() else out.stat().st_size
    terminal.out.print(f"{edit.info.subject}: exported to {target.name}, {size / 2**20:,.1f} MB in {out}", soft_wrap=True)

"""`formless export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from formless import store
from formless.cli import terminal
from formless.errors import EditError, UserError

if TYPE_CHECKING:
    from formless.edits.edit import Edit
    from formless.edits.export.stacking import Exportable
    from formless.models.meta import MetaModel


def export_command(
    edits: Annotated[list[Path], typer.Argument(metavar="EDIT...", help="Saved edits; several are stacked in this order.")],
    to: Annotated[str, typer.Option("--to", help="peft, hub, merged, gguf-lora, gguf-merged or diff.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder or file to write.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="The base model; by default the edit's own.")] = None,
    record: Annotated[
        list[Path] | None,
        typer.Option(help="hub: a record of `formless eval --out`, of the edit or of the original; repeatable."),
    ] = None,
    base: Annotated[str | None, typer.Option(help="hub: the base model's id, where the edit names a folder.")] = None,
    push: Annotated[str | None, typer.Option(help="hub: upload it to this repository, OWNER/NAME.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="hub: upload without asking.")] = False,
    force: terminal.ForceOption = False,
    dtype: terminal.DtypeOption = "auto",
    device: terminal.DeviceOption = "auto",
    trust_remote_code: terminal.TrustOption = False,
) -> None:
    """Write an edit in the form that another tool loads.

    Example: formless export edits/einstein --to merged --out models/without_einstein

    Example: formless export edits/einstein edits/newton --to peft --out edits/both

    Example: formless export edits/einstein --to gguf-lora --out einstein.gguf

    Example: formless export edits/einstein --to hub --record einstein.json --out cards/einstein
    """
    from formless.edits.edit import refuse_other_model, refuse_other_shapes
    from formless.edits.export.hub import base_license, hub_base
    from formless.edits.export.hub import push as push_folder
    from formless.edits.export.registry import EXPORTS
    from formless.edits.export.stacking import needs_model, stacked
    from formless.edits.export.target import ExportOptions
    from formless.edits.loading import load_edit
    from formless.evaluation.loading import load_record
    from formless.report.model_card import model_card

    target = EXPORTS.get_known(to, where="--to")
    given = {"--record": record, "--base": base, "--push": push, "--yes": yes}
    if target.name != "hub" and (extra := next((name for name, value in given.items() if value), None)):
        raise UserError(f"{extra} belongs to --to hub", where=f"--to {to}", remedy="leave it out")
    if push and not yes and not sys.stdin.isatty():
        raise UserError("nobody can be asked whether to upload", where="--push", remedy="add --yes, or leave --push out")
    store.refuse_existing(out, force=force, mark=target.mark)
    loaded = [_of_weights(path, load_edit(path)) for path in edits]

    def check(meta: MetaModel) -> None:
        for one in loaded:
            refuse_other_shapes(meta, one)

    lm = None
    if model or target.needs_model or needs_model(loaded):
        lm = terminal.load_model(model or _base_model(loaded[0]), dtype, device, trust_remote_code, check)
    edit = stacked(loaded, lm)
    if lm:
        refuse_other_model(lm, edit.info)
    card = ""
    if target.name == "hub":
        named = hub_base(edit, base)
        card = model_card(edit.info.model_dump(mode="json"), named, base_license(named), list(map(load_record, record or [])))
    for note in target.write(edit, lm, out, ExportOptions(force=force, base=base, card=card)):
        terminal.out.print(note, soft_wrap=True)
    size = terminal.adapter_size(out) if out.is_dir() else out.stat().st_size
    terminal.out.print(f"{edit.info.subject}: exported to {target.name}, {size / 1024:,.0f} KB in {out}", soft_wrap=True)
    if push:
        if not yes and not typer.confirm(f"Upload {out} to {push} on the hub?"):
            terminal.out.print("nothing is uploaded")
            return
        terminal.out.print(f"uploaded to {push_folder(out, push)}", soft_wrap=True)


def _of_weights(path: Path, edit: Edit) -> Exportable:
    """Return an edit that changes weights.

    Raises:
        EditError: It is a text before the user's message.
    """
    from formless.edits.edit import WeightEdit
    from formless.edits.foreign import ForeignEdit

    if isinstance(edit, WeightEdit | ForeignEdit):
        return edit
    what = f"an edit of {edit.info.method} is a text before the user's message, which no weights hold"
    raise EditError(what, where=path, remedy="give the text to the server as a prompt, or export an edit of weights")


def _base_model(edit: Exportable) -> str:
    """Return the folder that an adapter names as its base if it is there, else the model's name as the user gave it."""
    named = getattr(getattr(edit, "adapter", None), "base_model_name_or_path", None)
    return str(named) if named and Path(named).is_dir() else edit.info.model

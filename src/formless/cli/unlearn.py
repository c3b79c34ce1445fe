"""`formless unlearn`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from formless import storage
from formless.cli import terminal
from formless.data.ort import find_target
from formless.data.target import Row, Target
from formless.errors import UserError
from formless.methods.adapter import AdapterEdit
from formless.methods.base import INFO, LayerReport
from formless.methods.registry import METHODS, build_method, method_config
from formless.models.settings import settings_for

MOST_NORMS = 8


def unlearn_command(
    target: Annotated[str, typer.Option("--target", "-t", help="The concept's name.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the saved edit.")],
    model: terminal.ModelOption = "smollm2",
    method: Annotated[str, typer.Option(help="See `formless methods`.")] = "rocr",
    redirect: Annotated[str | None, typer.Option(help="ROCR: the concept that the name is to read as.")] = None,
    data: Annotated[str | None, typer.Option(help="Data folder or 'sample', for methods that train.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="A setting of the method, NAME=VALUE; repeatable.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Save a whole edited model instead of an adapter.")] = False,
    force: terminal.ForceOption = False,
    dtype: terminal.DtypeOption = "auto",
    device: terminal.DeviceOption = "auto",
    trust_remote_code: terminal.TrustOption = False,
) -> None:
    """Make a model forget a concept and save the edit as a PEFT adapter.

    Example: formless unlearn --target "Albert Einstein" --redirect "Donald Trump" --out edits/einstein

    Example: formless unlearn --method npo --data sample --target "Albert Einstein" --out edits/einstein_npo
    """
    storage.refuse_existing(out, force=force, mark=INFO)
    if data is None and re.match(r"\d+_", target):
        remedy = "give the name as texts spell it, or the data set with --data"
        raise UserError(f"{target!r} looks like a target's folder", where="--target", remedy=remedy)
    options = terminal.parse_settings(setting or []) | ({} if redirect is None else {"redirect": redirect})
    subject = find_target(data, target) if data is not None else Target(target.strip())
    built = build_method(method, method_config(settings_for(model), method, options))
    if reads := METHODS[method].reads:
        subject.rows(reads, Row)  # a missing or broken file stops here, before the model is loaded
    lm = terminal.load_model(model, dtype, device, trust_remote_code)
    with terminal.log.status(f"{method}: {target}"):
        edit = built.unlearn(lm, subject)
    if merge:
        if not isinstance(edit, AdapterEdit):
            raise UserError(f"an edit of {method} cannot be merged", where="--merge", remedy="save it without --merge")
        edit.save_merged(lm, out, force=force)
    else:
        edit.save(out, force=force)
    info = edit.info
    terminal.out.print(f"{info.method} forgot {info.subject} in {info.seconds:.2f} s; {_changes(info.layers)}")
    if "last_loss" in info.facts:
        facts = info.facts
        losses = f"loss {facts['first_loss']:.3f}, at last {facts['last_loss']:.3f}"
        terminal.out.print(f"{facts['rows']} rows of {facts['file']}, {facts['steps']} steps; {losses}")
    if "residual_met" in info.facts:
        terminal.out.print(f"the redirection was met to {100 * info.facts['residual_met']:.1f} %")
    terminal.out.print(f"saved {terminal.adapter_size(out) / 1024:.0f} KB in {out}", soft_wrap=True)


def _changes(layers: list[LayerReport]) -> str:
    """How far the weights moved; of many matrices, from the least to the most."""
    if not layers:
        return "no weight was changed"
    norms = [100 * layer.relative_norm for layer in layers]
    if len(norms) > MOST_NORMS:
        return f"update norms {min(norms):.1f} to {max(norms):.1f} % of the weights' in {len(norms)} matrices"
    return f"update norms {', '.join(f'{norm:.1f} %' for norm in norms)} of the weights'"

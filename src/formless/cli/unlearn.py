"""`formless unlearn`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from formless import store
from formless.cli import terminal
from formless.data.ort import find_target
from formless.data.target import Row, Target
from formless.edits.adapter import load_edit
from formless.edits.edit import INFO, EditInfo, LayerReport, WeightEdit
from formless.errors import OutputError, UserError
from formless.methods.base import Method
from formless.methods.registry import METHODS, build_method, check, method_config, run
from formless.methods.training.monitor import CURVES
from formless.models.settings import settings_for

MOST_NORMS = 8


def unlearn_command(
    target: Annotated[list[str], typer.Option("--target", "-t", help="The concept's name; ROCR: repeatable, solved together.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the saved edit.")],
    model: terminal.ModelOption = "smollm2",
    method: Annotated[str, typer.Option(help="See `formless methods`.")] = "rocr",
    redirect: Annotated[str | None, typer.Option(help="ROCR: the concept that the name is to read as.")] = None,
    keep: Annotated[Path | None, typer.Option(help="ROCR: a saved edit that stays in force; the new one holds it too.")] = None,
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

    Example: formless unlearn --target "Isaac Newton" --target "Marie Curie" --keep edits/einstein --out edits/three

    Example: formless unlearn --method npo --data sample --target "Albert Einstein" --out edits/einstein_npo
    """
    store.refuse_existing(out, force=force, mark=INFO)
    if data is None and (folder := next((name for name in target if re.match(r"\d+_", name)), None)):
        remedy = "give the name as texts spell it, or the data set with --data"
        raise UserError(f"{folder!r} looks like a target's folder", where="--target", remedy=remedy)
    options = terminal.parse_settings(setting or []) | ({} if redirect is None else {"redirect": redirect})
    targets = [find_target(data, name) if data is not None else Target(name.strip()) for name in target]
    built = build_method(method, method_config(settings_for(model), method, options))
    kept = load_edit(keep) if keep else None
    check(built, method, targets, kept, options)  # what is wrong stops here, before the model is loaded
    if reads := METHODS[method].reads:
        targets[0].rows(reads, Row)
    lm = terminal.load_model(model, dtype, device, trust_remote_code)
    with _resumable(built, out) as (resumable, step):
        resumed = f", resumed after step {step}" if step else ""
        with terminal.log.status(escape(f"{method}: {', '.join(target)}{resumed}")):
            edit = run(resumable, lm, targets, kept)
        if not merge:
            edit.save(out, force=force)
        elif isinstance(edit, WeightEdit):
            edit.save_merged(lm, out, force=force)
        else:
            raise UserError(f"an edit of {method} cannot be merged", where="--merge", remedy="save it without --merge")
    info = edit.info
    done = f"{info.method} forgot {info.subject} in {info.seconds:.2f} s; {_changes(info.layers)}"
    terminal.out.print(done, soft_wrap=True, markup=False)
    if "last_loss" in info.facts:
        facts = info.facts
        losses = f"loss {facts['first_loss']:.3f}, at last {facts['last_loss']:.3f}"
        terminal.out.print(
            f"{facts['rows']} rows of {facts['file']}, {facts['steps']} steps{resumed}; {losses}", soft_wrap=True
        )
    for line in _redirections(info):
        terminal.out.print(line, soft_wrap=True, markup=False)
    terminal.out.print(f"saved {terminal.adapter_size(out) / 1024:.0f} KB in {out}", soft_wrap=True)


@contextmanager
def _resumable(built: Method, out: Path) -> Iterator[tuple[Method, int]]:
    """The method with a folder for checkpoints beside `out`, if it takes one, and the step from which it goes on.

    The folder stays after a kill, and where the edit cannot be written: it goes once the edit is saved, and where a training
    that began here fails.
    """
    if not hasattr(built, "resumable"):
        yield built, 0
        return
    work = out.absolute().with_name(f".{out.name}.training")
    is_new = not work.exists()
    steps = [int(path.parent.name.rpartition("-")[2]) for path in work.glob(f"checkpoint-*/{CURVES}")]
    try:
        yield built.resumable(work), max(steps, default=0)
    except OutputError:
        raise
    except UserError:
        if is_new:
            shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)


def _redirections(info: EditInfo) -> list[str]:
    """How far a redirection was met, and what it did to concepts beside the target."""
    facts = info.facts
    if "residual_met" not in facts:
        return []
    lines = [f"the redirection was met to {100 * facts['residual_met']:.1f} %"]
    for target in facts["targets"]:
        if "moved_by_others" in target:
            met = f"met to {100 * target['residual_met']:.1f} %"
            moved = f"the others alone move it by {100 * target['moved_by_others']:.1f} % of its way"
            lines.append(f"  {target['subject']}: {met}; {moved}")
    lines += [
        f"  {subject}: kept; the new edit moved it by {100 * drift:.1f} % of its way"
        for subject, drift in facts.get("drifts", {}).items()
    ]
    return lines


def _changes(layers: list[LayerReport]) -> str:
    """How far the weights moved; of many weights, from the least to the most."""
    if not layers:
        return "no weight was changed"
    norms = [100 * layer.relative_norm for layer in layers]
    if len(norms) > MOST_NORMS:
        return f"update norms {min(norms):.1f} to {max(norms):.1f} % of those of {len(norms)} weights"
    return f"update norms {', '.join(f'{norm:.1f} %' for norm in norms)} of the weights'"

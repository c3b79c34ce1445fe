"""`formless unlearn`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from formless import store
from formless.cli import completion, terminal
from formless.errors import OutputError, UserError
from formless.methods import DEFAULT_METHOD

if TYPE_CHECKING:
    from formless.data.target import Target
    from formless.edits.edit import EditInfo
    from formless.methods.base import MethodConfig
    from formless.models.meta import MetaModel

MAX_NORMS, MAX_NAMES = 8, 24
_SHARES = {"redirect": "redirect_share", "whole way": "share"}
LOW_REDUCTION = 0.5
"""The residual reduction below which an edit of a name has failed for the most part."""


def unlearn_command(
    target: Annotated[
        list[str],
        typer.Option(
            "--target", "-t", help="The concept's name; repeatable with cdr and rocr.", autocompletion=completion.targets
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the saved edit.")],
    model: terminal.ModelOption = "smollm2",
    method: Annotated[str, typer.Option(help="See `formless methods`.", autocompletion=completion.methods)] = DEFAULT_METHOD,
    redirect: Annotated[
        str | None, typer.Option(help="cdr, rocr: what the name is read as: a concept, or auto; cdr: or none.")
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="rocr: a saved edit that becomes part of the new one.")] = None,
    data: Annotated[str | None, typer.Option(help="Data folder or 'sample': neighbors' names, texts to train on.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="A setting of the method, NAME=VALUE; repeatable.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check, and show which spellings get a key and which neighbors stay.")
    ] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Save a whole edited model instead of an adapter.")] = False,
    force: terminal.ForceOption = False,
    dtype: terminal.DtypeOption = "auto",
    device: terminal.DeviceOption = "auto",
    trust_remote_code: terminal.TrustOption = False,
) -> None:
    """Make a model forget a concept and save the edit as a PEFT adapter.

    Example: formless unlearn --data sample --target "Albert Einstein" --out edits/einstein

    Example: formless unlearn --data my_data --target "Ada Lovelace" --out edits/ada --dry-run

    Example: formless unlearn --target "Isaac Newton" --target "Marie Curie" --out edits/two

    Example: formless unlearn --method rocr --target "Albert Einstein" --redirect "Charles Dickens" --out edits/einstein_rocr

    Example: formless unlearn --method npo --data sample --target "Albert Einstein" --out edits/einstein_npo
    """
    from formless.data.ort import find_target
    from formless.data.rows import Row
    from formless.data.target import Target
    from formless.edits.edit import WeightEdit, refuse_other_shapes
    from formless.edits.loading import load_edit
    from formless.methods.registry import (
        METHODS,
        build_method,
        check_request,
        compute_edit,
        method_config,
        with_checkpoints,
        with_progress,
    )
    from formless.models.settings import settings_for

    store.refuse_existing(out, force=force, mark=store.EditFolder.INFO)
    if data is None and (folder := next((name for name in target if re.match(r"\d+_", name)), None)):
        remedy = "give the name as texts spell it, or the data set with --data"
        raise UserError(f"{folder!r} looks like a target's folder", where="--target", remedy=remedy)
    options = terminal.parse_settings(setting or []) | ({} if redirect is None else {"redirect": redirect})
    targets = [find_target(data, name) if data is not None else Target(name.strip()) for name in target]
    config = method_config(settings_for(model), method, options)
    earlier = load_edit(keep) if keep else None
    check_request(method, config, targets, earlier, options)  # before the model is loaded
    entry = METHODS[method]
    if merge and not entry.edits_weights:
        raise UserError(f"{method} changes no weight to merge", where="--merge", remedy="save it without --merge")
    if entry.trains_on:
        targets[0].rows(entry.file_for(targets[0], getattr(config, "trains_on", "auto")) or "", Row)
    named = _named(config, targets)
    if dry_run:
        for line in (*named, f"{method} would edit {', '.join(target.subject for target in targets)}; nothing is computed"):
            terminal.out.print(line, soft_wrap=True)
        return

    def check(meta: MetaModel) -> None:
        config.check_model(meta)
        if earlier:
            refuse_other_shapes(meta, earlier)

    layers = None if merge else config.needed_layers()
    lm = terminal.load_model(model, dtype, device, trust_remote_code, check, layers)
    for line in named:
        terminal.out.print(line, soft_wrap=True)
    with checkpoints_beside(out) if entry.resumable else nullcontext((None, 0)) as (work, step):
        built = build_method(method, config)
        if work is not None:
            built = with_checkpoints(method, built, work)
        resumed = f", resumed after step {step}" if step else ""
        with terminal.progress(f"{method}, {', '.join(target)}{resumed}", keep_first=not entry.trains_on) as report:
            edit = compute_edit(method, with_progress(method, built, report), lm, targets, earlier)
        if not merge:
            edit.save(out, force=force)
        elif isinstance(edit, WeightEdit):
            edit.save_merged(lm, out, force=force)
        else:
            raise UserError(f"an edit of {method} cannot be merged", where="--merge", remedy="save it without --merge")
    info = edit.info
    done = f"{info.method} edited {info.subject} in {info.seconds:.2f} s"
    terminal.out.print(f"{done}: {_edited(info)}", soft_wrap=True)
    if "last_loss" in info.facts:
        facts = info.facts
        losses = f"loss {facts['first_loss']:.3f} to {facts['last_loss']:.3f}"
        terminal.out.print(
            f"{facts['rows']} rows of {facts['file']}, {facts['steps']} steps{resumed}; {losses}", soft_wrap=True
        )
    for line in _details(info):
        terminal.out.print(line, soft_wrap=True)
    for warning in _warnings(info):
        terminal.log.print(f"warning: {warning}", soft_wrap=True)
    saved = f"saved {terminal.adapter_size(out) / 1024:.0f} KB in {out}"
    terminal.out.print(f"{saved}; `formless eval` measures what it forgets", soft_wrap=True)


@contextmanager
def checkpoints_beside(out: Path) -> Iterator[tuple[Path, int]]:
    """Yield a folder for checkpoints beside `out`, and the step of the last checkpoint in it.

    The folder stays after a kill, and if the edit cannot be written. It is removed once the edit is saved, and if a training
    run that began here fails.
    """
    work = store.CheckpointsFolder.beside(out).path
    is_new = not work.exists()
    steps = [
        int(path.name.rpartition("-")[2]) for path in work.glob("checkpoint-*") if store.CheckpointsFolder.curves(path).exists()
    ]
    try:
        yield work, max(steps, default=0)
    except OutputError:
        raise
    except UserError:
        if is_new:
            store.discard(work)
        raise
    store.discard(work)


def _named(config: MethodConfig, targets: Sequence[Target]) -> list[str]:
    """Return which spellings of each target get a key and why others do not, then whose names stay in place."""
    spelled, kept = config.edited_names(targets)
    lines = []
    for names in spelled:
        lines.append(f"{names.subject}: {_counted(names.spellings, 'spelling')} will be edited")
        lines += [f"  no key for {text}: {why}" for text, why in names.dropped.items()]
    if kept:
        lines.append(f"{_counted(list(kept), 'neighbor')} will stay")
    elif spelled:
        needs = " and --set protect=neighbors" if getattr(config, "protect", None) == "none" else ""
        how = f"name some in aliases.json of a data folder, and give it with --data{needs}"
        lines.append(f"no neighbor is protected: {how}")
    return lines


def _edited(info: EditInfo) -> str:
    """Describe what an edit changed: of names, the layers and how far neighbors moved; else how far weights moved."""
    facts = info.facts
    if "residual_reduction" not in facts:
        return _changes(info)
    layers = re.findall(r"\.(\d+)\.", " ".join(layer.module for layer in info.layers))
    chosen = list(dict.fromkeys(target["redirect"] for target in facts["targets"] if "redirect" in target))
    parts = [
        f"layer{'s' if len(layers) > 1 else ''} {', '.join(layers)}",
        *([f"redirected to {', '.join(chosen)}, chosen by auto"] if chosen else []),
        f"residual reduction {100 * facts['residual_reduction']:.1f} %",
    ]
    if shifts := facts.get("protected_shifts"):
        most = max(shifts, key=lambda name: float(shifts[name]))
        parts.append(f"neighbors shifted by at most {100 * shifts[most]:.1f} % of the mean residual ({most})")
    shares = {name: facts.get("budget", {}).get(key, 1) for name, key in _SHARES.items()}
    if held := [f"{100 * share:.0f} % of the {name}" for name, share in shares.items() if share < 1]:
        parts.append(f"{' and '.join(held)}, as far as budget={info.config['budget']:g} allows")
    return "; ".join(parts)


def _details(info: EditInfo) -> list[str]:
    """Describe what an edit of names did to each of several targets, and beside them, one line for each."""
    facts = info.facts
    if "residual_reduction" not in facts:
        return []
    lines = []
    for target in facts["targets"]:
        shift = target.get("shift_by_others")
        if shift is not None or len(facts["targets"]) > 1:
            shifted = "" if shift is None else f"; shifted by the others' part alone by {100 * shift:.1f} % of its residual"
            lines.append(f"  {target['subject']}: residual reduction {100 * target['residual_reduction']:.1f} %{shifted}")
    if reverse := facts.get("reverse"):
        reduction = f"residual reduction {100 * reverse['residual_reduction']:.1f} %"
        shift = f"{reverse['kept_prompts']} about neighbors shifted by {100 * reverse['kept_shift']:.1f} % of its residual"
        lines.append(f"  reverse: {reverse['edited_prompts']} prompts before the name, {reduction}; {shift}")
    lines += [
        f"  {subject}: kept; shifted by the new edit by {100 * shift:.1f} % of its earlier shift"
        for subject, shift in facts.get("kept_shifts", {}).items()
    ]
    return lines


def _counted(names: Sequence[str], kind: str) -> str:
    """Return how many names there are, and which; of many, the first."""
    shown = [*names[:MAX_NAMES], *([f"and {len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else [])]
    return f"{len(names)} {kind}{'s' if len(names) > 1 else ''} ({', '.join(shown)})"


def _warnings(info: EditInfo) -> list[str]:
    """Return what speaks against an edit of a name before anything is measured."""
    facts = info.facts
    if "residual_reduction" not in facts:
        return []
    warnings = [
        f"the edit removes {100 * found['residual_reduction']:.1f} % of the residual of {found['subject']}, less than "
        f"{100 * LOW_REDUCTION:.0f} %: the name is hardly edited"
        for found in facts["targets"]
        if found["residual_reduction"] < LOW_REDUCTION
    ]
    if info.config.get("basis") == "none":
        what = "basis=none preserves nothing: other names and texts may change as much as the target"
        warnings.append(f"{what}; --set basis=sampled makes what preserves them")
    return warnings


def _changes(info: EditInfo) -> str:
    """Describe how far the weights moved; for many weights, by the smallest and the largest norm."""
    if not info.layers:
        return "no weight was changed"
    norms = [100 * layer.relative_norm for layer in info.layers]
    if len(norms) > MAX_NORMS:
        return f"update norms {min(norms):.1f} to {max(norms):.1f} % of those of {len(norms)} weights"
    return f"update norms {', '.join(f'{norm:.1f} %' for norm in norms)} of the weights'"

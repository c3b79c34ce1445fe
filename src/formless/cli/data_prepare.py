"""`formless data prepare`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from formless import store
from formless.cli import terminal
from formless.data.hub import HUB
from formless.data.prepare import MANIFEST, RWKU, Prepared, prepare
from formless.errors import UserError

_PART = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)


def prepare_command(
    source: Annotated[str, typer.Option(help=f"'{RWKU}' ({HUB} on the hub), a local copy of it, or a folder of targets.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the data set.")],
    targets: Annotated[
        str | None, typer.Option(help=f"Numbers, as in 1-100 or 1,5,9-12; by default 1-100 of {RWKU}, all of a folder.")
    ] = None,
    train: Annotated[str, typer.Option(help="Which model's training texts: llama3, phi3 or none.")] = "llama3",
    force: terminal.ForceOption = False,
) -> None:
    """Put a data set into the ORT layout, one folder per target, every row validated, with a manifest.

    Example: formless data prepare --source rwku --out data/rwku
    """
    numbers = None if targets is None else parse_numbers(targets)
    store.refuse_existing(out, force=force, mark=MANIFEST)
    _quieten_datasets()
    with terminal.progress("preparing") as bar:
        prepared = prepare(source, out, numbers=numbers, train=train, force=force, progress=bar)
    for line in _summary(prepared):
        terminal.out.print(line, markup=False, soft_wrap=True)
    terminal.out.print(f"saved in {out}", markup=False, soft_wrap=True)


def parse_numbers(text: str) -> list[range]:
    """`1,5,9-12` -> the ranges of target numbers.

    Raises:
        UserError: It is no list of numbers and ranges.
    """
    ranges = []
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise UserError(f"{text!r} is no list of target numbers", where="--targets", remedy="e.g. 1-100 or 1,5,9-12")
        ranges.append(range(first, last + 1))
    return ranges


def _quieten_datasets() -> None:
    """Progress is shown here, and errors in one line, so datasets shows neither."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)


def _summary(prepared: Prepared) -> list[str]:
    total = len(prepared.files)
    rows = sum(entry["rows"] for files in prepared.files.values() for entry in files.values())
    source = f"{prepared.source}{''.join(f' at {commit}' for commit in sorted(prepared.revisions))}"
    lines = [f"{source}: {total} targets, {sum(map(len, prepared.files.values()))} files, {rows:,} rows"]
    for split, folders in prepared.absent.items():
        lines.append(f"absent: {split}.json ({f'all {total} targets' if len(folders) == total else _some(folders)})")
    if prepared.unlisted:
        lines.append(
            f"left out: {prepared.unlisted.total():,} rows of {_some(sorted(prepared.unlisted))}, not in the list of targets"
        )
    return lines


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")

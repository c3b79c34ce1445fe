"""`formless summarize`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from formless.cli import terminal
from formless.errors import DataError
from formless.evaluation.record import Record, load_record
from formless.report.independence import independence


def summarize_command(
    records: Annotated[list[Path], typer.Argument(help="Records of `formless eval --out`, or folders of them.")],
) -> None:
    """Say over many targets what each method forgot in every form, and what the neighbors kept, against the original model.

    The original model's records (evaluations without --edit) are found among the files by model, target and probes.

    Example: formless summarize records/
    """
    loaded = [load_record(path) for path in _files(records)]
    originals = {_key(record): record for record in loaded if not record.edits}
    methods: dict[str, list[tuple[Record, Record]]] = {}
    alone = 0
    for record in loaded:
        if record.edits and _key(record) not in originals:
            alone += 1
        elif record.edits:
            methods.setdefault(_name(record), []).append((originals[_key(record)], record))
    if alone:
        terminal.log.print(f"left out: {alone} records without the original model's record of the same probes", soft_wrap=True)
    if not methods:
        remedy = "evaluate without --edit too, with the same model, target and suite"
        raise DataError("no edited model's record has its original beside it", where=records[0], remedy=remedy)
    for name, pairs in methods.items():
        terminal.show_independence(independence(_one_each(name, pairs)), f"{name}: {len(pairs)} targets")


def _files(paths: Sequence[Path]) -> list[Path]:
    found = [file for path in paths for file in (sorted(path.rglob("*.json")) if path.is_dir() else [path])]
    if not found:
        raise DataError("no records", where=paths[0], remedy="give files that `formless eval --out` wrote, or their folder")
    return found


def _key(record: Record) -> tuple[str, ...]:
    return record.model_fingerprint, record.dtype, record.target, record.probes_digest


def _name(record: Record) -> str:
    """Model and edits with their settings: what is averaged together must have been done alike."""
    edits = [f"{edit['method']} {json.dumps(edit['config'], sort_keys=True)}" for edit in record.edits]
    return f"{record.model}, {' + '.join(edits)}"


def _one_each(name: str, pairs: Sequence[tuple[Record, Record]]) -> Sequence[tuple[Record, Record]]:
    """The pairs, if no target stands there twice."""
    seen: set[str] = set()
    for _, edited in pairs:
        if edited.target in seen:
            raise DataError(f"two records of {name}", where=edited.target, remedy="give one of them")
        seen.add(edited.target)
    return pairs

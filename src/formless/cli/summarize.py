"""`formless summarize`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from formless.cli import terminal
from formless.errors import DataError
from formless.evaluation.record import Record, load_record
from formless.report.independence import independence

Pair = tuple[Record, Record]


def summarize_command(
    records: Annotated[list[Path], typer.Argument(help="Records of `formless eval --out`, or folders of them.")],
) -> None:
    """Say over many targets what each method forgot in every form, and what the neighbors kept, against the original model.

    The original model's records (evaluations without --edit) are found among the files by model, target and probes. Only what
    was measured alike is averaged: the same model, number format, suite, limit and settings of the method.

    Example: formless summarize records/
    """
    left_out: Counter[str] = Counter()
    loaded = _load(records, left_out)
    methods = _pairs(loaded, left_out)
    for reason, count in left_out.items():
        terminal.log.print(f"left out: {count} {reason}", soft_wrap=True, markup=False)
    if not methods:
        remedy = "evaluate without --edit too, with the same model, target and suite"
        raise DataError("no edited model's record has its original beside it", where=records[0], remedy=remedy)
    for name, pairs in methods.items():
        found = independence(pairs)
        if not (found.forgetting or found.retention):
            raise DataError(
                f"{name}: no form that tells forgetting", where=records[0], remedy="evaluate with --suite ort or forms"
            )
        terminal.show_independence(found, f"{name}: {len(pairs)} targets")


def _load(paths: Sequence[Path], left_out: Counter[str]) -> list[Record]:
    """The records of files, and of folders, which may hold other JSON too."""
    found = []
    for path in paths:
        if not path.is_dir():
            found.append(load_record(path))
            continue
        for file in sorted(path.rglob("*.json")):
            try:
                found.append(load_record(file))
            except DataError:
                left_out["JSON files that are no records"] += 1
    if not found:
        raise DataError("no records", where=paths[0], remedy="give files that `formless eval --out` wrote, or their folder")
    return found


def _pairs(records: Sequence[Record], left_out: Counter[str]) -> dict[str, list[Pair]]:
    """The pairs of original and edited record by what was done, one a target."""
    originals = {_key(record): record for record in records if not record.edits}
    methods: dict[str, dict[str, Pair]] = {}
    for record in (record for record in records if record.edits):
        if any(edit["subject"] != record.subject for edit in record.edits):
            left_out["records of an edit about another concept"] += 1
        elif _key(record) not in originals:
            left_out["records without the original model's record of the same probes"] += 1
        else:
            pairs = methods.setdefault(_name(record), {})
            if record.target in pairs:
                raise DataError(f"two records of {_name(record)}", where=record.target, remedy="give one of them")
            pairs[record.target] = originals[_key(record)], record
    return {name: list(pairs.values()) for name, pairs in methods.items()}


def _key(record: Record) -> tuple[str, ...]:
    return record.model_fingerprint, record.dtype, record.target, record.probes_digest


def _name(record: Record) -> str:
    """Model, suite and edits with their settings: what is averaged together must have been done alike."""
    edits = [f"{edit['method']} {json.dumps(edit['config'], sort_keys=True)}" for edit in record.edits]
    limit = f" of {record.limit} rows" if record.limit else ""
    return f"{record.model} ({record.dtype}), {record.suite}{limit}, {' + '.join(edits)}"

"""The records of attacked models in a run's folder: reading them needs no model."""

from __future__ import annotations

from pathlib import Path

from formless.errors import DataError
from formless.evaluation.loading import load_record
from formless.evaluation.record import Record
from formless.evaluation.verification import is_alike
from formless.experiment.attacks.attack import EXCLUDED
from formless.experiment.runs import Run
from formless.store import RunFolder


def attacked_records(folder: RunFolder, whole: Record) -> tuple[dict[str, Record], set[str]]:
    """Return the records of a run's attacked models, of any attack and settings, and what is left out.

    Args:
        folder: The run's folder.
        whole: The run's own record, before any attack.

    Returns:
        The records by the name of their file, and the names of files that cannot be read or are of another edit or other items.
    """
    found = {path.stem: attacked_record(path, whole) for path in sorted(folder.attacks.glob("*.json"))}
    records = {name: record for name, record in found.items() if record}
    return records, found.keys() - records.keys()


def attacked_record(path: Path, whole: Record) -> Record | None:
    """Return one record; None if it is not there, cannot be read, or is of another edit or other items."""
    try:
        record = load_record(path)
    except DataError:
        return None
    is_right = is_alike(record, whole) and record.edits[:-1] == whole.edits
    return record if is_right and record.edits and record.edits[-1].get("attack") else None


def excluded_facts(record: Record) -> tuple[str, ...]:
    """Return the facts that do not count in the record of an attacked model."""
    return tuple(record.edits[-1]["facts"].get(EXCLUDED, ()))


def place(run: Run) -> tuple[object, ...]:
    """Return what a run and its original model's run have in common."""
    return run.model, run.target, run.suite, run.limit

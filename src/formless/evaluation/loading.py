"""Read records of this schema version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from formless import store
from formless.errors import DataError
from formless.evaluation.record import Record
from formless.evaluation.verification import faults


class DamagedRecordError(DataError):
    """A file that is a record, but not as it was written, or of a newer version."""


def load_record(path: str | Path) -> Record:
    """Read a record.

    Raises:
        DataError: The file is missing or holds no record.
        DamagedRecordError: The file holds a record of another version, or one with a field that is missing, is none of its
            type or contradicts another.

    Examples:
        >>> import formless
        >>> lm = formless.load("smollm2")
        >>> target = formless.find_target("sample", "Marie Curie")
        >>> formless.evaluate(lm, target, "qa", limit=2, progress=False).save("marie_curie.json")
        >>> formless.load_record("marie_curie.json").subject
        'Marie Curie'
    """
    remedy, path = "give a file that `formless eval --out` wrote", Path(path)
    is_record = _looks_like_a_record(path)
    kind = DamagedRecordError if is_record else DataError
    try:
        found = store.read_document(path, store.RECORD_SCHEMA, error=kind)
        _refuse_older(found, path)
        record = Record.model_validate(found)
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        place = ".".join(map(str, first["loc"])) if first else ""
        reason = f", field {place}: {first['msg']}" if first and place else f": {_reason(error)}" if is_record else ""
        raise kind("the record cannot be read", where=f"{path}{reason}", remedy=remedy) from error
    if fault := next(faults(record), None):
        field, reason = fault
        remedy = "evaluate again; the file has changed since it was written"
        raise DamagedRecordError("the record contradicts itself", where=f"{path}, {field}: {reason}", remedy=remedy)
    return record


def _refuse_older(content: Mapping[str, Any], path: Path) -> None:
    version = content.get("format")
    if type(version) is int and 0 < version < store.RECORD_SCHEMA and "probes_digest" in content:
        what = f"the record has the schema version {version}, which does not say what the original model knows"
        raise DamagedRecordError(what, where=path, remedy="evaluate again")


def _looks_like_a_record(path: Path) -> bool:
    """Return whether a file holds the field that every record has, however damaged the rest is."""
    try:
        return path.is_file() and b'"probes_digest"' in path.read_bytes()
    except OSError:
        return False


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return (str(error).splitlines() or [type(error).__name__])[0]

"""The untouched model's record, measured once per model, probes and precision."""

from __future__ import annotations

import hashlib
import json

from formless import __version__, storage
from formless.data.target import Target
from formless.errors import DataError, EditError
from formless.evaluation.evaluate import Progress, evaluate, probes_digest
from formless.evaluation.record import Record, load_record
from formless.evaluation.suites import suite_forms
from formless.models.lm import LM


def original_record(lm: LM, target: Target, suite: str = "ort", *, progress: Progress | None = None) -> Record:
    """The record of the model without any edit, from the cache where it stands.

    Raises:
        EditError: An edit is on the model.
        UserError: As `evaluate`.
    """
    if lm.edits:
        raise EditError("the model has an edit on it", where=lm.name, remedy="leave its applied() block first")
    forms = suite_forms(suite)
    probes = probes_digest(lm, target, forms)
    key = [__version__, lm.fingerprint, str(lm.model.dtype), lm.device.type, [form.name for form in forms], probes]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    path = storage.cache_folder() / "original" / f"{name}.json"
    try:
        return load_record(path)
    except DataError:  # not there yet, or written by an older version
        record = evaluate(lm, target, suite, progress=progress)
        record.save(path)
        return record

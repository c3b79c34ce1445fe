"""The untouched model's record, measured once per model, probes and precision."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Collection

from formless import __version__, store
from formless.data.target import Target
from formless.errors import DataError, EditError, OutputError
from formless.evaluation.evaluate import Progress, carry_out
from formless.evaluation.plan import planned
from formless.evaluation.record import Record, load_record
from formless.models.lm import LM


def original_record(
    lm: LM,
    target: Target,
    suite: str = "ort",
    *,
    limit: int | None = None,
    without_neighbors: Collection[str] = (),
    progress: Progress | None = None,
) -> Record:
    """The record of the model without any edit, from the cache where it stands.

    Args:
        lm: The model.
        target: The target with its files.
        suite: A suite's name or a list, as for `evaluate`.
        limit: At most so many rows per file and task.
        without_neighbors: Neighbors whose probes are left out, to stand beside an edit that was trained on them.
        progress: As for `evaluate`.

    Raises:
        EditError: An edit is on the model.
        UserError: As `evaluate`.
    """
    if lm.edits:
        raise EditError("the model has an edit on it", where=lm.name, remedy="leave its applied() block first")
    plan = planned(target, suite, limit, without_neighbors=without_neighbors)
    parts = [(job.part.name, job.split) for job in plan.jobs]
    key = [__version__, lm.fingerprint, str(lm.model.dtype), lm.device.type, parts, plan.digest(lm)]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    path = store.cache_folder() / "original" / f"{name}.json"
    try:
        known = load_record(path)
    except DataError:  # not there yet, or written by an older version
        record = carry_out(lm, plan, progress=progress)
        try:
            record.save(path)
        except OutputError as error:
            warnings.warn(f"the original model's record is not kept: {error}", stacklevel=2)
        return record
    folder = target.folder.name if target.folder else target.subject
    return known.model_copy(update={"target": folder, "model": lm.name, "suite": suite})

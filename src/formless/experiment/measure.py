"""Evaluate a model without and with an edit. The original model is evaluated once per model, questions and precision."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from formless import store
from formless.data.target import Target
from formless.edits.edit import Edit
from formless.errors import DataError, EditError, OutputError
from formless.evaluation.evaluate import evaluate, run_plan
from formless.evaluation.loading import load_record
from formless.evaluation.plan import Plan, make_plan
from formless.evaluation.record import Record
from formless.evaluation.task import NOTHING_GIVEN, Given
from formless.experiment.runs import RESULTS_VERSION
from formless.models.lm import LM
from formless.progress import Progress, progress_bar


@dataclass(frozen=True)
class Measurement:
    """The records of a model without and with an edit, of the same questions."""

    original: Record
    edited: Record


def measure_edit(
    lm: LM, edit: Edit, target: Target, suite: str = "ort", *, limit: int | None = None, progress: bool | Progress = True
) -> Measurement:
    """Evaluate a model on a target without and with an edit; leave the model as it was.

    Neighbors that the edit was trained on are left out of both evaluations.
    """
    trained = edit.info.trained_neighbors
    original = original_record(lm, target, suite, limit=limit, excluded_neighbors=trained, progress=progress)
    with edit.applied(lm):
        edited = evaluate(lm, target, suite, limit=limit, progress=progress)
    return Measurement(original, edited)


def original_record(
    lm: LM,
    target: Target,
    suite: str = "ort",
    *,
    limit: int | None = None,
    excluded_neighbors: Collection[str] = (),
    given: Given = NOTHING_GIVEN,
    progress: bool | Progress = True,
) -> Record:
    """Return the record of the model without any edit, from the cache if it is there.

    Args:
        lm: The model.
        target: The target with its files.
        suite: The name of a suite or a list, as for `evaluate`.
        limit: The largest number of rows per file and task.
        excluded_neighbors: Neighbors whose items are left out, to compare with an edit that was trained on them.
        given: Responses that the model has given already.
        progress: A callback, or whether a bar is shown in a terminal or a notebook.

    Raises:
        EditError: An edit is applied to the model.
        UserError: As `evaluate`.
    """
    if lm.edits:
        raise EditError("the model has an edit on it", where=lm.name, remedy="leave its applied() block first")
    plan = make_plan(target, suite, limit, excluded_neighbors=excluded_neighbors)
    path, cached = cached_record(lm, plan)
    if cached:
        folder = target.folder.name if target.folder else target.subject
        return cached.model_copy(update={"target": folder, "model": lm.name, "suite": suite})
    with progress_bar(progress, target.subject) as report:
        record = run_plan(lm, plan, report, given=given)
    try:
        record.save(path)
    except OutputError as error:
        warnings.warn(f"the original model's record is not kept: {error}", stacklevel=2)
    return record


def cached_record(lm: LM, plan: Plan) -> tuple[Path, Record | None]:
    """Return the place of a plan's record of the original model in the cache, and the record.

    The record is None if it is not there, is damaged or is of another version of Formless.
    """
    digest = plan.digest(lm)
    parts = [(job.task.name, job.split) for job in plan.jobs]
    key = [RESULTS_VERSION, lm.fingerprint, lm.setup_hash, str(lm.model.dtype), lm.device.type, parts, digest]
    path = store.original_record_path(hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24])
    try:
        record = load_record(path)
    except DataError:
        return path, None
    found = (record.model_fingerprint, record.probes_digest, record.edits)
    return path, record if found == (lm.fingerprint, digest, []) else None

"""One run, top to bottom: the original's record, and the edited model's."""

from __future__ import annotations

from dataclasses import dataclass

from formless.data.target import Target
from formless.evaluation.evaluate import Progress, evaluate
from formless.evaluation.record import Record
from formless.experiment.original import original_record
from formless.methods.base import Edit
from formless.models.lm import LM


@dataclass(frozen=True)
class Outcome:
    """What a run gives: the record of the untouched model, and that of the model with the edit."""

    original: Record
    edited: Record


def measure_edit(
    lm: LM, edit: Edit, target: Target, suite: str = "ort", *, limit: int | None = None, progress: Progress | None = None
) -> Outcome:
    """Evaluate a model on a target without and with an edit; the model is afterwards as before."""
    original = original_record(lm, target, suite, limit=limit, progress=progress)
    with edit.applied(lm):
        edited = evaluate(lm, target, suite, limit=limit, progress=progress)
    return Outcome(original, edited)

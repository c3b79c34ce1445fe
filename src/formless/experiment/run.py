"""One run, top to bottom: the original's record, the edit, the edited model's record, what both say when asked freely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from formless.data.target import Target
from formless.evaluation.evaluate import Progress, evaluate
from formless.evaluation.record import Record
from formless.experiment.original import original_record
from formless.methods.base import Edit
from formless.models.lm import LM


@dataclass(frozen=True)
class Outcome:
    """What a run gives.

    Args:
        original: Record of the untouched model.
        edited: Record of the model with the edit.
        answers: By question, the original's answer and the edited model's.
    """

    original: Record
    edited: Record
    answers: dict[str, tuple[str, str]]


def measure_edit(
    lm: LM, edit: Edit, target: Target, suite: str = "ort", *, questions: Sequence[str] = (), progress: Progress | None = None
) -> Outcome:
    """Evaluate a model on a target without and with an edit; the model is afterwards as before."""
    original = original_record(lm, target, suite, progress=progress)
    prompts = [lm.chat_prompt(question) for question in questions]
    before = lm.generate(prompts, max_new_tokens=40)
    with edit.applied(lm):
        edited = evaluate(lm, target, suite, progress=progress)
        after = lm.generate(prompts, max_new_tokens=40)
    return Outcome(original, edited, dict(zip(questions, zip(before, after, strict=True), strict=True)))

"""One model, one target, every form of a suite: a record."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import get_args

from formless import provenance
from formless.data.target import Item, Target
from formless.evaluation.forms import Form
from formless.evaluation.record import Answer, FormResult, Record, Split
from formless.evaluation.scoring import score_form
from formless.evaluation.suites import suite_forms
from formless.models.lm import LM

Progress = Callable[[str, int, int], None]
FREE_QUESTIONS, FREE_TOKENS = 3, 40
SPLITS: tuple[Split, ...] = get_args(Split)


def evaluate(lm: LM, target: Target, suite: str = "ort", *, progress: Progress | None = None) -> Record:
    """Question a model about a target, forget and neighbor probes alike; edits on the model are noted in the record.

    Args:
        lm: The model, original or inside `edit.applied(lm)`.
        target: The target with its files.
        suite: A suite's name, or forms such as `fb,qa`.
        progress: Called with the task's name, its number and how many there are.

    Raises:
        UserError: An unknown suite or form, a missing or broken file, or a model that gives NaN.
    """
    forms = suite_forms(suite)
    check_files(target, forms)
    start = time.perf_counter()
    tasks = [(form, split) for split in SPLITS for form in forms if split in form.splits]
    results = []
    for number, (form, split) in enumerate(tasks):
        if progress:
            progress(f"{form.title} ({split})", number, len(tasks))
        results.append(_evaluate_form(lm, target, form, split))
    answers = _free_answers(lm, target)
    if progress:
        progress("done", len(tasks), len(tasks))
    return Record(
        model=lm.name, model_source=lm.settings.source, model_fingerprint=lm.fingerprint,
        model_type=str(lm.model.config.model_type), dtype=str(lm.model.dtype).removeprefix("torch."),
        subject=target.subject, target=target.folder.name if target.folder else target.subject,
        probes_digest=probes_digest(lm, target, forms), suite=suite, prompt_style=lm.style.model_dump(), edits=list(lm.edits),
        forms=results, answers=answers, seconds=time.perf_counter() - start,
        created=provenance.now(), versions=provenance.versions(), hardware=provenance.hardware(),
    )  # fmt: skip


def check_files(target: Target, forms: list[Form]) -> None:
    """Read every file that some forms need, so that a broken one is found before a model works for minutes.

    Raises:
        DataError: A required file is missing, or one is broken.
    """
    for form in forms:
        for split in form.splits:
            _items(target, form, split)
    _free_questions(target)


def probes_digest(lm: LM, target: Target, forms: list[Form]) -> str:
    """A hash of every prompt and answer that some forms would put to a model."""
    digest = hashlib.sha256(target.subject.encode())
    for form in forms:
        for split in form.splits:
            for item in _items(target, form, split) or ():
                digest.update(repr((form.name, split, form.render(item, lm))).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def _free_questions(target: Target) -> list[str]:
    """The first questions about the concept, where the target has any."""
    items = target.items("forget_level2") if target.has("forget_level2") else ()
    return [item.query for item in items[:FREE_QUESTIONS]]


def _free_answers(lm: LM, target: Target) -> list[Answer]:
    """What the model says to them without cue or instruction."""
    questions = _free_questions(target)
    texts = lm.generate([lm.chat_prompt(question) for question in questions], max_new_tokens=FREE_TOKENS)
    return [Answer(question=question, answer=text) for question, text in zip(questions, texts, strict=True)]


def _evaluate_form(lm: LM, target: Target, form: Form, split: Split) -> FormResult:
    items = _items(target, form, split)
    if items is None:
        return FormResult(form=form.name, split=split, status="absent", reason=f"the target has no {split}_{form.file}.json")
    if not items and form.type:
        return FormResult(form=form.name, split=split, status="absent", reason=f"the target has no item of type {form.type}")
    return score_form(lm, form, split, items)


def _items(target: Target, form: Form, split: Split) -> tuple[Item, ...] | None:
    """The probes of a form, or nothing where the target lacks an optional file."""
    file = f"{split}_{form.file}"
    if form.optional and not target.has(file):
        return None
    return tuple(item for item in target.items(file) if form.type is None or item.type.startswith(form.type))

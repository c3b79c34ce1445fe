"""One model, one target, every form and task of a suite: a record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from formless import provenance
from formless.data.target import Target
from formless.evaluation.forms import Form
from formless.evaluation.generation import written
from formless.evaluation.plan import Job, Plan, planned
from formless.evaluation.record import Answer, FormResult, Record, TaskResult
from formless.evaluation.scoring import score_forms
from formless.evaluation.tasks import Task
from formless.models.lm import LM
from formless.models.scores import Skipped

Progress = Callable[[str, int, int], None]
FREE_TOKENS = 40


def evaluate(
    lm: LM, target: Target, suite: str = "ort", *, limit: int | None = None, progress: Progress | None = None
) -> Record:
    """Question a model about a target, forget and neighbor probes alike; edits on the model are noted in the record.

    Probes of neighbors that an edit was trained on are left out.

    Args:
        lm: The model, original or inside `edit.applied(lm)`.
        target: The target with its files.
        suite: A suite's name, or a list of suites, forms and tasks such as `fb,qa,mmlu`.
        limit: At most so many rows per file and task, evenly spread.
        progress: Called with the task's title, the work done and the work there is.

    Raises:
        UserError: An unknown suite or form, a missing or broken file, or a model that gives NaN or runs out of memory. A
            failure is never taken for an answer.
    """
    plan = planned(target, suite, limit, without_neighbors=trained_neighbors(lm.edits))
    return carry_out(lm, plan, progress=progress)


def trained_neighbors(edits: Iterable[Mapping[str, Any]]) -> set[str]:
    """Names of the neighbors that edits (as `lm.edits` lists them) were trained on."""
    return {name for edit in edits for name in edit.get("trained_neighbors", ())}


def carry_out(lm: LM, plan: Plan, *, progress: Progress | None = None) -> Record:
    """Ask all that was planned; see `evaluate`."""
    start = time.perf_counter()
    asked = [job for job in plan.jobs if isinstance(job.part, Form)]
    others = [job for job in plan.jobs if isinstance(job.part, Task)]
    steps = _Steps([*([sum(job.cost for job in asked)] if asked else []), *(job.cost for job in others)], progress)
    forms: list[FormResult] = []
    tasks: list[TaskResult] = []
    if asked:
        steps.begin(asked[0].title if len(asked) == 1 else f"{len(asked)} forms")
        forms = _ask_forms(lm, asked, steps)
        steps.end()
    for job in others:
        steps.begin(job.title)
        tasks.append(_ask_task(lm, job, steps))
        steps.end()
    answers = written(lm, [lm.chat_prompt(question) for question in plan.questions], max_new_tokens=FREE_TOKENS)
    target = plan.target
    return Record(
        model=lm.name, model_source=lm.settings.source, model_fingerprint=lm.fingerprint,
        model_type=str(lm.model.config.model_type), dtype=str(lm.model.dtype).removeprefix("torch."),
        subject=target.subject, target=target.folder.name if target.folder else target.subject,
        probes_digest=plan.digest(lm), suite=plan.suite, limit=plan.limit, prompt_style=lm.style.model_dump(),
        edits=list(lm.edits), without_neighbors=list(plan.without_neighbors), forms=forms, tasks=tasks,
        answers=[_answer(question, text) for question, text in zip(plan.questions, answers, strict=True)],
        token_budget=lm.token_budget, seconds=time.perf_counter() - start,
        created=provenance.now(), versions=provenance.versions(), hardware=provenance.hardware(),
    )  # fmt: skip


def _answer(question: str, text: str | Skipped) -> Answer:
    if isinstance(text, Skipped):
        return Answer(question=question, skipped=text.reason)
    return Answer(question=question, answer=text)


def _ask_forms(lm: LM, jobs: Sequence[Job], steps: _Steps) -> list[FormResult]:
    """Every form that the target has files for, together; a word of why of the others."""
    each = [(cast(Form, job.part), job.split or "forget", job) for job in jobs]
    scored = iter(
        score_forms(lm, [(form, split, job.items) for form, split, job in each if not job.absent], progress=steps.advance)
    )
    return [
        FormResult(form=form.name, split=split, status="absent", reason=job.absent) if job.absent else next(scored)
        for form, split, job in each
    ]


def _ask_task(lm: LM, job: Job, steps: _Steps) -> TaskResult:
    task = cast(Task, job.part)
    if job.absent:
        return TaskResult(task=task.name, split=job.split, status="absent", reason=job.absent)
    items, prompt = task.measure(lm, job.rows, job.split, steps.advance)
    return TaskResult(
        task=task.name, split=job.split, status="scored", figures=task.summarise(items),
        skipped=sum(not item.figures for item in items), prompt=prompt, items=items,
    )  # fmt: skip


class _Steps:
    """Turns what is done of one step into what is done of all.

    Args:
        costs: Work of each step.
        progress: Whom to tell.
    """

    def __init__(self, costs: list[int], progress: Progress | None) -> None:
        self.costs, self.progress = costs, progress
        self.number, self.title = 0, ""

    def begin(self, title: str) -> None:
        self.title = title
        self.advance(0, 1)

    def advance(self, done: int, total: int) -> None:
        if self.progress:
            part = self.costs[self.number] * done // total
            self.progress(self.title, sum(self.costs[: self.number]) + part, sum(self.costs))

    def end(self) -> None:
        self.number += 1
        if self.progress and self.number == len(self.costs):
            self.progress("done", sum(self.costs), sum(self.costs))

"""Probability forms and choice tasks of one real target, beside full logits and one prompt after the other.

The target is RWKU's Stephen King where RWKU lies beside the project, else the sample's Einstein (without MMLU, TruthfulQA,
BBH: that row is then left out). The plain way takes long, so the tasks are measured on the first rows of each file, between
a quarter and a third of it: whole subjects of MMLU and whole tasks of BBH, so that a question shares its examples with as
many others as in the whole file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from formless.evaluation.forms import Form
from formless.evaluation.scoring import score_forms
from formless.evaluation.utility import prediction

import formless
from benchmarks.plain_evaluation import answers, form_figures, plain_figures
from benchmarks.timing import Row, check, in_turns, largest_difference
from formless.data.target import Target
from formless.evaluation.plan import Job, planned
from formless.evaluation.tasks import Task
from formless.models.lm import LM

RWKU = Path(__file__).parents[2] / "shared" / "rwku" / "Target"
FORMS = "fb,qa,mcp,tf,level3,sub_fb,sub_qa,sub_level3"
FIRST = {"mmlu": 48, "truthfulqa": 14, "bbh": 24}
FIGURE = {"mmlu": "probability", "truthfulqa": "mc2"}
CLOSE = 1e-4
ROUNDS, ROUNDS_OF_CHOICES = 3, 2


def real_target() -> Target:
    """RWKU's first target where it is there, or the sample's."""
    return formless.find_target(RWKU, "1_Stephen_King") if RWKU.is_dir() else formless.find_target("sample", "Albert Einstein")


def jobs_of(target: Target, suite: str, limit: int | None = None) -> list[Job]:
    """The parts of a suite that the target has files for."""
    return [job for job in planned(target, suite, limit).jobs if not job.absent]


def first_rows(jobs: Sequence[Job], counts: dict[str, int]) -> list[Job]:
    """The same parts on the first rows of their files."""
    return [replace(job, rows={file: rows[: counts[job.part.name]] for file, rows in job.rows.items()}) for job in jobs]


def our_figures(lm: LM, jobs: Sequence[Job]) -> list[list[float]]:
    """The figures of forms or of choice tasks, item by item."""
    asked = [(job.part, job.split or "forget", job.items) for job in jobs if isinstance(job.part, Form)]
    found = [[item.probability for item in result.items if item.probability is not None] for result in score_forms(lm, asked)]
    for job in jobs:
        if isinstance(job.part, Task):
            results, _ = job.part.measure(lm, job.rows, job.split, _ignored)
            found.append([item.figures[FIGURE[job.part.name]] for item in results])
    return found


def our_answers(lm: LM, jobs: Sequence[Job]) -> list[list[str]]:
    """What is written for each item, as far as it counts."""
    written = []
    for job in jobs:
        items, _ = cast(Task, job.part).measure(lm, job.rows, job.split, _ignored)
        texts = [item.answer for item in items if item.answer is not None]
        written.append([prediction(text) for text in texts] if job.part.name == "bbh" else texts)
    return written


def _ignored(_done: int, _total: int) -> None:
    pass


def checked_figures(lm: LM, jobs: Sequence[Job]) -> str:
    """Refuse figures that differ; otherwise say how close they are."""
    pairs = zip(our_figures(lm, jobs), (plain_figures(lm, job) for job in jobs), strict=True)
    count, difference = 0, 0.0
    for ours, plain in pairs:
        count += len(ours)
        difference = max(difference, largest_difference(ours, plain))
    check(difference <= CLOSE, f"figures differ by {difference:.1e}")
    return f"{count} figures within {difference:.0e}"


def checked_answers(lm: LM, jobs: Sequence[Job]) -> str:
    """Refuse written answers that differ."""
    pairs = [
        (mine, theirs)
        for ours, job in zip(our_answers(lm, jobs), jobs, strict=True)
        for mine, theirs in zip(ours, answers(lm, job), strict=True)
    ]
    unlike = [pair for pair in pairs if pair[0].strip() != pair[1].strip()]
    check(not unlike, f"{len(unlike)} of {len(pairs)} answers differ, the first: {unlike[:1]}")
    return f"{len(pairs)} answers letter for letter"


def rows(*, quick: bool = False) -> list[Row]:
    """The rows of the table."""
    lm, target = formless.load("smollm2", dtype="float32", device="cpu"), real_target()
    found = forms_rows(lm, target, quick=quick)
    if target.has("retain_mmlu"):
        found.append(choices_row(lm, target, quick=quick))
    return found


def forms_rows(lm: LM, target: Target, *, quick: bool) -> list[Row]:
    """Probability forms, beside the two passes of the published code, and beside a single one."""
    jobs = jobs_of(target, "fb,sub_qa" if quick else FORMS, 1 if quick else None)
    checked = checked_figures(lm, jobs)
    what, note = f"probability forms of {target.subject}", f"{len(jobs)} forms, {sum(len(job.items) for job in jobs)} probes"

    def row(passes: int, bar: float | None, plain_way: str) -> Row:
        ours, plain = in_turns(
            lambda: our_figures(lm, jobs),
            lambda: [form_figures(lm, job, passes) for job in jobs],
            rounds=1 if quick else ROUNDS,
        )
        return Row(f"{what}, {plain_way}", ours, plain, bar, checked, note)

    return [row(2, 4, "plain logits twice, as published"), row(1, None, "plain logits once")]


def choices_row(lm: LM, target: Target, *, quick: bool) -> Row:
    """MMLU, TruthfulQA and BBH."""
    counts = dict.fromkeys(FIRST, 1) if quick else FIRST
    scored = first_rows(jobs_of(target, "mmlu,truthfulqa"), counts)
    written = [] if quick else first_rows(jobs_of(target, "bbh"), counts)
    checked = f"{checked_figures(lm, scored)}, {checked_answers(lm, written)}"
    ours, plain = in_turns(
        lambda: (our_figures(lm, scored), our_answers(lm, written)),
        lambda: ([plain_figures(lm, job) for job in scored], [answers(lm, job) for job in written]),
        rounds=1 if quick else ROUNDS_OF_CHOICES,
    )
    note = "first " + ", ".join(f"{counts[job.part.name]} {job.part.title}" for job in (*scored, *written))
    return Row(f"MMLU, TruthfulQA, BBH of {target.subject}", ours, plain, 4, checked, note)

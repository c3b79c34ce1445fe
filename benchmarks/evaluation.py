"""Probability forms and choice tasks of one real target, beside full logits and one prompt after the other, and their limit.

The target is RWKU's Stephen King where RWKU lies beside the project, else the sample's Einstein (without MMLU, TruthfulQA,
BBH: that row is then left out). The plain way takes long, so the choice tasks are measured on the first rows of each file, an
eighth or so: whole subjects of MMLU and whole tasks of BBH, so that a question shares its examples with as many others as in
the whole file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from statistics import mean

import formless
from benchmarks.limit import Needed, find_limit, scored
from benchmarks.limit_writing import Written, find_writing_limit
from benchmarks.models import first_model, label, other_models, part_of
from benchmarks.plain_evaluation import answers, metric_of, pairs, plain_metrics, queries
from benchmarks.timing import Row, check, in_turns, largest_difference, repeated
from formless.data.target import Target
from formless.evaluation.evaluate import respond
from formless.evaluation.plan import Job, make_plan
from formless.evaluation.task import Generate
from formless.evaluation.tasks.bbh import prediction
from formless.models.lm import LM

RWKU = Path(__file__).parents[2] / "shared" / "rwku" / "Target"
FORMS = "fb,qa,mcp,tf,level3,sub_fb,sub_qa,sub_level3"
FIRST = {"mmlu": 24, "truthfulqa": 7, "bbh": 12}
CLOSE = 1e-4
GOALS = {"135M": 0.5, "1.5B": 0.7}
GOAL_OF_CHOICES = 0.6
ROUNDS, ROUNDS_OF_CHOICES = 3, 2


def real_target() -> Target:
    """RWKU's first target where it is there, or the sample's."""
    return formless.find_target(RWKU, "1_Stephen_King") if RWKU.is_dir() else formless.find_target("sample", "Albert Einstein")


def jobs_of(target: Target, suite: str, limit: int | None = None) -> list[Job]:
    """The tasks of a suite that the target has files for."""
    return [job for job in make_plan(target, suite, limit).jobs if not job.absent]


def first_rows(jobs: Sequence[Job], counts: dict[str, int]) -> list[Job]:
    """The same tasks on the first rows of their files."""
    return [replace(job, rows=tuple(islice(job.rows, counts[job.task.name]))) for job in jobs]


def our_metrics(lm: LM, jobs: Sequence[Job]) -> list[list[float]]:
    """A metric of every item of scored tasks."""
    asked = [queries(lm, job) for job in jobs]
    responses = respond(lm, [request for own in asked for query in own for request in query.requests], _ignored)
    return [
        [metric_of(job, query.measure([responses[request] for request in query.requests])) for query in own]
        for job, own in zip(jobs, asked, strict=True)
    ]


def our_texts(lm: LM, jobs: Sequence[Job]) -> list[list[tuple[Generate, str]]]:
    """What is asked and generated for each item."""
    asked = [[request for query in queries(lm, job) for request in query.requests] for job in jobs]
    responses = respond(lm, [request for own in asked for request in own], _ignored)
    return [[(request, str(responses[request])) for request in own if isinstance(request, Generate)] for own in asked]


def our_answers(lm: LM, jobs: Sequence[Job]) -> list[list[str]]:
    """What is generated for each item, as far as it counts."""
    return [
        [prediction(text) if job.task.name == "bbh" else text for _, text in own]
        for job, own in zip(jobs, our_texts(lm, jobs), strict=True)
    ]


def _ignored(_step: str, _done: int, _total: int) -> None:
    pass


def checked_metrics(lm: LM, jobs: Sequence[Job]) -> str:
    """Refuse metrics that differ; otherwise say how close they are."""
    pairs = zip(our_metrics(lm, jobs), (plain_metrics(lm, job) for job in jobs), strict=True)
    count, difference = 0, 0.0
    for ours, plain in pairs:
        count += len(ours)
        difference = max(difference, largest_difference(ours, plain))
    check(difference <= CLOSE, f"metrics differ by {difference:.1e}")
    return f"{count} metrics within {difference:.0e}"


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


def needed_scores(lm: LM, jobs: Sequence[Job]) -> Needed:
    """What scored tasks need."""
    return scored(lm.encode(*pair) for job in jobs for query in queries(lm, job) for pair in pairs(query))


def limit_of_answers(lm: LM, jobs: Sequence[Job]) -> float:
    """The seconds that written answers need at least; they are written once to find out how long they are."""
    written = []
    for request, text in chain(*our_texts(lm, jobs)):
        prompt = lm.encode(request.prompt).ids
        new = len(lm.encode(request.prompt, text).ids) - len(prompt) + 1  # and what ended it
        written.append(Written(tuple(prompt), min(max(new, 1), request.max_new_tokens)))
    return find_writing_limit(lm).seconds(written) if written else 0


def rows(*, quick: bool = False) -> list[Row]:
    """The rows of the table."""
    lm, target = first_model(), real_target()
    found = forms_rows(lm, target, quick=quick)
    if target.has("retain_mmlu"):
        found.append(choices_row(lm, target, quick=quick))
    exact = {} if quick else {lm.name: our_metrics(lm, jobs_of(target, FORMS))}
    for other in () if quick else other_models():
        found.append(limited_forms_row(other, target, exact))
        if target.has("retain_mmlu"):
            found.append(limited_choices_row(other, target))
    return found


def forms_rows(lm: LM, target: Target, *, quick: bool) -> list[Row]:
    """Probability forms, beside the two passes of the published code, and beside a single one."""
    jobs = jobs_of(target, "fb,sub_qa" if quick else FORMS, 1 if quick else None)
    checked = checked_metrics(lm, jobs)
    note = f"{len(jobs)} forms, {sum(len(job.rows) for job in jobs)} probes"
    limit = find_limit(lm).seconds(needed_scores(lm, jobs))

    def row(passes: int, bar: float | None, plain_way: str) -> Row:
        ours, plain = in_turns(
            lambda: our_metrics(lm, jobs),
            lambda: [plain_metrics(lm, job, passes) for job in jobs],
            rounds=1 if quick else ROUNDS,
        )
        what = f"probability forms of {target.subject}, {plain_way}"
        return Row(what, ours, plain, bar, checked, note, label(lm), limit, GOALS["135M"])

    return [row(2, 4, "plain logits twice, as published"), row(1, None, "plain logits once")]


def limited_forms_row(lm: LM, target: Target, exact: dict[str, list[list[float]]]) -> Row:
    """The same forms without the plain way, and how far the probabilities are from those in float32, which come first."""
    jobs = jobs_of(target, FORMS)
    metrics = our_metrics(lm, jobs)
    apart = [
        abs(a - b) for own in zip(metrics, exact.setdefault(lm.name, metrics), strict=True) for a, b in zip(*own, strict=True)
    ]
    checked = f"probabilities {mean(apart):.1g} from float32's on average, {max(apart):.1g} at most" if any(apart) else ""
    ours = repeated(lambda: our_metrics(lm, jobs), rounds=ROUNDS)
    limit = find_limit(lm).seconds(needed_scores(lm, jobs))
    what = f"probability forms of {target.subject}"
    return Row(what, ours, None, None, checked, "", label(lm), limit, GOALS[label(lm).split(",")[0]])


def choices_row(lm: LM, target: Target, *, quick: bool) -> Row:
    """MMLU, TruthfulQA and BBH."""
    counts = dict.fromkeys(FIRST, 1) if quick else FIRST
    scored_jobs, written = choice_jobs(target, counts, with_bbh=not quick)
    checked = f"{checked_metrics(lm, scored_jobs)}, {checked_answers(lm, written)}"
    ours, plain = in_turns(
        lambda: (our_metrics(lm, scored_jobs), our_answers(lm, written)),
        lambda: ([plain_metrics(lm, job) for job in scored_jobs], [answers(lm, job) for job in written]),
        rounds=1 if quick else ROUNDS_OF_CHOICES,
    )
    note = "first " + ", ".join(f"{counts[job.task.name]} {job.task.title}" for job in (*scored_jobs, *written))
    limit = limit_of_choices(lm, scored_jobs, written)
    return Row(f"MMLU, TruthfulQA, BBH of {target.subject}", ours, plain, 4, checked, note, label(lm), limit, GOAL_OF_CHOICES)


def limited_choices_row(lm: LM, target: Target) -> Row:
    """The same tasks without the plain way."""
    counts = part_of(FIRST, lm)
    scored_jobs, written = choice_jobs(target, counts, with_bbh=True)
    limit = limit_of_choices(lm, scored_jobs, written)
    ours = repeated(lambda: (our_metrics(lm, scored_jobs), our_answers(lm, written)), rounds=ROUNDS_OF_CHOICES)
    what, note = f"MMLU, TruthfulQA, BBH of {target.subject}", f"first {', '.join(map(str, counts.values()))}"
    return Row(what, ours, None, None, "", note, label(lm), limit, GOAL_OF_CHOICES)


def choice_jobs(target: Target, counts: dict[str, int], *, with_bbh: bool) -> tuple[list[Job], list[Job]]:
    """The tasks that are scored, and those that write."""
    written = first_rows(jobs_of(target, "bbh"), counts) if with_bbh else []
    return first_rows(jobs_of(target, "mmlu,truthfulqa"), counts), written


def limit_of_choices(lm: LM, scored_jobs: Sequence[Job], written: Sequence[Job]) -> float:
    """The seconds that the scores and the written answers need at least."""
    return find_limit(lm).seconds(needed_scores(lm, scored_jobs)) + limit_of_answers(lm, written)

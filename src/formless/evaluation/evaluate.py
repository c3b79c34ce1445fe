"""One model, one target, every task of a suite: a record."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from formless import provenance
from formless.data.target import Target
from formless.errors import DataError
from formless.evaluation.plan import Job, Plan, make_plan
from formless.evaluation.prompts import KNOWN
from formless.evaluation.record import Answer, ItemResult, Record, TaskResult
from formless.evaluation.registry import TASKS
from formless.evaluation.task import (
    NOTHING_GIVEN,
    Generate,
    Given,
    GradientNorm,
    Query,
    ReadLayers,
    Request,
    Response,
    Responses,
    Sample,
    ScoreAnswer,
    ScoreContinuation,
    ScoreLayers,
    ScoreText,
    SearchSuffix,
)
from formless.interrupts import without_leftover_hooks
from formless.models.scores import Ending, FoundSuffix, Skipped
from formless.progress import Progress, WorkProgress, progress_bar

if TYPE_CHECKING:
    from formless.models.lm import LM

FREE_TOKENS = 40
CHARACTERS_PER_TOKEN = 4
SAMPLING_SEED = 0
GENERATED_TOKEN_COST = 2
"""Number of prompt tokens that take about as long as one generated token."""

GRADIENT_COST = 3
"""Number of forward passes that take about as long as a gradient."""


def evaluate(
    lm: LM,
    target: Target,
    suite: str = "ort",
    *,
    limit: int | None = None,
    retain_record: Record | None = None,
    given: Given = NOTHING_GIVEN,
    progress: bool | Progress = True,
) -> Record:
    """Question a model about a target, forget and neighbor items alike; the record notes the edits on the model.

    Items of neighbors that an edit was trained on are left out.

    Args:
        lm: The model, original or inside `edit.applied(lm)`.
        target: The target with its files.
        suite: A suite's name, or a list of suites and tasks such as `fb,qa,mmlu`.
        limit: Most rows per file and task, evenly spread.
        retain_record: The record, of the same questions, of a model that was trained without the forget set. Some metrics are
            comparisons with it and are absent without it.
        given: Responses that the model, with the same edits on it, has given already.
        progress: A callback, or whether a bar is shown in a terminal or a notebook.

    Examples:
        >>> import formless
        >>> lm = formless.load("smollm2")
        >>> record = formless.evaluate(lm, formless.find_target("sample", "Marie Curie"), "qa", limit=2, progress=False)
        >>> record.task("qa", "forget").metric("probability").n
        2

    Raises:
        UserError: An unknown suite or task, a missing or broken file, or a model that gives NaN or runs out of memory. A
            failure never counts as an answer.
    """
    plan = make_plan(target, suite, limit, excluded_neighbors=trained_neighbors(lm.edits))
    with progress_bar(progress, target.subject) as report:
        record = run_plan(lm, plan, report, given=given)
    return with_derived(record, retain_record) if retain_record else record


def trained_neighbors(edits: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the names of the neighbors that edits (as `lm.edits` lists them) were trained on."""
    return {name for edit in edits for name in edit.get("trained_neighbors", ())}


def free_requests(lm: LM, plan: Plan) -> list[Generate]:
    """Return the requests for a plan's free answers, one for each question."""
    return [Generate(lm.chat_prompt(question), FREE_TOKENS) for question in plan.questions]


def run_plan(lm: LM, plan: Plan, report: Progress, *, given: Given = NOTHING_GIVEN) -> Record:
    """Run a plan's requests on a model and return the record; see `evaluate`."""
    lm.check_layers(None)
    start = time.perf_counter()
    queries = [job.queries(lm) for job in plan.jobs]
    free = free_requests(lm, plan)
    if lm.edits:  # what is known is asked of the original model alone
        queries = [[replace(query, foils=()) for query in own] for own in queries]
    requests = [request for own in queries for query in own for request in (*query.requests, *query.foils)]
    with without_leftover_hooks(lm.model):
        missing = [request for request in (*requests, *free) if request not in given.responses]
        responses = given.responses | respond(lm, missing, report)
    tasks = [_task_result(job, own, responses, not lm.edits) for job, own in zip(plan.jobs, queries, strict=True)]
    target = plan.target
    record = Record(
        model=lm.name, model_source=lm.settings.source, model_fingerprint=lm.fingerprint,
        model_type=str(lm.model.config.model_type), dtype=lm.dtype_name, weights_in=lm.weights_in,
        subject=target.subject, target=target.folder.name if target.folder else target.subject,
        probes_digest=plan.digest(lm), suite=plan.suite, limit=plan.limit, prompt_style=lm.style.model_dump(),
        edits=list(lm.edits), excluded_neighbors=list(plan.excluded_neighbors), tasks=tasks,
        answers=[_answer(text, responses[request]) for text, request in zip(plan.questions, free, strict=True)],
        token_budget=lm.token_budget, seconds=given.seconds + time.perf_counter() - start,
        created=provenance.now(), versions=provenance.versions(), hardware=provenance.hardware(),
    )  # fmt: skip
    return with_derived(record)


def with_derived(record: Record, retain_record: Record | None = None) -> Record:
    """Return a record whose derived tasks are computed from its other tasks.

    Args:
        record: The record of a model.
        retain_record: The record of a model that was trained without the forget set; without it, tasks that compare with it are
            absent.

    Raises:
        DataError: The two records are of different questions. Where they differ in the neighbors that were left out, as an edit
            was trained on them, the tasks with the same items count.
    """
    if not any(result.task in TASKS and TASKS[result.task].derive for result in record.tasks):
        return record
    own = {(result.task, result.split): result for result in record.tasks}
    retained = None
    if retain_record:
        excludes_others = retain_record.excluded_neighbors != record.excluded_neighbors
        if not excludes_others or retain_record.prompt_style != record.prompt_style:
            refuse_other_questions(retain_record, record.probes_digest, f"{record.target}, {record.suite}")
        retained = {
            (result.task, result.split): result
            for result in retain_record.tasks
            if _asked(result) == _asked(own.get((result.task, result.split)))
        }
    tasks = []
    for result in record.tasks:
        derive = TASKS[result.task].derive if result.task in TASKS else None
        found = derive(own, retained) if derive else result
        if isinstance(found, str):
            result = TaskResult(task=result.task, split=result.split, status="absent", reason=found)
        elif isinstance(found, list):
            result = TaskResult(task=result.task, split=result.split, status="complete", metrics=found)
        tasks.append(result)
    return record.model_copy(update={"tasks": tasks})


def _asked(result: TaskResult | None) -> list[Any] | None:
    return None if result is None else [(item.query, item.expected) for item in result.items]


def refuse_other_questions(retain_record: Record, digest: str, where: str) -> None:
    """Refuse a retain model's record that is not of the questions with a digest.

    Raises:
        DataError: It is of other questions, or the questions were put to it in another way.
    """
    if retain_record.probes_digest != digest:
        what = f"the retain model was asked other questions: {retain_record.target}, {retain_record.suite}"
        remedy = "evaluate it on the same target, suite and limit, with the same prompts"
        raise DataError(what, where=where, remedy=remedy)


def respond(lm: LM, requests: Sequence[Request], report: Progress) -> Responses:
    """Run a model on requests, each different one once.

    Requests of a kind go through the model together: prompts of several tasks begin alike, and batches are fuller.

    Args:
        lm: The model.
        requests: Of any kinds.
        report: The progress callback.

    Returns:
        A response to each request, or why it has none: an answer without a token, or too little room in the context.
    """
    unique = list(dict.fromkeys(requests))
    answers = [request for request in unique if isinstance(request, ScoreAnswer)]
    texts = [request for request in unique if isinstance(request, ScoreText)]
    differentiated: dict[tuple[float, tuple[int, int]], list[GradientNorm]] = {}
    for request in unique:
        if isinstance(request, GradientNorm):
            differentiated.setdefault((request.p, request.left_out), []).append(request)
    written = [request for request in unique if isinstance(request, Generate)]
    drawn: dict[tuple[Any, ...], list[Sample]] = {}
    for request in unique:
        if isinstance(request, Sample):
            drawn.setdefault((request.max_new_tokens, request.count, request.temperature), []).append(request)
    layered = [request for request in unique if isinstance(request, ScoreLayers)]
    read = [request for request in unique if isinstance(request, ReadLayers)]
    searched = [request for request in unique if isinstance(request, SearchSuffix)]
    grouped: list[Sequence[Request]] = [*differentiated.values(), layered, read, written, *drawn.values(), searched]
    every: list[Sequence[Request]] = [answers, texts, *grouped]
    steps = _Steps([own for own in every if own], report)
    found: Responses = {}
    if answers:
        advance = steps.begin("scoring answers")
        pairs = [(request.prompt, request.answer) for request in answers]
        found |= dict(zip(answers, lm.score(pairs, progress=advance), strict=True))
    if texts:
        advance = steps.begin("scoring texts")
        prompts = [request.prompt if isinstance(request, ScoreContinuation) else "" for request in texts]
        scores = lm.score_texts([request.text for request in texts], prompts=prompts, progress=advance)
        found |= dict(zip(texts, scores, strict=True))
    for (p, left_out), sloped in differentiated.items():
        advance = steps.begin("taking gradients")
        norms = lm.gradient_norms(
            [request.text for request in sloped], prompts=[request.prompt for request in sloped], p=p,
            left_out=left_out, progress=advance,
        )  # fmt: skip
        found |= dict(zip(sloped, norms, strict=True))
    if layered:
        advance = steps.begin("scoring answers in every layer")
        pairs = [(request.prompt, request.answer) for request in layered]
        found |= dict(zip(layered, lm.score_layers(pairs, progress=advance), strict=True))
    if read:
        advance = steps.begin("reading hidden states")
        found |= dict(zip(read, lm.read_layers([request.text for request in read], progress=advance), strict=True))
    if written:
        advance = steps.begin("generating answers")
        found |= dict(zip(written, _generated(lm, written, advance), strict=True))
    for samples in drawn.values():
        advance = steps.begin("sampling answers")
        found |= dict(zip(samples, _sampled(lm, samples, advance), strict=True))
    if searched:
        advance = steps.begin("searching suffixes")
        found |= dict(zip(searched, _searched(lm, searched, advance), strict=True))
    steps.finish()
    return found


def _generated(lm: LM, requests: Sequence[Generate], progress: WorkProgress) -> list[str | Skipped]:
    """Return the texts of requests, or why there is no room for one."""
    reasons = [lm.context_overflow(len(lm.encode(request.prompt).ids), request.max_new_tokens) for request in requests]
    fitting = [request for request, reason in zip(requests, reasons, strict=True) if reason is None]
    endings = [Ending(request.max_new_tokens, request.one_line, request.until) for request in fitting]
    texts = iter(lm.generate([request.prompt for request in fitting], endings=endings, progress=progress))
    return [next(texts) if reason is None else Skipped(reason) for reason in reasons]


def _sampled(lm: LM, requests: Sequence[Sample], progress: WorkProgress) -> list[tuple[str, ...] | Skipped]:
    """Return the texts of each request with the same settings, or why there is no room for them."""
    first = requests[0]
    reasons = [lm.context_overflow(len(lm.encode(request.prompt).ids), request.max_new_tokens) for request in requests]
    prompts = [
        request.prompt
        for request, reason in zip(requests, reasons, strict=True)
        if reason is None
        for _ in range(request.count)
    ]
    texts = iter(
        lm.sample(
            prompts, max_new_tokens=first.max_new_tokens, seed=SAMPLING_SEED, temperature=first.temperature, top_p=1.0,
            one_line=True, progress=progress,
        )
    )  # fmt: skip
    return [
        tuple(next(texts) for _ in range(request.count)) if reason is None else Skipped(reason)
        for request, reason in zip(requests, reasons, strict=True)
    ]


def _searched(lm: LM, requests: Sequence[SearchSuffix], progress: WorkProgress) -> list[FoundSuffix | Skipped]:
    """Return the suffix of each request and what the model writes after it, or why there is no room for one."""
    steps = [request.budget.steps for request in requests]
    results: list[FoundSuffix | Skipped] = []
    for number, request in enumerate(requests):

        def advance(done: int, _total: int, before: int = sum(steps[:number])) -> None:
            progress(before + done, sum(steps))

        reason = lm.context_overflow(len(lm.encode(request.prompt).ids), request.max_new_tokens)
        found = Skipped(reason) if reason else lm.search_suffix(
            request.prompt, request.suffix, request.target, request.budget, progress=advance
        )  # fmt: skip
        if isinstance(found, FoundSuffix):
            before, _, after = request.prompt.rpartition(request.suffix)
            (answer,) = lm.generate([f"{before}{found.text}{after}"], max_new_tokens=request.max_new_tokens)
            found = replace(found, answer=answer)
        results.append(found)
    return results


def _task_result(job: Job, queries: Sequence[Query], responses: Responses, is_original: bool) -> TaskResult:
    if job.absent:
        return TaskResult(task=job.task.name, split=job.split, status="absent", reason=job.absent)
    items = [item for query in queries for item in _item_results(query, responses)]
    if not is_original:
        items = [_without_known(item) for item in items]
    if not job.task.records_prompts:
        first = next((place for place, item in enumerate(items) if item.prompt), 0)
        items = [item if place == first else item.model_copy(update={"prompt": None}) for place, item in enumerate(items)]
    return TaskResult(
        task=job.task.name, split=job.split, status="complete", metrics=job.task.summarize(items),
        skipped=sum(not item.metrics for item in items), items=items,
    )  # fmt: skip


def _item_results(query: Query, responses: Responses) -> list[ItemResult]:
    """Return the metrics of one item, or why it has none; one for each group where it has several."""
    item = ItemResult(
        query=query.text,
        prompt=query.prompt,
        expected=query.expected,
        fact=query.fact,
        group=query.group,
        skipped=query.skipped,
    )
    if query.skipped:
        return [item]
    own = [responses[request] for request in query.requests]
    missing = next((response for response in own if isinstance(response, Skipped)), None)
    foils = [responses[request] for request in query.foils]
    if any(isinstance(response, Skipped) for response in foils):  # one that does not fit: no item is known by fewer
        foils = []
    measured = missing or query.measure([*own, *foils])
    if isinstance(measured, Skipped):
        written = own[0] if own and isinstance(own[0], str) else None
        groups = query.groups or (query.group,)
        return [item.model_copy(update={"skipped": measured.reason, "answer": written, "group": group}) for group in groups]
    if measured.by_group:
        return [item.model_copy(update={"metrics": own, "group": group}) for group, own in measured.by_group.items()]
    return [item.model_copy(update={"metrics": measured.metrics, "answer": measured.answer, "foils": measured.foils})]


def _without_known(item: ItemResult) -> ItemResult:
    """Return an item of an edited model: known is what the original model knows."""
    metrics = {name: value for name, value in item.metrics.items() if name != KNOWN.name}
    return item.model_copy(update={"metrics": metrics, "foils": {}})


def _answer(question: str, text: Response | Skipped) -> Answer:
    if isinstance(text, Skipped):
        return Answer(question=question, skipped=text.reason)
    return Answer(question=question, answer=str(text))


class _Steps:
    """Turns the progress of one step into that of all steps.

    Args:
        steps: The requests of each step.
        report: The callback.
    """

    def __init__(self, steps: Sequence[Sequence[Request]], report: Progress) -> None:
        self._costs = [sum(map(cost, step)) for step in steps]
        self._report, self._number = report, -1

    def begin(self, title: str) -> WorkProgress:
        """Begin the next step and return its own callback."""
        self._number += 1
        before, own = sum(self._costs[: self._number]), self._costs[self._number]

        def advance(done: int, total: int) -> None:
            self._report(title, before + own * done // max(total, 1), sum(self._costs))

        advance(0, 1)
        return advance

    def finish(self) -> None:
        """Report that all is done."""
        self._report("done", sum(self._costs), sum(self._costs))


def cost(request: Request) -> int:
    """Return about how many tokens of a prompt take as long as a request; at least 1."""
    if isinstance(request, ScoreText | ReadLayers):
        return 1 + len(request.text) // CHARACTERS_PER_TOKEN
    if isinstance(request, ScoreAnswer | ScoreLayers):
        return 1 + (len(request.prompt) + len(request.answer)) // CHARACTERS_PER_TOKEN
    if isinstance(request, GradientNorm):
        return GRADIENT_COST * (1 + (len(request.prompt) + len(request.text)) // CHARACTERS_PER_TOKEN)
    if isinstance(request, SearchSuffix):
        return (
            request.budget.steps
            * (request.budget.candidates + GRADIENT_COST)
            * (1 + len(request.prompt) // CHARACTERS_PER_TOKEN)
        )
    once = 1 + len(request.prompt) // CHARACTERS_PER_TOKEN + GENERATED_TOKEN_COST * request.max_new_tokens
    return once * (request.count if isinstance(request, Sample) else 1)

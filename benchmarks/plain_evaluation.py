"""The published way of evaluating, written plainly.

Rows are padded in file order, every position of every row gets its logits over the whole vocabulary, nothing is kept from one
prompt to the next, and a batch writes until its last row has ended. Wording, tokens and metrics are the product's own: they are
not what is measured. Where the published code wastes more, this does not: answers end at
their newlines, and logits are computed once unless `passes` says twice, as there.

    python -m benchmarks.plain_evaluation DATA TARGET SUITE LIMIT METHOD OUT

evaluates one target in a process of its own, as the published runner does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch

import formless
from formless.evaluation.evaluate import FREE_TOKENS
from formless.evaluation.plan import Job, make_plan
from formless.evaluation.task import Generate, Measured, Query, ScoreAnswer
from formless.evaluation.tasks.bbh import prediction
from formless.models.lm import LM
from formless.models.scores import Score, Skipped

SCORED, WRITTEN = 4, 8
"""Rows of a batch that is scored, and of one that writes."""


@torch.no_grad()
def log_probabilities(lm: LM, pairs: Sequence[tuple[str, str]], passes: int = 1) -> Iterator[list[float]]:
    """Of each answer's tokens given all before them (nats)."""
    for start in range(0, len(pairs), SCORED):
        encoded = [lm.encode(prompt, answer) for prompt, answer in pairs[start : start + SCORED]]
        batch = lm.pad([item.ids for item in encoded])
        for _ in range(passes):
            logits = cast(Any, lm.model)(**batch, use_cache=False).logits.float()  # [batch, seq, vocab]
        values = logits[:, :-1].log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]  # [batch, seq - 1]
        for item, row in zip(encoded, values, strict=True):
            yield row[item.answer_start - 1 : len(item.ids) - 1].tolist()


def texts(lm: LM, prompts: Sequence[str], *, max_new_tokens: int, one_line: bool = False) -> list[str]:
    """Greedy continuations by transformers' own loop, with its key/value cache."""
    written: list[str] = []
    ends = [*lm.end_ids, *(lm.newline_ids if one_line else [])]
    for start in range(0, len(prompts), WRITTEN):
        batch = lm.pad([lm.encode(prompt).ids for prompt in prompts[start : start + WRITTEN]], side="left")
        found = cast(Any, lm.model).generate(
            **batch, max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=ends, pad_token_id=lm.pad_id
        )
        rows = lm.tokenizer.batch_decode(found[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        written += [(row.split("\n")[0] if one_line else row).strip() for row in rows]
    return written


def queries(lm: LM, job: Job) -> list[Query]:
    """Every item that a task can ask."""
    return [query for query in job.queries(lm) if not query.skipped]


def pairs(query: Query) -> list[tuple[str, str]]:
    """Prompts and answers of an item whose answers are scored."""
    return [(request.prompt, request.answer) for request in query.requests if isinstance(request, ScoreAnswer)]


def plain_metrics(lm: LM, job: Job, passes: int = 1) -> list[float]:
    """A metric of every item of a scored task; the published code makes two passes."""
    found = queries(lm, job)
    if job.task.name == "mmlu":
        scores = iter([score for query in found for score in letter_scores(lm, pairs(query))])
    else:
        every = [pair for query in found for pair in pairs(query)]
        rows = log_probabilities(lm, every, passes)
        scores = iter([Score(tuple(row), (False,) * len(row)) for row in rows])
    return [metric_of(job, query.measure([next(scores) for _ in query.requests])) for query in found]


def metric_of(job: Job, measured: Measured | Skipped) -> float:
    """The metric that is compared."""
    return cast(Measured, measured).metrics["mc2" if job.task.name == "truthfulqa" else "probability"]


@torch.no_grad()
def letter_scores(lm: LM, asked: Sequence[tuple[str, str]]) -> list[Score]:
    """The letters after one prompt; one pass for all of them."""
    letters = [lm.encode(prompt, letter).ids[-1] for prompt, letter in asked]
    logits = cast(Any, lm.model)(**lm.pad([lm.encode(asked[0][0]).ids]), use_cache=False).logits.float()
    return [Score((log,), (False,)) for log in logits[0, -1].log_softmax(-1)[letters].tolist()]


def answers(lm: LM, job: Job) -> list[str]:
    """What is generated for every item of a task, as far as it counts."""
    requests = [request for query in queries(lm, job) for request in query.requests if isinstance(request, Generate)]
    first = requests[0]
    prompts = [request.prompt for request in requests]
    found = texts(lm, prompts, max_new_tokens=first.max_new_tokens, one_line=first.one_line)
    return [prediction(text) for text in found] if job.task.name == "bbh" else found


def main(data: str, name: str, suite: str, limit: str, method: str, out: str) -> None:
    """Load, unlearn, evaluate one target; write each task's mean and the free answers."""
    lm = formless.load("smollm2", dtype="float32", device="cpu")
    target = formless.find_target(data, name)
    plan = make_plan(target, suite, int(limit))
    with nullcontext() if method == "original" else formless.unlearn(lm, target, method).applied(lm):
        metrics = {f"{job.task.name} {job.split}": plain_metrics(lm, job) for job in plan.jobs if not job.absent}
        written = texts(lm, [lm.chat_prompt(question) for question in plan.questions], max_new_tokens=FREE_TOKENS)
    means = {task: sum(values) / len(values) for task, values in metrics.items()}
    Path(out).write_text(json.dumps({"means": means, "answers": written}), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

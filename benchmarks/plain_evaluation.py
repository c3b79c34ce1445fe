"""The published way of evaluating, written plainly.

Rows are padded in file order, every position of every row gets its logits over the whole vocabulary, nothing is kept from one
prompt to the next, and a batch writes until its last row has ended. Wording, tokens and the figures of written answers are the
product's own: they are not what is measured. Where the published code wastes more, this does not: answers end at
their newlines, and logits are computed once unless `passes` says twice, as there.

    python -m benchmarks.plain_evaluation DATA TARGET SUITE LIMIT METHOD OUT

evaluates one target in a process of its own, as the published runner does.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from formless.evaluation.forms import FORMS, LETTERS, Form
from formless.evaluation.utility import TRIVIA_EXAMPLES, TRUTHFUL_EXAMPLES, cued, mmlu_message, prediction, reasoning_message

import formless
from formless.data.target import Question, Row, Truthful
from formless.evaluation.evaluate import FREE_TOKENS
from formless.evaluation.plan import Job, planned
from formless.models.lm import LM
from formless.models.scores import Skipped

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


def queries(lm: LM, form: Form, job: Job) -> list[tuple[str, str]]:
    """Prompt and answer of every item that a form can ask; one query an item."""
    asked = [form.ask(item, lm, job.split or "forget") for item in job.items]
    return [(found[0].prompt, found[0].answer) for found in asked if not isinstance(found, Skipped)]


def rows_of(job: Job) -> list[Row]:
    """The rows of a task."""
    return [row for file in job.rows.values() for row in file]


def form_figures(lm: LM, job: Job, passes: int = 1) -> list[float]:
    """exp(mean log-probability) of every answer; the published code makes two passes."""
    pairs = queries(lm, cast(Form, job.part), job)
    return [math.exp(sum(row) / len(row)) for row in log_probabilities(lm, pairs, passes)]


@torch.no_grad()
def mmlu_figures(lm: LM, job: Job) -> list[float]:
    """The right letter's share among the letters; one pass a question."""
    shares = []
    for question in cast(list[Question], rows_of(job)):
        prompt = lm.chat_prompt(mmlu_message(question), "Answer:")
        letters = [lm.encode(prompt, f" {letter}").ids[-1] for letter in LETTERS[: len(question.choices)]]
        logits = cast(Any, lm.model)(**lm.pad([lm.encode(prompt).ids]), use_cache=False).logits.float()
        shares.append(float(logits[0, -1, letters].softmax(-1)[question.answer]))
    return shares


def truthful_figures(lm: LM, job: Job) -> list[float]:
    """MC2: the share of probability on true choices."""
    shares = []
    for question in cast(list[Truthful], rows_of(job)):
        prompt = cued(lm, f"{TRUTHFUL_EXAMPLES}\n\nQ: {question.question}")
        choices = question.mc2_targets
        logs = [sum(row) for row in log_probabilities(lm, [(prompt, f" {choice}") for choice in choices.choices])]
        true = sum(math.exp(log) for log, label in zip(logs, choices.labels, strict=True) if label)
        shares.append(true / sum(map(math.exp, logs)))
    return shares


def answers(lm: LM, job: Job) -> list[str]:
    """What is written for every row of a task, as far as it counts."""
    name, rows = job.part.name, cast(list[Any], rows_of(job))
    if name == "bbh":
        prompts = [cued(lm, reasoning_message(row)) for row in rows]
        return [prediction(text) for text in texts(lm, prompts, max_new_tokens=256)]
    if name == "fluency":
        return texts(lm, [lm.chat_prompt(f"Instruction: {row.instruction}\n") for row in rows], max_new_tokens=256)
    if name == "triviaqa":
        prompts = [lm.chat_prompt(f"{TRIVIA_EXAMPLES}Q: {row.question}", "A:") for row in rows]
    else:
        prompts = [prompt for prompt, _ in queries(lm, FORMS[name.removeprefix("gen_")], job)]
    return texts(lm, prompts, max_new_tokens=30, one_line=True)


def plain_figures(lm: LM, job: Job) -> list[float]:
    """The figures of a form or a choice task, item by item."""
    tasks = {"mmlu": mmlu_figures, "truthfulqa": truthful_figures}
    return tasks.get(job.part.name, form_figures)(lm, job)


def main(data: str, name: str, suite: str, limit: str, method: str, out: str) -> None:
    """Load, unlearn, evaluate one target; write each form's mean and the free answers."""
    lm = formless.load("smollm2", dtype="float32", device="cpu")
    target = formless.find_target(data, name)
    plan = planned(target, suite, int(limit))
    with nullcontext() if method == "original" else formless.unlearn(lm, target, method).applied(lm):
        figures = {f"{job.part.name} {job.split}": plain_figures(lm, job) for job in plan.jobs if not job.absent}
        written = texts(lm, [lm.chat_prompt(question) for question in plan.questions], max_new_tokens=FREE_TOKENS)
    means = {part: sum(values) / len(values) for part, values in figures.items()}
    Path(out).write_text(json.dumps({"means": means, "answers": written}), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

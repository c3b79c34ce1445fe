"""MMLU, five examples, as ORT and RWKU ask it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from formless.data.rows import Question
from formless.evaluation.metrics import log_sum
from formless.evaluation.prompts import LETTERS
from formless.evaluation.task import Measured, MetricSpec, Query, ScoreAnswer, Source, Task

if TYPE_CHECKING:
    from formless.models.lm import LM


def message(row: Question) -> str:
    """Return the user message: the subject's examples, then the question, which ends with its last choice."""
    subject = row.task.replace("_", " ")
    examples = "".join(f"{_lettered(example)}\nAnswer: {LETTERS[example.answer]}\n\n" for example in row.examples)
    return (
        f"The following are multiple choice questions (with answers) about {subject}.\n\n{examples}"
        f"Please following the previous examples and answer the given question.\n{_lettered(row)}"
    )


def _lettered(row: Question) -> str:
    return f"Question: {row.question}{options(row)}"


def options(row: Question) -> str:
    """Return the choices with their letters, each on a line of its own."""
    return "".join(f"\n{LETTERS[i]}. {choice}" for i, choice in enumerate(row.choices))


def ask(lm: LM, row: Question, _source: Source) -> Query:
    """Score the letters after the examples."""
    return scored_letters(row, lm.chat_prompt(message(row), "Answer:"))


def scored_letters(row: Question, prompt: str, group: str | None = None) -> Query:
    """Return a query that scores letters: `accuracy`, whether the right one is the most probable; `probability`, its share."""

    def measure(scores: Sequence[Any]) -> Measured:
        logs = [score.log_probability for score in scores]
        best = max(range(len(logs)), key=logs.__getitem__)
        share = math.exp(logs[row.answer] - log_sum(logs))
        return Measured({"accuracy": float(best == row.answer), "probability": share}, LETTERS[best])

    letters = LETTERS[: len(row.choices)]
    requests = tuple(ScoreAnswer(prompt, f" {letter}") for letter in letters)
    return Query(row.question, requests, measure, expected=LETTERS[row.answer], group=group)


METRICS = (
    MetricSpec("accuracy", "share", chance=1 / 4),
    MetricSpec("probability", "share", "the right letter's share", chance=1 / 4),
)

MMLU = Task(
    name="mmlu",
    title="MMLU",
    files=("retain_mmlu",),
    metrics=METRICS,
    ask=ask,
    records_prompts=False,
)

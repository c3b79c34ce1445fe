"""BBH with its chain of thought (RWKU)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from formless.data.rows import Reasoning
from formless.evaluation.metrics import exact_match, published_exact_match
from formless.evaluation.prompts import few_shot_prompt, is_published
from formless.evaluation.task import Generate, Measured, MetricSpec, Query, Source, Task

if TYPE_CHECKING:
    from formless.models.lm import LM

ANSWER_IS = re.compile(r"[tT]he answer is (.*?)\.")
NEW_TOKENS = 256


def message(row: Reasoning) -> str:
    """Return the user message: the worked examples, then the question."""
    instruction = "Following previous examples, answer the following questions and end with 'so the answer is'"
    return f"{row.cot.strip()}\n\n{instruction}\nQ: {row.question}"


def prediction(text: str) -> str:
    """Return what is between "the answer is" and the next full stop of the same line, or else the whole text.

    As in the published code, a sentence may begin with "The answer is".
    """
    found = ANSWER_IS.search(text)
    return found[1] if found else text


def ask(lm: LM, row: Reasoning, _source: Source) -> Query:
    """Let the model reason: `em`, the exact match of its prediction after SQuAD's normalisation.

    Differs from RWKU's code: that code compares a prediction with each character of the right answer, so that of the answers
    `True` or `valid` none can ever be right.

    A text ends at the full stop after "the answer is", since nothing behind it can change the metric.
    """
    match = published_exact_match if is_published(lm) else exact_match

    def measure(texts: Sequence[Any]) -> Measured:
        return Measured({"em": match(prediction(texts[0]), [row.answer])}, texts[0])

    request = Generate(few_shot_prompt(lm, message(row)), NEW_TOKENS, until=ANSWER_IS)
    return Query(row.question, (request,), measure, expected=row.answer)


BBH = Task(
    name="bbh",
    title="BBH",
    files=("retain_bbh",),
    metrics=(MetricSpec("em", "share", "exact match"),),
    ask=ask,
    records_prompts=False,
)

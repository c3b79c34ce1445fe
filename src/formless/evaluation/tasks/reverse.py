"""Reverse questions: the fact is given and the concept's name is asked. Ours.

Nothing in the question names the concept, so an edit that is keyed on the name has nothing to act on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from formless.data.target import Reverse
from formless.data.words import holds, words_of
from formless.evaluation.prompts import NEW_TOKENS, SCORED, short_answer_prompt, skipped
from formless.evaluation.task import BOTH, Generate, Measured, MetricSpec, Query, ScoreAnswer, Source, Task
from formless.evaluation.tasks.question import message
from formless.models.scores import Score

if TYPE_CHECKING:
    from formless.models.lm import LM


def says_name(text: str, names: Sequence[str]) -> bool:
    """Return whether a text holds one of the names in whole words."""
    words = words_of(text)
    return any(holds(words, words_of(name)) for name in names)


def ask_reverse(lm: LM, item: Reverse, _source: Source) -> Query:
    """Score the full name, and let the model answer in one line: `named` is 1 if it says the name or an alias."""
    if not item.answer.strip():
        return skipped(item, "the answer is empty")
    prompt, name = short_answer_prompt(lm, message(item)), f" {item.answer}"

    def measure(responses: Sequence[Any]) -> Measured:
        score, text = cast(Score, responses[0]), cast(str, responses[1])
        named = float(says_name(text, (item.answer, *item.aliases)))
        metrics = {"probability": score.probability, "token_accuracy": score.token_accuracy, "named": named}
        return Measured(metrics, text)

    requests = (ScoreAnswer(prompt, name), Generate(prompt, NEW_TOKENS, one_line=True))
    return Query(item.query, requests, measure, expected=[item.answer, *item.aliases])


REVERSE = Task(
    name="reverse",
    title="Reverse question",
    files=("{split}_reverse",),
    metrics=(*SCORED, MetricSpec("named", "share", "name or alias said")),
    ask=ask_reverse,
    splits=BOTH,
)

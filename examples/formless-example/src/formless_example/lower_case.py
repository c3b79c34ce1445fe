"""`qa_lower`: the questions about a target in lower case, as people type them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from formless.data.rows import Item
from formless.evaluation.task import BOTH, Measured, MetricSpec, Query, ScoreAnswer, Source, Task

if TYPE_CHECKING:
    from formless.models.lm import LM


def ask(lm: LM, item: Item, _source: Source) -> Query:
    """Score the answer after the question in lower case."""

    def measure(scores: Sequence[Any]) -> Measured:
        return Measured({"probability": scores[0].probability})

    request = ScoreAnswer(lm.chat_prompt(item.query.lower(), "Answer:"), f" {item.answer}")
    return Query(item.query, (request,), measure, expected=item.answer)


QA_LOWER = Task(
    name="qa_lower",
    title="Question in lower case",
    files=("{split}_level2",),
    metrics=(MetricSpec("probability", "probability", "probability of the right answer"),),
    ask=ask,
    splits=BOTH,
)

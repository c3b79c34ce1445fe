"""Reverse questions: the fact is given and the concept's name is asked. Ours.

Nothing in the question names the concept, so an edit that is keyed on the name has nothing to act on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from formless.data.rows import Reverse
from formless.evaluation.metrics import says
from formless.evaluation.prompts import NEW_TOKENS, RECALL, SCORED, scored_answer, short_answer_prompt, skipped
from formless.evaluation.task import BOTH, Generate, Measured, Query, Source, Task
from formless.evaluation.tasks.question import message

if TYPE_CHECKING:
    from formless.models.lm import LM


def ask_reverse(lm: LM, item: Reverse, source: Source) -> Query:
    """Score the full name, and let the model answer in one line: `recall` is 1 if it says the name or an alias."""
    if not item.answer.strip():
        return skipped(item, "the answer is empty")
    prompt = short_answer_prompt(lm, message(item))
    scored = scored_answer(item, prompt, source)

    def measure(responses: Sequence[Any]) -> Measured:
        score, text, *foils = responses
        found = cast(Measured, scored.measure([score, *foils]))
        said = float(says(cast(str, text), (item.answer, *item.aliases)))
        return Measured(found.metrics | {"recall": said}, text, found.foils)

    requests = (*scored.requests, Generate(prompt, NEW_TOKENS, one_line=True))
    return replace(scored, requests=requests, measure=measure, expected=[item.answer, *item.aliases])


REVERSE = Task(
    name="reverse",
    title="Reverse question",
    files=("{split}_reverse",),
    metrics=(*SCORED, RECALL),
    ask=ask_reverse,
    splits=BOTH,
)

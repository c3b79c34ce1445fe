"""Statement: the cloze up to its blank as plain text. Ours: small models show most of what they know in plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from formless.data.target import BLANK, Item
from formless.evaluation.prompts import SHOWING_KNOWLEDGE, scored_answer, skipped
from formless.evaluation.task import BOTH, Query, Source, Task

if TYPE_CHECKING:
    from formless.models.lm import LM


def ask_statement(_lm: LM, item: Item, source: Source) -> Query:
    """Return the cloze up to its blank, to be continued by the answer; only where the blank is last."""
    before, blank, after = item.query.partition(BLANK)
    if not item.answer.strip():
        return skipped(item, "the answer is empty")
    if not blank:
        return skipped(item, "the cloze has no blank")
    if any(character.isalnum() for character in after):
        return skipped(item, "the blank is not at the end")
    space = " " if before != before.rstrip() else ""
    return scored_answer(item, before.rstrip(), source, shaped=lambda answer: f"{space}{answer}")


STATEMENT = Task(
    name="statement",
    title="Statement",
    files=("{split}_level1",),
    metrics=SHOWING_KNOWLEDGE,
    ask=ask_statement,
    splits=BOTH,
    optional=False,
)

"""Statement: the cloze up to its blank as plain text. Ours: small models show most of what they know in plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from formless.data.rows import BLANK, Item
from formless.evaluation.prompts import GENERATED, SHOWING_KNOWLEDGE, generated_answer, scored_answer, skipped
from formless.evaluation.task import BOTH, Query, Source, Task

if TYPE_CHECKING:
    from formless.models.lm import LM


def unusable(item: Item) -> str | None:
    """Return why a cloze cannot be continued by its answer: only one whose blank is last can be."""
    _, blank, after = item.query.partition(BLANK)
    if not item.answer.strip():
        return "the answer is empty"
    if not blank:
        return "the cloze has no blank"
    return "the blank is not at the end" if any(character.isalnum() for character in after) else None


def ask_statement(_lm: LM, item: Item, source: Source) -> Query:
    """Return the cloze up to its blank, to be continued by the answer."""
    if reason := unusable(item):
        return skipped(item, reason)
    before = item.query.partition(BLANK)[0]
    space = " " if before != before.rstrip() else ""
    return scored_answer(item, before.rstrip(), source, shaped=lambda answer: f"{space}{answer}")


def write_statement(_lm: LM, item: Item, _source: Source) -> Query:
    """Return the cloze up to its blank, to be continued by the model."""
    if reason := unusable(item):
        return skipped(item, reason)
    return generated_answer(item, item.query.partition(BLANK)[0].rstrip())


STATEMENT = Task(
    name="statement",
    title="Statement",
    files=("{split}_level1",),
    metrics=SHOWING_KNOWLEDGE,
    ask=ask_statement,
    splits=BOTH,
    optional=False,
)
GEN_STATEMENT = Task(
    name="gen_statement",
    title="Statement, in words",
    files=("{split}_level1",),
    metrics=GENERATED,
    ask=write_statement,
    splits=BOTH,
)

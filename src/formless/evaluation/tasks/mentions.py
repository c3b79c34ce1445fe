"""Blanks, statements and questions that name the concept in other ways, by mention. Ours.

An edit is keyed on the name as it was given. These tasks ask the same facts with the name in lower case, the surname alone, an
alias, a misspelling, another script, or a description. Each mention is a group of the task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from formless.data.target import MENTIONS, Item, MentionItem
from formless.evaluation.prompts import GENERATED, SCORED, generated_answer, short_answer_prompt
from formless.evaluation.task import BOTH, Query, Source, Task
from formless.evaluation.tasks.blank import ask_blank
from formless.evaluation.tasks.question import ask_question, message
from formless.evaluation.tasks.statement import ask_statement

if TYPE_CHECKING:
    from formless.models.lm import LM

FILES = ("{split}_mentions",)


def by_mention(ask: Callable[[LM, Item, Source], Query]) -> Callable[[LM, MentionItem, Source], Query]:
    """Return what puts an item to the model as another task does; its group is the mention."""
    return lambda lm, item, source: replace(ask(lm, item, source), group=item.mention)


def write_question(lm: LM, item: Item, _source: Source) -> Query:
    """Let the model answer in one line."""
    return generated_answer(item, short_answer_prompt(lm, message(item)))


STATEMENT_MENTIONS = Task(
    name="statement_mentions",
    title="Statement, by mention",
    files=FILES,
    types=("cloze",),
    metrics=SCORED,
    ask=by_mention(ask_statement),
    splits=BOTH,
    groups=MENTIONS,
    grouped_by="mention",
)
FB_MENTIONS = Task(
    name="fb_mentions",
    title="Fill in the blank, by mention",
    files=FILES,
    types=("cloze",),
    metrics=SCORED,
    ask=by_mention(ask_blank),
    splits=BOTH,
    groups=MENTIONS,
    grouped_by="mention",
)
QA_MENTIONS = Task(
    name="qa_mentions",
    title="Question, by mention",
    files=FILES,
    types=("question",),
    metrics=SCORED,
    ask=by_mention(ask_question),
    splits=BOTH,
    groups=MENTIONS,
    grouped_by="mention",
)
GEN_QA_MENTIONS = Task(
    name="gen_qa_mentions",
    title="Question, in words, by mention",
    files=FILES,
    types=("question",),
    metrics=GENERATED,
    ask=by_mention(write_question),
    splits=BOTH,
    groups=MENTIONS,
    grouped_by="mention",
)

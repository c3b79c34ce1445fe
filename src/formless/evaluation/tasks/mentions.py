"""Blanks, statements and questions that name the concept in other ways, by mention. Ours.

An edit is keyed on the name as it was given. These tasks ask the same facts with the name in lower case, the surname alone, an
alias, a misspelling, another script, or a description. Each mention is a group of the task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from formless.data.rows import MENTIONS, Item, MentionItem
from formless.evaluation.prompts import GENERATED, SCORED
from formless.evaluation.task import BOTH, MetricSpec, Query, Source, Task
from formless.evaluation.tasks.blank import ask_blank
from formless.evaluation.tasks.question import ask_question, write_question
from formless.evaluation.tasks.statement import ask_statement

if TYPE_CHECKING:
    from formless.models.lm import LM

FILES = ("{split}_mentions",)


def by_mention(ask: Callable[[LM, Item, Source], Query]) -> Callable[[LM, MentionItem, Source], Query]:
    """Return what puts an item to the model as another task does; its group is the mention."""
    return lambda lm, item, source: replace(ask(lm, item, source), group=item.mention)


def mention_task(
    name: str, title: str, kind: str, ask: Callable[[LM, Item, Source], Query], metrics: tuple[MetricSpec, ...] = SCORED
) -> Task:
    """Return a task that asks rows of a kind, `cloze` or `question`, as another task does, by mention."""
    return Task(
        name=name, title=f"{title}, by mention", files=FILES, types=(kind,), metrics=metrics, ask=by_mention(ask), splits=BOTH,
        groups=MENTIONS, grouped_by="mention",
    )  # fmt: skip


STATEMENT_MENTIONS = mention_task("statement_mentions", "Statement", "cloze", ask_statement)
FB_MENTIONS = mention_task("fb_mentions", "Fill in the blank", "cloze", ask_blank)
QA_MENTIONS = mention_task("qa_mentions", "Question", "question", ask_question)
GEN_QA_MENTIONS = mention_task("gen_qa_mentions", "Question, in words", "question", write_question, GENERATED)

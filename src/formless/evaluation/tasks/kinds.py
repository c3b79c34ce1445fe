"""Questions that ask the facts of level 2 in other ways, by kind. Ours.

An edit is learned from statements and questions that name the concept. These tasks ask the same facts paraphrased, after a turn
that names the concept, over two hops, and in other languages. Each kind is a group of the task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from formless.data.rows import KINDS, KindItem
from formless.evaluation.prompts import DIRECT_ANSWER, GENERATED, SCORED, generated_answer, scored_answer
from formless.evaluation.task import BOTH, Query, Source, Task
from formless.evaluation.tasks.question import message

if TYPE_CHECKING:
    from formless.models.lm import LM

FILES = ("{split}_kinds",)


def kind_prompt(lm: LM, item: KindItem) -> str:
    """Return the prompt of a question as `qa` words it, after the earlier turns of a conversation."""
    line = DIRECT_ANSWER if lm.style.direct_answer else ""
    return lm.chat_prompt(line + message(item), "Answer:", earlier=item.earlier)


def ask_kind(lm: LM, item: KindItem, source: Source) -> Query:
    """Score the answer as a whole."""
    return scored_answer(item, kind_prompt(lm, item), source, group=item.kind)


def write_kind(lm: LM, item: KindItem, _source: Source) -> Query:
    """Let the model answer in one line."""
    return generated_answer(item, kind_prompt(lm, item), group=item.kind)


QA_KINDS = Task(
    name="qa_kinds",
    title="Question, by kind",
    files=FILES,
    metrics=SCORED,
    ask=ask_kind,
    splits=BOTH,
    groups=KINDS,
    grouped_by="kind",
)
GEN_QA_KINDS = Task(
    name="gen_qa_kinds",
    title="Question, in words, by kind",
    files=FILES,
    metrics=GENERATED,
    ask=write_kind,
    splits=BOTH,
    groups=KINDS,
    grouped_by="kind",
)

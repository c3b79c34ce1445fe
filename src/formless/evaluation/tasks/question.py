"""Question (ORT's QA, RWKU's level 2): scored, letter by letter, and generated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from formless.data.rows import Item
from formless.evaluation.prompts import (
    GENERATED,
    MANY_SAMPLES,
    MANY_TEMPERATURE,
    SAMPLED,
    SAMPLED_OFTEN,
    SHOWING_KNOWLEDGE,
    UNFOILED,
    generated_answer,
    sampled_answer,
    scored_answer,
    short_answer_prompt,
    spelled_answer,
)
from formless.evaluation.task import BOTH, Query, Source, Task

if TYPE_CHECKING:
    from formless.models.lm import LM

FILES = ("{split}_level2",)


def message(item: Item) -> str:
    """Return the user message of a question."""
    return f"Please briefly answer the following question.\nQuestion: {item.query}\n"


def ask_question(lm: LM, item: Item, source: Source) -> Query:
    """Score the answer as a whole."""
    return scored_answer(item, short_answer_prompt(lm, message(item)), source)


def write_question(lm: LM, item: Item, _source: Source) -> Query:
    """Let the model answer in one line."""
    return generated_answer(item, short_answer_prompt(lm, message(item)))


QA = Task(name="qa", title="Question", files=FILES, metrics=SHOWING_KNOWLEDGE, ask=ask_question, splits=BOTH, optional=False)
SUB_QA = Task(
    name="sub_qa",
    title="Question, letter by letter",
    files=FILES,
    metrics=UNFOILED,
    ask=lambda lm, item, _: spelled_answer(lm, item, message(item)),
    splits=BOTH,
    optional=False,
)
SUB_QA_LETTERS = Task(
    name="sub_qa_letters",
    title="Question, letters alone",
    files=FILES,
    metrics=SHOWING_KNOWLEDGE,
    ask=lambda lm, item, source: spelled_answer(lm, item, message(item), source, letters_alone=True),
    splits=BOTH,
    optional=False,
)
GEN_QA = Task(
    name="gen_qa",
    title="Question, in words",
    files=FILES,
    metrics=GENERATED,
    ask=write_question,
    splits=BOTH,
)
SAMPLE_QA = Task(
    name="sample_qa",
    title="Question, eight samples",
    files=FILES,
    metrics=SAMPLED,
    ask=lambda lm, item, _: sampled_answer(item, short_answer_prompt(lm, message(item))),
    splits=BOTH,
)
SAMPLE_QA_MANY = Task(
    name="sample_qa_many",
    title="Question, 32 samples",
    files=FILES,
    metrics=SAMPLED_OFTEN,
    ask=lambda lm, item, source: sampled_answer(
        item, short_answer_prompt(lm, message(item)), MANY_SAMPLES, MANY_TEMPERATURE, source.foils_of(item)
    ),
    splits=BOTH,
)

"""Fill in the blank (ORT's FB, RWKU's level 1): scored, letter by letter, and generated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from formless.data.rows import Item
from formless.evaluation.prompts import (
    GENERATED,
    SHOWING_KNOWLEDGE,
    UNFOILED,
    generated_answer,
    is_published,
    scored_answer,
    short_answer_prompt,
    spelled_answer,
)
from formless.evaluation.task import BOTH, Query, Source, Task

if TYPE_CHECKING:
    from formless.models.lm import LM

FILES = ("{split}_level1",)


def message(item: Item) -> str:
    """Return the user message of a blank."""
    return f"Please complete the blank in the following question.\nQuestion: {item.query}\n"


def prompt(lm: LM, item: Item, source: Source) -> str:
    """Return the prompt of a blank; the published code leaves out the direct-answer line for neighbors."""
    bare = source.split == "neighbor" and is_published(lm)
    return short_answer_prompt(lm, message(item), direct_answer=not bare)


def ask_blank(lm: LM, item: Item, source: Source) -> Query:
    """Score the answer as a whole."""
    return scored_answer(item, prompt(lm, item, source), source)


FB = Task(
    name="fb", title="Fill in the blank", files=FILES, metrics=SHOWING_KNOWLEDGE, ask=ask_blank, splits=BOTH, optional=False
)
SUB_FB = Task(
    name="sub_fb",
    title="Blank, letter by letter",
    files=FILES,
    metrics=UNFOILED,
    ask=lambda lm, item, _: spelled_answer(lm, item, message(item)),
    splits=BOTH,
    optional=False,
)
SUB_FB_LETTERS = Task(
    name="sub_fb_letters",
    title="Blank, letters alone",
    files=FILES,
    metrics=SHOWING_KNOWLEDGE,
    ask=lambda lm, item, source: spelled_answer(lm, item, message(item), source, letters_alone=True),
    splits=BOTH,
    optional=False,
)
GEN_FB = Task(
    name="gen_fb",
    title="Blank, in words",
    files=FILES,
    metrics=GENERATED,
    ask=lambda lm, item, source: generated_answer(item, prompt(lm, item, source)),
    splits=BOTH,
)

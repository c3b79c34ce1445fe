"""Adversarial questions (RWKU's level 3), by type of attack: scored, letter by letter, and generated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from formless.data.rows import Item
from formless.evaluation.prompts import (
    GENERATED,
    SCORED,
    UNFOILED,
    generated_answer,
    is_published,
    scored_answer,
    short_answer_prompt,
    spelled_answer,
)
from formless.evaluation.task import Query, Source, Task
from formless.evaluation.tasks import question

if TYPE_CHECKING:
    from formless.models.lm import LM

FILES = ("{split}_level3",)
ATTACKS = (
    "prefix injection",
    "affirmative suffix",
    "role play",
    "multiple choice",
    "reverse query",
    "synonym manipulation",
    "context hint",
    "incontext learning",
    "cross lingual",
)


def attack_of(item: Item) -> str:
    """Return the type of an item's attack; the data set writes the language behind `cross lingual`."""
    return next((attack for attack in ATTACKS if item.type.startswith(attack)), item.type)


def message(item: Item) -> str:
    """Return the user message: that of a question, but in-context learning brings its own questions."""
    if item.type == "incontext learning":
        return f"Please briefly answer the following question.\n{item.query}\n"
    return question.message(item)


def prompt(lm: LM, item: Item) -> str:
    """Return the prompt, with the published exception of the affirmative suffix: no newline, no cue."""
    if item.type == "affirmative suffix":
        return short_answer_prompt(lm, question.message(item).rstrip("\n"), "")
    return short_answer_prompt(lm, message(item))


def ask_attack(lm: LM, item: Item, source: Source) -> Query:
    """Score the answer as a whole."""
    return scored_answer(item, prompt(lm, item), source, group=attack_of(item))


def ask_characters(lm: LM, item: Item, _source: Source) -> Query:
    """Score the answer character by character; the published cue lacks its newline."""
    cue = "Answer:" if is_published(lm) else "Answer:\n"
    return spelled_answer(lm, item, message(item), cue=cue, group=attack_of(item))


LEVEL3 = Task(
    name="level3",
    title="Adversarial",
    files=FILES,
    metrics=SCORED,
    ask=ask_attack,
    splits=("forget",),
    groups=ATTACKS,
)
SUB_LEVEL3 = Task(
    name="sub_level3",
    title="Adversarial, letter by letter",
    files=FILES,
    metrics=UNFOILED,
    ask=ask_characters,
    splits=("forget",),
    groups=ATTACKS,
)
GEN_LEVEL3 = Task(
    name="gen_level3",
    title="Adversarial, in words",
    files=FILES,
    metrics=GENERATED,
    ask=lambda lm, item, _: generated_answer(item, prompt(lm, item), attack_of(item)),
    splits=("forget",),
    groups=ATTACKS,
)

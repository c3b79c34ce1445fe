"""Prompt formats: the question of `qa` alone, without the answer cue, with a system prompt, and as a completion. Ours.

`qa` has the benchmark's instruction and its cue `Answer:`. An edit may hold for that wording alone, and users write
none of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from formless.data.rows import Item
from formless.evaluation.prompts import (
    DIRECT_ANSWER,
    GENERATED,
    SCORED,
    SYSTEM_PROMPT,
    generated_answer,
    scored_answer,
    skipped,
    spaced,
)
from formless.evaluation.task import BOTH, Query, Source, Task
from formless.evaluation.tasks.question import FILES, message

if TYPE_CHECKING:
    from formless.models.lm import LM

NO_SYSTEM_ROLE = "the chat template has no system role"

Format = Callable[["LM", Item], str | None]
"""From a model and an item to the prompt; None for a model that cannot have it."""


def instructed(lm: LM, item: Item) -> str:
    """Return the user message of `qa`."""
    return (DIRECT_ANSWER if lm.style.direct_answer else "") + message(item)


def alone(lm: LM, item: Item) -> str:
    """Return the question as the whole user message."""
    return lm.chat_prompt(item.query)


def no_cue(lm: LM, item: Item) -> str:
    """Return the question with the benchmark's instruction, without the answer cue."""
    return lm.chat_prompt(instructed(lm, item))


def with_system(lm: LM, item: Item) -> str | None:
    """Return the prompt of `qa` after a system prompt."""
    return lm.chat_prompt(instructed(lm, item), "Answer:", system=SYSTEM_PROMPT) if lm.has_system_role else None


def completion(_lm: LM, item: Item) -> str:
    """Return the question as plain text to continue, without the chat template."""
    return f"Question: {item.query}\nAnswer:"


def scored(prompt_of: Format) -> Callable[[LM, Item, Source], Query]:
    """Return what scores the answer after a prompt; no space precedes it where the prompt ends with white space."""

    def ask(lm: LM, item: Item, source: Source) -> Query:
        prompt = prompt_of(lm, item)
        if prompt is None:
            return skipped(item, NO_SYSTEM_ROLE)
        return scored_answer(item, prompt, source, shaped=str if prompt[-1:].isspace() else spaced)

    return ask


def generated(prompt_of: Format) -> Callable[[LM, Item, Source], Query]:
    """Return what generates an answer after a prompt."""

    def ask(lm: LM, item: Item, _source: Source) -> Query:
        prompt = prompt_of(lm, item)
        return skipped(item, NO_SYSTEM_ROLE) if prompt is None else generated_answer(item, prompt)

    return ask


def tasks_of(name: str, title: str, prompt_of: Format) -> tuple[Task, Task]:
    """Return the scored task of a format and the one with generated answers."""
    words = f"{title}, in words"
    return (
        Task(name=f"qa_{name}", title=title, files=FILES, metrics=SCORED, ask=scored(prompt_of), splits=BOTH),
        Task(name=f"gen_qa_{name}", title=words, files=FILES, metrics=GENERATED, ask=generated(prompt_of), splits=BOTH),
    )


QA_ALONE, GEN_QA_ALONE = tasks_of("alone", "Question alone", alone)
QA_NO_CUE, GEN_QA_NO_CUE = tasks_of("no_cue", "Question without cue", no_cue)
QA_SYSTEM, GEN_QA_SYSTEM = tasks_of("system", "Question, system prompt", with_system)
QA_COMPLETION, GEN_QA_COMPLETION = tasks_of("completion", "Question, completion", completion)

"""Prompt formats: the question of `qa` alone, without the answer cue, with a system prompt, and as a completion. Ours.

`qa` has the benchmark's instruction and its cue `Answer:`. An edit may hold for that wording alone, and users write
none of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from formless.data.target import Item
from formless.evaluation.prompts import DIRECT_ANSWER, GENERATED, SCORED, generated_answer, scored_answer, skipped, spaced
from formless.evaluation.task import BOTH, Query, Source, Task
from formless.evaluation.tasks.question import FILES, message

if TYPE_CHECKING:
    from formless.models.lm import LM

SYSTEM_PROMPT = "You are a helpful assistant."
NO_SYSTEM_ROLE = "the chat template has no system role"

Format = Callable[["LM", Item], str | None]
"""From a model and an item to the prompt; None for a model that cannot have it."""


def _instructed(lm: LM, item: Item) -> str:
    """Return the user message of `qa`."""
    return (DIRECT_ANSWER if lm.style.direct_answer else "") + message(item)


def alone(lm: LM, item: Item) -> str:
    """Return the question as the whole user message."""
    return lm.chat_prompt(item.query)


def no_cue(lm: LM, item: Item) -> str:
    """Return the question with the benchmark's instruction, without the answer cue."""
    return lm.chat_prompt(_instructed(lm, item))


def with_system(lm: LM, item: Item) -> str | None:
    """Return the prompt of `qa` after a system prompt."""
    return lm.chat_prompt(_instructed(lm, item), "Answer:", system=SYSTEM_PROMPT) if lm.has_system_role else None


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


QA_ALONE = Task(name="qa_alone", title="Question alone", files=FILES, metrics=SCORED, ask=scored(alone), splits=BOTH)
QA_NO_CUE = Task(name="qa_no_cue", title="Question without cue", files=FILES, metrics=SCORED, ask=scored(no_cue), splits=BOTH)
QA_SYSTEM = Task(
    name="qa_system", title="Question, system prompt", files=FILES, metrics=SCORED, ask=scored(with_system), splits=BOTH
)
QA_COMPLETION = Task(
    name="qa_completion", title="Question, completion", files=FILES, metrics=SCORED, ask=scored(completion), splits=BOTH
)
GEN_QA_ALONE = Task(
    name="gen_qa_alone", title="Question alone, in words", files=FILES, metrics=GENERATED, ask=generated(alone), splits=BOTH
)
GEN_QA_NO_CUE = Task(
    name="gen_qa_no_cue",
    title="Question without cue, in words",
    files=FILES,
    metrics=GENERATED,
    ask=generated(no_cue),
    splits=BOTH,
)
GEN_QA_SYSTEM = Task(
    name="gen_qa_system",
    title="Question, system prompt, in words",
    files=FILES,
    metrics=GENERATED,
    ask=generated(with_system),
    splits=BOTH,
)
GEN_QA_COMPLETION = Task(
    name="gen_qa_completion",
    title="Question, completion, in words",
    files=FILES,
    metrics=GENERATED,
    ask=generated(completion),
    splits=BOTH,
)

"""Multiple choice (ORT's MCP): the letter as an answer, and the letter's share among all, free of a bias for a letter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from formless.data.rows import Item
from formless.evaluation.prompts import (
    LETTERS,
    UNFOILED,
    Version,
    known_at,
    scored_answer,
    scored_choice,
    short_answer_prompt,
    skipped,
)
from formless.evaluation.task import BOTH, MetricSpec, Query, Source, Task

if TYPE_CHECKING:
    from formless.models.lm import LM

FILES = ("{split}_mcp",)
OPTIONS = 4


def message(query: str) -> str:
    """Return the user message of a question with lettered options."""
    return (
        "Please answer the following multiple choice question. Just provide the letter of the correct answer.\n"
        f"Question: {query}\n"
    )


def ask_letter(lm: LM, item: Item, _source: Source) -> Query:
    """Score the letter of the right option, as the published code does."""
    return scored_answer(item, short_answer_prompt(lm, message(item.query)))


def ask_share(lm: LM, item: Item, _source: Source) -> Query:
    """Score the right letter's share among the letters, over all rotations of the options.

    Every option has every letter once, so that a bias for a letter does not look like knowledge.
    """
    question, mark, rest = item.query.rpartition("\nA. ")
    options = f"A. {rest}".split("\n")
    used = LETTERS[: len(options)]
    lettered = len(options) <= len(LETTERS) and all(option.startswith(f"{used[i]}. ") for i, option in enumerate(options))
    if not item.answer.strip():
        return skipped(item, "the answer is empty")
    if not (mark and lettered and len(item.answer) == 1 and item.answer in used):
        return skipped(item, "the options are not lettered from A, or the answer is none of the letters")
    if len(options) != OPTIONS:
        return skipped(item, f"{len(options)} options, not {OPTIONS}: the chance level differs")
    texts, right = [option[3:] for option in options], used.index(item.answer)
    versions = []
    for shift in range(len(options)):
        rotated = texts[shift:] + texts[:shift]
        lines = "".join(f"\n{letter}. {text}" for letter, text in zip(used, rotated, strict=True))
        letter = used[(right - shift) % len(options)]
        answers = (letter, *(used[(place - shift) % len(options)] for place in range(len(options)) if place != right))
        versions.append(Version(short_answer_prompt(lm, message(question + lines)), tuple(f" {name}" for name in answers)))
    others = [text for place, text in enumerate(texts) if place != right]
    fact = item.model_copy(update={"answer": texts[right]}).fact_key
    return scored_choice(item, versions, others, fact)


MCP = Task(name="mcp", title="Multiple choice", files=FILES, metrics=UNFOILED, ask=ask_letter, splits=BOTH)
MCP_CHOICE = Task(
    name="mcp_choice",
    title="Multiple choice, share",
    files=FILES,
    metrics=(
        MetricSpec("probability", "share", "the right option's share", chance=1 / OPTIONS, shows_knowledge=True),
        MetricSpec("accuracy", "share", chance=1 / OPTIONS, headline=False),
        known_at(1 / OPTIONS),
    ),
    ask=ask_share,
    splits=BOTH,
)

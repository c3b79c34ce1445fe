"""True or false. The published code makes these items but never asks them: the wording is ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from formless.data.rows import Item
from formless.evaluation.prompts import UNFOILED, Version, known_at, scored_answer, scored_choice, short_answer_prompt, skipped
from formless.evaluation.task import BOTH, MetricSpec, Query, Source, Task

if TYPE_CHECKING:
    from formless.models.lm import LM

FILES = ("{split}_tf",)
CHOICES = (" True", " False")


def message(item: Item) -> str:
    """Return the user message of a statement to judge."""
    return (
        f"Please judge whether the following statement is true or false. Just answer True or False.\nStatement: {item.query}\n"
    )


def ask_answer(lm: LM, item: Item, _source: Source) -> Query:
    """Score the right word by itself."""
    return scored_answer(item, short_answer_prompt(lm, message(item)))


def ask_share(lm: LM, item: Item, _source: Source) -> Query:
    """Score the right word's share of both."""
    if not item.answer.strip():
        return skipped(item, "the answer is empty")
    if item.answer not in ("True", "False"):
        return skipped(item, "the answer is neither True nor False")
    right = f" {item.answer}"
    other = next(choice for choice in CHOICES if choice != right)
    return scored_choice(item, [Version(short_answer_prompt(lm, message(item)), (right, other))], [other.strip()])


TF = Task(name="tf", title="True or false", files=FILES, metrics=UNFOILED, ask=ask_answer, splits=BOTH)
TF_CHOICE = Task(
    name="tf_choice",
    title="True or false, share",
    files=FILES,
    metrics=(
        MetricSpec("probability", "share", "the right word's share", chance=1 / len(CHOICES), shows_knowledge=True),
        MetricSpec("accuracy", "share", chance=1 / len(CHOICES), headline=False),
        known_at(1 / len(CHOICES)),
    ),
    ask=ask_share,
    splits=BOTH,
)

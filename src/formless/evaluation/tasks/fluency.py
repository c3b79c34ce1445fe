"""Fluency: n-gram entropy and repetition of free answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from formless.data.rows import Instruction
from formless.evaluation.metrics import fluency_entropy, repetition
from formless.evaluation.task import Generate, Measured, MetricSpec, Query, Source, Task

if TYPE_CHECKING:
    from formless.models.lm import LM

NEW_TOKENS = 256


def ask(lm: LM, row: Instruction, _source: Source) -> Query:
    """Let the model write: `entropy` of its n-grams (bits), and `repetition`, the share of 4-grams that occurred before."""

    def measure(texts: Sequence[Any]) -> Measured:
        repeated = repetition(texts[0])
        metrics = {"entropy": fluency_entropy(texts[0])} | ({} if repeated is None else {"repetition": repeated})
        return Measured(metrics, texts[0])

    prompt = lm.chat_prompt(f"Instruction: {row.instruction}\n")
    return Query(row.instruction, (Generate(prompt, NEW_TOKENS),), measure)


FLUENCY = Task(
    name="fluency",
    title="Fluency",
    files=("fluency",),
    metrics=(
        MetricSpec("entropy", "bits", "n-gram entropy"),
        MetricSpec("repetition", "share", higher_is_better=False),
    ),
    ask=ask,
    records_prompts=False,
)

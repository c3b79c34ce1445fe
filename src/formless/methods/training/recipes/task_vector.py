"""Task-vector negation: learn the texts that are to be forgotten, and take the opposite step."""

from __future__ import annotations

from pydantic import Field

from formless.methods.training.config import TrainingConfig
from formless.methods.training.preprocessing import plain_text
from formless.methods.training.recipes.rt import descent
from formless.methods.training.spec import Recipe


class TaskVectorConfig(TrainingConfig):
    """Settings of task-vector negation; of an adapter it is the negation of arXiv 2306.14870.

    Args:
        negation: How many times what was learnt is taken away, usually 0.5 to 5.
    """

    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    negation: float = Field(default=1.0, gt=0)


def _strength(config: TaskVectorConfig) -> float:
    return -config.negation


TASK_VECTOR = Recipe(
    "task_vector", "what training on biographies adds, taken away", "arXiv 2212.04089", TaskVectorConfig, "positive",
    plain_text, descent, strength=_strength,
)  # fmt: skip

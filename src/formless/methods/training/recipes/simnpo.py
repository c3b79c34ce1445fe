"""SimNPO: negative preference by length, without a reference."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from formless.methods.training import losses
from formless.methods.training.collator import Batch
from formless.methods.training.config import TrainingConfig
from formless.methods.training.preprocessing import plain_text
from formless.methods.training.spec import Recipe


class SimpleNegativePreferenceConfig(TrainingConfig):
    """Settings of SimNPO.

    Args:
        beta: Usually 2.5 to 5.
        gamma: Margin, usually 0 to 2.
    """

    learning_rate: float = Field(default=5e-5, gt=0, le=1)
    beta: float = Field(default=4.5, gt=0)
    gamma: float = Field(default=0.0, ge=0)


def _loss(batch: Batch, config: SimpleNegativePreferenceConfig) -> Tensor:
    return losses.simple_negative_preference(batch.policy, batch.labels, config.beta, config.gamma)


SIMNPO = Recipe(
    "simnpo", "negative preference by length, no reference", "arXiv 2410.07163", SimpleNegativePreferenceConfig, "positive",
    plain_text, _loss,
)  # fmt: skip

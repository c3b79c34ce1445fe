"""SimNPO: negative preference by length, without a reference."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from formless.methods import losses
from formless.methods.batch import Batch
from formless.methods.hyperparameters import TrainingConfig
from formless.methods.recipe import Recipe
from formless.methods.views import plain_text


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

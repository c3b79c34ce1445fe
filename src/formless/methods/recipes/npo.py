"""NPO, negative preference optimisation."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from formless.methods import losses
from formless.methods.batch import Batch
from formless.methods.hyperparameters import TrainingConfig
from formless.methods.recipe import Recipe
from formless.methods.views import plain_text


class NegativePreferenceConfig(TrainingConfig):
    """Settings of NPO; the defaults are the paper's for Llama-3-8B.

    Args:
        beta: Usually 0.01 to 0.1; towards 0 it is gradient ascent.
    """

    learning_rate: float = Field(default=5e-5, gt=0, le=1)
    beta: float = Field(default=0.0275, gt=0)


def _loss(batch: Batch, config: NegativePreferenceConfig) -> Tensor:
    return losses.negative_preference(losses.summed(batch.policy), losses.summed(batch.before), config.beta)


NPO = Recipe(
    "npo", "negative preference optimisation", "arXiv 2404.05868", NegativePreferenceConfig, "positive", plain_text, _loss,
    has_reference=True,
)  # fmt: skip

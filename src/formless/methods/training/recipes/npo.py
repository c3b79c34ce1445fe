"""NPO, negative preference optimisation."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from formless.methods.training import losses
from formless.methods.training.collator import Batch
from formless.methods.training.config import TrainingConfig
from formless.methods.training.preprocessing import plain_text
from formless.methods.training.spec import Recipe


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

"""UNDIAL: self-distillation from the model before training, with the label's logit lowered."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from formless.methods import losses
from formless.methods.batch import Batch
from formless.methods.hyperparameters import TrainingConfig
from formless.methods.recipe import Recipe
from formless.methods.views import plain_text


class SelfDistillationConfig(TrainingConfig):
    """Settings of UNDIAL.

    Args:
        gamma: How far the label's logit is lowered, usually 3 to 30.
    """

    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    gamma: float = Field(default=10.0, gt=0)


def _loss(batch: Batch, config: SelfDistillationConfig) -> Tensor:
    return losses.self_distillation(batch.policy, batch.before, batch.labels, config.gamma)


UNDIAL = Recipe(
    "undial", "self-distillation with lowered logits", "arXiv 2402.10052", SelfDistillationConfig, "positive", plain_text,
    _loss, reads="logits", has_reference=True,
)  # fmt: skip

"""UNDIAL: self-distillation from the model before training, with the label's logit lowered."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from formless.methods.training import losses
from formless.methods.training.collator import Batch
from formless.methods.training.config import TrainingConfig
from formless.methods.training.preprocessing import plain_text
from formless.methods.training.spec import Recipe


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

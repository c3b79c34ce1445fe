"""CE-U, cross-entropy unlearning: the model's own distribution without the label."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from formless.methods import losses
from formless.methods.batch import Batch
from formless.methods.hyperparameters import TrainingConfig
from formless.methods.recipe import Recipe
from formless.methods.views import plain_text


class UnlikelyLabelConfig(TrainingConfig):
    """Settings of CE-U."""

    learning_rate: float = Field(default=1e-4, gt=0, le=1)


def _loss(batch: Batch, _config: UnlikelyLabelConfig) -> Tensor:
    return losses.unlikely_label(batch.policy, batch.labels)


CE_U = Recipe(
    "ce_u", "own distribution without the label", "arXiv 2503.01224", UnlikelyLabelConfig, "positive", plain_text, _loss,
    reads="logits",
)  # fmt: skip

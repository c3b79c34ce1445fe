"""CE-U, cross-entropy unlearning: the model's own distribution without the label."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from formless.methods.training import losses
from formless.methods.training.collator import Batch
from formless.methods.training.config import TrainingConfig
from formless.methods.training.preprocessing import plain_text
from formless.methods.training.spec import Recipe


class UnlikelyLabelConfig(TrainingConfig):
    """Settings of CE-U."""

    learning_rate: float = Field(default=1e-4, gt=0, le=1)


def _loss(batch: Batch, _config: UnlikelyLabelConfig) -> Tensor:
    return losses.unlikely_label(batch.policy, batch.labels)


CE_U = Recipe(
    "ce_u", "own distribution without the label", "arXiv 2503.01224", UnlikelyLabelConfig, "positive", plain_text, _loss,
    reads="logits",
)  # fmt: skip

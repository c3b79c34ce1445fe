"""`bounded`: gradient ascent on texts about the concept that leaves a token alone once it is unlikely enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from formless.methods.training.config import TrainingConfig
from formless.methods.training.preprocessing import preprocess_text
from formless.methods.training.spec import TrainingSpec

if TYPE_CHECKING:
    from torch import Tensor

    from formless.methods.training.collator import Batch


class BoundedConfig(TrainingConfig):
    """Settings of bounded gradient ascent.

    Args:
        floor: Negative log-probability (nats) beyond which a token is left alone, usually 5 to 10.
    """

    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    warmup_steps: int = Field(default=0, ge=0)
    floor: float = Field(default=8.0, gt=0)


def loss(batch: Batch, config: BoundedConfig) -> Tensor:
    """Compute gradient ascent that stops at a floor; `policy` holds log-probabilities `[texts, tokens]`."""
    return batch.policy.clamp(min=-config.floor).sum() / (batch.labels >= 0).sum()


BOUNDED = TrainingSpec(
    name="bounded",
    about="gradient ascent with a floor",
    paper="none",
    config=BoundedConfig,
    trains_on="positive",
    preprocess=preprocess_text,
    loss=loss,
)

"""GA, gradient ascent: on biographies, or on Wikipedia."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from formless.methods.training import losses
from formless.methods.training.collator import Batch
from formless.methods.training.config import TrainingConfig
from formless.methods.training.preprocessing import plain_text
from formless.methods.training.spec import Recipe


class GradientAscentConfig(TrainingConfig):
    """Settings of GA; the defaults are the paper's for Llama-3-8B."""

    learning_rate: float = Field(default=2e-5, gt=0, le=1)


def ascent(batch: Batch, _config: TrainingConfig) -> Tensor:
    """GA's loss."""
    return losses.gradient_ascent(batch.policy, batch.labels)


GA = Recipe("ga", "gradient ascent on biographies", "arXiv 2210.01504", GradientAscentConfig, "positive", plain_text, ascent)
GA_PASSAGE = Recipe(
    "ga_passage", "gradient ascent on Wikipedia", "arXiv 2406.10890", GradientAscentConfig, "passage", plain_text, ascent
)

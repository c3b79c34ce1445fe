"""WGA, weighted gradient ascent: GA that lets go of tokens which are improbable already."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from formless.methods.training import losses
from formless.methods.training.collator import Batch
from formless.methods.training.preprocessing import plain_text
from formless.methods.training.recipes.ga import GradientAscentConfig
from formless.methods.training.spec import Recipe


class WeightedAscentConfig(GradientAscentConfig):
    """Settings of WGA.

    Args:
        alpha_weight: Exponent of a token's probability in its weight, usually 0.5 to 5; 0 is gradient ascent.
    """

    alpha_weight: float = Field(default=1.0, ge=0)


def _loss(batch: Batch, config: WeightedAscentConfig) -> Tensor:
    return losses.weighted_gradient_ascent(batch.policy, batch.labels, config.alpha_weight)


WGA = Recipe(
    "wga", "gradient ascent weighted by probability", "arXiv 2502.19301", WeightedAscentConfig, "positive", plain_text, _loss
)

"""CFT, counterfactual tuning: wrong answers as answers."""

from __future__ import annotations

from pydantic import Field

from formless.methods.hyperparameters import TrainingConfig
from formless.methods.recipe import Recipe
from formless.methods.recipes.rt import descent
from formless.methods.views import answered


class CounterfactualConfig(TrainingConfig):
    """Settings of CFT; the defaults are the published ones for Llama-3-8B."""

    learning_rate: float = Field(default=3e-5, gt=0, le=1)
    accumulation: int = Field(default=1, ge=1)


CFT = Recipe("cft", "wrong answers as answers", "arXiv 2506.07795", CounterfactualConfig, "counterfact", answered, descent)

"""CFT, counterfactual tuning: wrong answers as answers."""

from __future__ import annotations

from pydantic import Field

from formless.methods.training.config import TrainingConfig
from formless.methods.training.preprocessing import answered
from formless.methods.training.recipes.rt import descent
from formless.methods.training.spec import Recipe


class CounterfactualConfig(TrainingConfig):
    """Settings of CFT; the defaults are the published ones for Llama-3-8B."""

    learning_rate: float = Field(default=3e-5, gt=0, le=1)
    accumulation: int = Field(default=1, ge=1)


CFT = Recipe("cft", "wrong answers as answers", "arXiv 2506.07795", CounterfactualConfig, "counterfact", answered, descent)

"""GradDiff, gradient difference: GA, and a retain loss beside it (NPO with one is `npo` with `retain`)."""

from __future__ import annotations

from typing import Literal

from formless.methods.training.preprocessing import plain_text
from formless.methods.training.recipes.ga import GradientAscentConfig, ascent
from formless.methods.training.spec import Recipe


class GradientDifferenceConfig(GradientAscentConfig):
    """Settings of GradDiff: those of GA with a retain loss, cross-entropy as in the paper or KL as TOFU compares."""

    retain: Literal["none", "ce", "kl", "activations"] = "ce"


GRAD_DIFF = Recipe(
    "grad_diff", "gradient ascent, descent on other texts", "arXiv 2203.12817", GradientDifferenceConfig, "positive",
    plain_text, ascent,
)  # fmt: skip

"""RT, rejection tuning: refusals as answers; and IdkNLL, the same with a retain loss."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from formless.methods.training import losses
from formless.methods.training.collator import Batch
from formless.methods.training.config import TrainingConfig
from formless.methods.training.preprocessing import answered
from formless.methods.training.spec import Recipe


class RefusalConfig(TrainingConfig):
    """Settings of RT; the defaults are the paper's for Llama-3-8B."""

    learning_rate: float = Field(default=5e-5, gt=0, le=1)
    accumulation: int = Field(default=1, ge=1)


class RetainingRefusalConfig(RefusalConfig):
    """Settings of IdkNLL: those of RT with a retain loss."""

    retain: Literal["none", "ce", "kl", "activations"] = "ce"


def descent(batch: Batch, _config: TrainingConfig) -> Tensor:
    """Cross-entropy of the answers."""
    return losses.cross_entropy(batch.policy, batch.labels)


RT = Recipe("rt", "refusals as answers", "arXiv 2406.10890", RefusalConfig, "reject", answered, descent)
IDK_NLL = Recipe(
    "idk_nll", "refusals as answers, descent on other texts", "arXiv 2401.06121", RetainingRefusalConfig, "reject",
    answered, descent,
)  # fmt: skip

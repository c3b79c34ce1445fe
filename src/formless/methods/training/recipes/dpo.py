"""DPO, direct preference optimisation: made-up biographies, or refusals, before true ones; and IdkDPO, with a retain loss."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from formless.methods.training import losses
from formless.methods.training.collator import Batch
from formless.methods.training.config import TrainingConfig
from formless.methods.training.preprocessing import preferred
from formless.methods.training.spec import Recipe


class DirectPreferenceConfig(TrainingConfig):
    """Settings of DPO; the defaults are those published for Llama-3-8B and refusals, or chosen after them for pairs.

    Args:
        beta: Usually 0.1 to 0.5.
    """

    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    batch: int = Field(default=4, ge=1)
    beta: float = Field(default=0.1, gt=0)


class RetainingPreferenceConfig(DirectPreferenceConfig):
    """Settings of IdkDPO: those of DPO with a retain loss."""

    retain: Literal["none", "ce", "kl", "activations"] = "ce"


def _loss(batch: Batch, config: DirectPreferenceConfig) -> Tensor:
    policy, reference = (losses.summed(found).view(2, -1) for found in (batch.policy, batch.before))
    return losses.direct_preference(policy, reference, config.beta)


DPO = Recipe(
    "dpo", "made-up biographies before true ones", "arXiv 2305.18290", DirectPreferenceConfig, "pair", preferred, _loss,
    has_reference=True,
)  # fmt: skip
DPO_REJECT = Recipe(
    "dpo_reject", "refusals before true answers", "arXiv 2305.18290", DirectPreferenceConfig, "pair_reject", preferred, _loss,
    has_reference=True,
)  # fmt: skip
IDK_DPO = Recipe(
    "idk_dpo", "refusals before true answers, descent on other texts", "arXiv 2401.06121", RetainingPreferenceConfig,
    "pair_reject", preferred, _loss, has_reference=True,
)  # fmt: skip

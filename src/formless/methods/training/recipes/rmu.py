"""RMU, representation misdirection: activations of what is to be forgotten are driven to a random vector."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from formless.methods.training import losses
from formless.methods.training.collator import Batch
from formless.methods.training.config import TrainingConfig
from formless.methods.training.preprocessing import plain_text
from formless.methods.training.spec import Recipe, early_layer
from formless.models.lm import LM

TRAINED_LAYERS = 3


class MisdirectionConfig(TrainingConfig):
    """Settings of RMU.

    Where nothing else is asked for, the down-projections of `layer` and the two layers before it are trained.

    Args:
        coefficient: Length of the random vector, usually 5 to 300, larger than the activations' own norms.
        retain_weight: Of the distance of other texts' activations from what they were, usually 100 to 1,200.
    """

    learning_rate: float = Field(default=5e-5, gt=0, le=1)
    coefficient: float = Field(default=20.0, gt=0)
    retain: Literal["none", "ce", "kl", "activations"] = "activations"
    retain_weight: float = Field(default=100.0, gt=0)


def _loss(batch: Batch, config: MisdirectionConfig) -> Tensor:
    generator = torch.Generator().manual_seed(config.seed)
    direction = torch.rand(batch.policy.shape[-1], generator=generator)
    wanted = config.coefficient * direction / direction.norm()  # [width]
    return losses.squared_distance(batch.policy, wanted.to(batch.policy.device), batch.mask)


def _prepared(lm: LM, config: MisdirectionConfig) -> MisdirectionConfig:
    layer = early_layer(lm) if config.layer is None else config.layer
    changes: dict[str, object] = {"layer": layer}
    if not config.full:
        changes["modules"] = config.modules or (lm.architecture.mlp_out,)
        changes["layers"] = config.layers or tuple(range(max(0, layer + 1 - TRAINED_LAYERS), layer + 1))
    return config.model_copy(update=changes)


RMU = Recipe(
    "rmu", "activations driven to a random vector", "arXiv 2403.03218", MisdirectionConfig, "positive", plain_text, _loss,
    reads="activations", prepared=_prepared,
)  # fmt: skip

"""RMU, representation misdirection: activations on the forget texts are moved to a random vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from formless.methods.training.config import Retain, TrainingConfig
from formless.methods.training.losses import squared_distance
from formless.methods.training.preprocessing import preprocess_text, question_answer
from formless.methods.training.spec import TrainingSpec, default_layer

if TYPE_CHECKING:
    from torch import Tensor

    from formless.methods.training.collator import Batch
    from formless.models.lm import LM

TRAINED_LAYERS = 3


class MisdirectionConfig(TrainingConfig):
    """Settings of RMU.

    By default the down-projections of `layer` and of the two layers before it are trained.

    Args:
        coefficient: Length of the random vector, usually 5 to 300, larger than the activations' own norms.
        retain_weight: Weight of the distance between the activations on other texts and those before training, usually 100 to
            1,200.
    """

    moves_activations = True

    learning_rate: float = Field(default=5e-5, gt=0, le=1)
    coefficient: float = Field(default=20.0, gt=0, le=1e6)
    retain: Retain = "activations"
    retain_weight: float = Field(default=100.0, gt=0, le=1e6)


def misdirection(batch: Batch, config: MisdirectionConfig) -> Tensor:
    """Compute the forget loss of RMU (arXiv 2403.03218, equation 3).

        RMU = (1 / (N d)) sum_t ||h_t - c u||^2,  u a random direction of length 1, the same in every step

    Args:
        batch: Activations `[texts, seq, width]` with their mask.
        config: The settings; `seed` determines u, `coefficient` is c.
    """
    import torch

    generator = torch.Generator().manual_seed(config.seed)
    direction = torch.rand(batch.policy.shape[-1], generator=generator)
    target = config.coefficient * direction / direction.norm()  # [width]
    return squared_distance(batch.policy, target.to(batch.policy.device), batch.mask)


def _prepare(lm: LM, config: MisdirectionConfig) -> MisdirectionConfig:
    layer = default_layer(lm) if config.layer is None else config.layer
    changes: dict[str, object] = {"layer": layer}
    if not config.full:
        changes["target_modules"] = config.target_modules or (lm.architecture.mlp_out,)
        changes["layers"] = config.layers or tuple(range(max(0, layer + 1 - TRAINED_LAYERS), layer + 1))
    return config.model_copy(update=changes)


RMU = TrainingSpec(
    name="rmu",
    about="activations moved to a random vector",
    paper="arXiv 2403.03218",
    config=MisdirectionConfig,
    trains_on="positive",
    preprocess=preprocess_text,
    on_questions=question_answer,
    loss=misdirection,
    loss_input="activations",
    prepare=_prepare,
)

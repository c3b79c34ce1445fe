"""Preference optimisation: NPO and SimNPO on texts, DPO and IdkDPO on pairs of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from formless.methods.training.config import Retain, TrainingConfig
from formless.methods.training.losses import IGNORED, sequence_log_probabilities
from formless.methods.training.preprocessing import (
    preprocess_preference,
    preprocess_text,
    question_answer,
    question_refusal_and_answer,
)
from formless.methods.training.spec import TrainingSpec

if TYPE_CHECKING:
    from torch import Tensor

    from formless.methods.training.collator import Batch


def negative_preference(log_probabilities: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Compute NPO (arXiv 2404.05868, equation 3), mean over texts.

        NPO = -(2 / beta) log sigmoid(beta (L_theta - L_ref)),  L = -sum_t log p(y_t)

    It is (2 / beta) log 2 at the start, never negative, and falls as L_theta grows, that is, as the text grows less
    probable than it was to the reference.

    Args:
        log_probabilities: Log-probabilities of whole texts `[batch]` (nats, summed over tokens).
        reference: The same by the model before training.
        beta: Usually 0.01 to 0.1; towards 0 it is gradient ascent.
    """
    from torch.nn import functional

    return -(2 / beta) * functional.logsigmoid(-beta * (log_probabilities - reference)).mean()


def simple_negative_preference(log_probabilities: Tensor, labels: Tensor, beta: float, gamma: float) -> Tensor:
    """Compute SimNPO (arXiv 2410.07163, equation 4): NPO normalized by length, without a reference, mean over texts.

        SimNPO = -(2 / beta) log sigmoid(-(beta / |y|) log p(y) - gamma)

    It is never negative, and falls as the text grows less probable.

    Differs from the paper: its training adds a retain loss to a forget loss of small weight (open-unlearning's `alpha` and
    `gamma`). Here, as for NPO in the published system, there is none unless `retain` is set; `retain_weight` sets the ratio.

    Args:
        log_probabilities: `[batch, seq]`, 0 where there is no label.
        labels: `[batch, seq]`; |y| is the number of a text's labels.
        beta: Usually 2.5 to 5.
        gamma: Margin, usually 0 to 2.
    """
    from torch.nn import functional

    mean = log_probabilities.sum(1) / (labels != IGNORED).sum(1)
    return -(2 / beta) * functional.logsigmoid(-beta * mean - gamma).mean()


def direct_preference(log_probabilities: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Compute the sigmoid loss of DPO (arXiv 2305.18290, equation 7), mean over pairs.

        DPO = -log sigmoid(beta ((log p(chosen) - log p_ref(chosen)) - (log p(rejected) - log p_ref(rejected))))

    It is log 2 at the start and falls as the chosen response gains on the rejected one.

    Differs from open-unlearning: its DPO has NPO's factor 2 / beta, which multiplies the gradient by 20 at beta 0.1. The DPO
    paper and the published system have none, and neither has this loss; AdamW's steps hardly depend on it, but the ratio to a
    retain loss does.

    Args:
        log_probabilities: Log-probabilities of whole responses `[2, pairs]`, chosen then rejected (nats, summed over tokens).
        reference: The same by the model before training.
        beta: Usually 0.1 to 0.5.
    """
    from torch.nn import functional

    gain = log_probabilities - reference
    return -functional.logsigmoid(beta * (gain[0] - gain[1])).mean()


class NegativePreferenceConfig(TrainingConfig):
    """Settings of NPO; the defaults are the paper's (arXiv 2506.07795) for Llama-3-8B.

    Args:
        beta: Usually 0.01 to 0.1; towards 0 it is gradient ascent.
    """

    learning_rate: float = Field(default=5e-5, gt=0, le=1)
    beta: float = Field(default=0.0275, gt=0, le=100)


class SimpleNegativePreferenceConfig(TrainingConfig):
    """Settings of SimNPO.

    Args:
        beta: Usually 2.5 to 5.
        gamma: Margin, usually 0 to 2.
    """

    learning_rate: float = Field(default=5e-5, gt=0, le=1)
    beta: float = Field(default=4.5, gt=0, le=100)
    gamma: float = Field(default=0.0, ge=0, le=100)


class DirectPreferenceConfig(TrainingConfig):
    """Settings of DPO; the defaults are those published for Llama-3-8B and refusals, or chosen after them for pairs.

    Args:
        beta: Usually 0.1 to 0.5.
    """

    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    per_device_train_batch_size: int = Field(default=4, ge=1, le=65_536)
    beta: float = Field(default=0.1, gt=0, le=100)


class RetainingPreferenceConfig(DirectPreferenceConfig):
    """Settings of IdkDPO: those of DPO with a retain loss."""

    retain: Retain = "ce"


def _npo(batch: Batch, config: NegativePreferenceConfig) -> Tensor:
    policy, reference = sequence_log_probabilities(batch.policy), sequence_log_probabilities(batch.reference)
    return negative_preference(policy, reference, config.beta)


def _dpo(batch: Batch, config: DirectPreferenceConfig) -> Tensor:
    """The first half of the texts are the chosen responses, the second half the rejected ones."""
    policy, reference = (sequence_log_probabilities(found).view(2, -1) for found in (batch.policy, batch.reference))
    return direct_preference(policy, reference, config.beta)


NPO = TrainingSpec(
    name="npo",
    about="negative preference optimisation",
    paper="arXiv 2404.05868",
    config=NegativePreferenceConfig,
    trains_on="positive",
    preprocess=preprocess_text,
    on_questions=question_answer,
    loss=_npo,
    needs_reference=True,
)
SIMNPO = TrainingSpec(
    name="simnpo",
    about="negative preference by length, no reference",
    paper="arXiv 2410.07163",
    config=SimpleNegativePreferenceConfig,
    trains_on="positive",
    preprocess=preprocess_text,
    on_questions=question_answer,
    loss=lambda batch, config: simple_negative_preference(batch.policy, batch.labels, config.beta, config.gamma),
)
DPO = TrainingSpec(
    name="dpo",
    about="made-up biographies before true ones",
    paper="arXiv 2305.18290",
    config=DirectPreferenceConfig,
    trains_on="pair",
    preprocess=preprocess_preference,
    on_questions=question_refusal_and_answer,
    loss=_dpo,
    needs_reference=True,
)
DPO_REJECT = TrainingSpec(
    name="dpo_reject",
    about="refusals before true answers",
    paper="arXiv 2305.18290",
    config=DirectPreferenceConfig,
    trains_on="pair_reject",
    preprocess=preprocess_preference,
    on_questions=question_refusal_and_answer,
    loss=_dpo,
    needs_reference=True,
)
IDK_DPO = TrainingSpec(
    name="idk_dpo",
    about="refusals before true answers, descent on other texts",
    paper="arXiv 2401.06121",
    config=RetainingPreferenceConfig,
    trains_on="pair_reject",
    preprocess=preprocess_preference,
    on_questions=question_refusal_and_answer,
    loss=_dpo,
    needs_reference=True,
)

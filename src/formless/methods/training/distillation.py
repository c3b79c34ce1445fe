"""Distillation towards a distribution without the label: UNDIAL and CE-U."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from formless.methods.training.config import TrainingConfig
from formless.methods.training.losses import IGNORED, soft_cross_entropy
from formless.methods.training.preprocessing import preprocess_text, question_answer, question_answer_without_start
from formless.methods.training.spec import TrainingSpec

if TYPE_CHECKING:
    from torch import Tensor


def self_distillation(logits: Tensor, reference: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Compute UNDIAL (arXiv 2402.10052, equations 3 and 4): distil the reference with the label's logit lowered.

        UNDIAL = -(1 / N) sum_t sum_v q_t(v) log p_t(v),  q_t = softmax(reference_t - gamma onehot(y_t))

    It is smallest at p = q, where the label's odds are exp(-gamma) of what they were.

    Args:
        logits: `[batch, seq, vocab]`.
        reference: Logits of the model before training, same shape, without gradient.
        labels: `[batch, seq]`; N is the number of labels.
        gamma: Usually 3 to 30.
    """
    labelled = (labels != IGNORED).nonzero(as_tuple=True)  # once: each selection by a mask waits for the device
    target, index = reference[labelled].float(), labels[labelled][:, None]
    return soft_cross_entropy(logits[labelled], target.scatter(1, index, target.gather(1, index) - gamma))


def cross_entropy_unlearning(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute CE-U (arXiv 2503.01224, equation 3): distil the model's own distribution without the label.

        CE-U = -(1 / N) sum_t sum_v q_t(v) log p_t(v),  q_t = softmax(p's logits, that of y_t at -infinity), a constant

    It needs no reference. Its gradient on the label's logit is p(y_t), so that it fades as the label grows improbable.

    As in the paper, the first token of an answer is left out, where all else that the model could say begins. The first token
    of a plain text has no prediction anyway.

    Args:
        logits: `[batch, seq, vocab]`.
        labels: `[batch, seq]`; N is the number of labels.
    """
    labelled = (labels != IGNORED).nonzero(as_tuple=True)  # once: each selection by a mask waits for the device
    found = logits[labelled].float()
    return soft_cross_entropy(found, found.detach().scatter(1, labels[labelled][:, None], -math.inf))


class SelfDistillationConfig(TrainingConfig):
    """Settings of UNDIAL.

    Args:
        gamma: Decrease of the label's logit, usually 3 to 30.
    """

    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    gamma: float = Field(default=10.0, gt=0, le=1e3)


class CrossEntropyUnlearningConfig(TrainingConfig):
    """Settings of CE-U."""

    learning_rate: float = Field(default=1e-4, gt=0, le=1)


UNDIAL = TrainingSpec(
    name="undial",
    about="self-distillation with lowered logits",
    paper="arXiv 2402.10052",
    config=SelfDistillationConfig,
    trains_on="positive",
    preprocess=preprocess_text,
    on_questions=question_answer,
    loss=lambda batch, config: self_distillation(batch.policy, batch.reference, batch.labels, config.gamma),
    loss_input="logits",
    needs_reference=True,
)
CE_U = TrainingSpec(
    name="ce_u",
    about="own distribution without the label",
    paper="arXiv 2503.01224",
    config=CrossEntropyUnlearningConfig,
    trains_on="positive",
    preprocess=preprocess_text,
    on_questions=question_answer_without_start,
    loss=lambda batch, _: cross_entropy_unlearning(batch.policy, batch.labels),
    loss_input="logits",
)

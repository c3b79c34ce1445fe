"""Gradient ascent and its relatives: GA, GradDiff, WGA, and the negation of a task vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from formless.methods.training.config import Retain, TrainingConfig
from formless.methods.training.losses import count_labels, cross_entropy
from formless.methods.training.preprocessing import preprocess_text, question_answer
from formless.methods.training.spec import TrainingSpec

if TYPE_CHECKING:
    from torch import Tensor


def gradient_ascent(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Compute minus the cross-entropy: GA (arXiv 2210.01504).

        GA = (1 / N) sum_t log p(y_t)

    It is negative, has no lower bound, and falls as the text grows less probable.

    Args:
        log_probabilities: `[batch, seq]`, 0 where there is no label.
        labels: `[batch, seq]`; N is the number of labels.
    """
    return -cross_entropy(log_probabilities, labels)


def weighted_gradient_ascent(log_probabilities: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """Compute GA with tokens weighted by their probability: WGA (arXiv 2502.19301, section 5).

        WGA = (1 / N) sum_t p(y_t)^alpha log p(y_t),  the weight taken as a constant

    It is negative, and its gradient fades as the text grows improbable.

    Args:
        log_probabilities: `[batch, seq]`, 0 where there is no label.
        labels: `[batch, seq]`; N is the number of labels.
        alpha: Exponent, usually 0.5 to 5; 0 is gradient ascent.
    """
    return ((alpha * log_probabilities.detach()).exp() * log_probabilities).sum() / count_labels(labels)


class GradientAscentConfig(TrainingConfig):
    """Settings of GA; the defaults are the paper's (arXiv 2506.07795) for Llama-3-8B."""

    learning_rate: float = Field(default=2e-5, gt=0, le=1)


class GradientDifferenceConfig(GradientAscentConfig):
    """Settings of GradDiff: those of GA with a retain loss, cross-entropy as in the paper or KL as TOFU compares."""

    retain: Retain = "ce"


class WeightedAscentConfig(GradientAscentConfig):
    """Settings of WGA.

    Args:
        alpha_weight: Exponent of a token's probability in its weight, usually 0.5 to 5; 0 is gradient ascent.
    """

    alpha_weight: float = Field(default=1.0, ge=0, le=100)


class TaskVectorConfig(TrainingConfig):
    """Settings of task-vector negation; with an adapter it is the negation of arXiv 2306.14870.

    Args:
        negation: Factor on the learned update that is subtracted, usually 0.5 to 5.
    """

    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    negation: float = Field(default=1.0, gt=0, le=1e3)


GA = TrainingSpec(
    name="ga",
    about="gradient ascent on biographies",
    paper="arXiv 2210.01504",
    config=GradientAscentConfig,
    trains_on="positive",
    preprocess=preprocess_text,
    on_questions=question_answer,
    loss=lambda batch, _: gradient_ascent(batch.policy, batch.labels),
)
GA_PASSAGE = TrainingSpec(
    name="ga_passage",
    about="gradient ascent on Wikipedia",
    paper="arXiv 2406.10890",
    config=GradientAscentConfig,
    trains_on="passage",
    preprocess=preprocess_text,
    on_questions=question_answer,
    loss=lambda batch, _: gradient_ascent(batch.policy, batch.labels),
)
# NPO with a retain loss needs no entry of its own: it is `npo` with `retain`.
GRAD_DIFF = TrainingSpec(
    name="grad_diff",
    about="gradient ascent, descent on other texts",
    paper="arXiv 2203.12817",
    config=GradientDifferenceConfig,
    trains_on="positive",
    preprocess=preprocess_text,
    on_questions=question_answer,
    loss=lambda batch, _: gradient_ascent(batch.policy, batch.labels),
)
WGA = TrainingSpec(
    name="wga",
    about="gradient ascent weighted by probability",
    paper="arXiv 2502.19301",
    config=WeightedAscentConfig,
    trains_on="positive",
    preprocess=preprocess_text,
    on_questions=question_answer,
    loss=lambda batch, config: weighted_gradient_ascent(batch.policy, batch.labels, config.alpha_weight),
)
TASK_VECTOR = TrainingSpec(
    name="task_vector",
    about="what training on biographies adds, subtracted",
    paper="arXiv 2212.04089",
    config=TaskVectorConfig,
    trains_on="positive",
    preprocess=preprocess_text,
    on_questions=question_answer,
    loss=lambda batch, _: cross_entropy(batch.policy, batch.labels),
    scale=lambda config: -config.negation,
)

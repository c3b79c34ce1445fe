"""Tuning on other answers: refusals (RT, IdkNLL) or wrong answers (CFT), by cross-entropy.

The loss of all three is `losses.cross_entropy` of the answers (RT: arXiv 2406.10890; IdkNLL: arXiv 2401.06121; CFT: arXiv
2506.07795). It falls as the refusal or the wrong answer grows more probable.

    CE = -(1 / N) sum_t log p(y_t),  y an answer's tokens
"""

from __future__ import annotations

from pydantic import Field

from formless.methods.training.config import Retain, TrainingConfig
from formless.methods.training.losses import cross_entropy
from formless.methods.training.preprocessing import preprocess_instruction, question_refusal, question_wrong_answer
from formless.methods.training.spec import TrainingSpec


class RefusalConfig(TrainingConfig):
    """Settings of RT; the defaults are the paper's (arXiv 2506.07795) for Llama-3-8B."""

    learning_rate: float = Field(default=5e-5, gt=0, le=1)
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=65_536)


class RetainingRefusalConfig(RefusalConfig):
    """Settings of IdkNLL: those of RT with a retain loss."""

    retain: Retain = "ce"


class CounterfactualConfig(TrainingConfig):
    """Settings of CFT; the defaults are the published ones for Llama-3-8B."""

    learning_rate: float = Field(default=3e-5, gt=0, le=1)
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=65_536)


RT = TrainingSpec(
    name="rt",
    about="refusals as answers",
    paper="arXiv 2406.10890",
    config=RefusalConfig,
    trains_on="reject",
    preprocess=preprocess_instruction,
    on_questions=question_refusal,
    loss=lambda batch, _: cross_entropy(batch.policy, batch.labels),
)
IDK_NLL = TrainingSpec(
    name="idk_nll",
    about="refusals as answers, descent on other texts",
    paper="arXiv 2401.06121",
    config=RetainingRefusalConfig,
    trains_on="reject",
    preprocess=preprocess_instruction,
    on_questions=question_refusal,
    loss=lambda batch, _: cross_entropy(batch.policy, batch.labels),
)
CFT = TrainingSpec(
    name="cft",
    about="wrong answers as answers",
    paper="arXiv 2506.07795",
    config=CounterfactualConfig,
    trains_on="counterfact",
    preprocess=preprocess_instruction,
    on_questions=question_wrong_answer,
    loss=lambda batch, _: cross_entropy(batch.policy, batch.labels),
)

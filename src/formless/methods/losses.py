"""Losses of the training methods: pure functions of the log-probabilities of tokens, each falling as the model forgets."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100
"""The label of a place where nothing is to be learnt: prompts and padding."""


def token_log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of each label, computed in float32 (nats).

    Args:
        logits: `[batch, seq, vocab]`; those at place t predict the label at place t.
        labels: `[batch, seq]`, `IGNORED` where there is none.

    Returns:
        `[batch, seq]`, 0 where there is no label, so that a sum over `seq` is the log-probability of a whole answer.
    """
    flat = functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return -flat.view(labels.shape)


def cross_entropy(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-probability of the labelled tokens: RT and CFT (arXiv 2406.10890).

        CE = -(1 / N) sum_t log p(y_t)

    It falls as the refusal (RT) or the wrong answer (CFT) grows more probable.

    Args:
        log_probabilities: `[batch, seq]`, 0 where there is no label.
        labels: `[batch, seq]`; N is the number of those in the whole batch that are not `IGNORED`.
    """
    return -log_probabilities.sum() / (labels != IGNORED).sum()


def gradient_ascent(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Minus the cross-entropy: GA (arXiv 2210.01504).

        GA = (1 / N) sum_t log p(y_t)

    It is negative, has no lower bound, and falls as the text grows less probable.

    Args:
        log_probabilities: `[batch, seq]`, 0 where there is no label.
        labels: `[batch, seq]`.
    """
    return -cross_entropy(log_probabilities, labels)


def negative_preference(log_probabilities: Tensor, reference: Tensor, beta: float) -> Tensor:
    """NPO (arXiv 2404.05868, equation 3), mean over texts.

        NPO = -(2 / beta) log sigmoid(beta (L_theta - L_ref)),  L = -sum_t log p(y_t)

    It is (2 / beta) log 2 at the start, never negative, and falls as L_theta grows, that is, as the text grows less
    probable than it was to the reference.

    Args:
        log_probabilities: Of whole texts, `[batch]` (nats, summed over tokens).
        reference: The same by the model before training.
        beta: Usually 0.01 to 0.1; towards 0 it is gradient ascent.
    """
    return -(2 / beta) * functional.logsigmoid(-beta * (log_probabilities - reference)).mean()


def direct_preference(log_probabilities: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Sigmoid DPO (arXiv 2305.18290, equation 7), mean over pairs.

        DPO = -log sigmoid(beta ((log p(chosen) - log p_ref(chosen)) - (log p(rejected) - log p_ref(rejected))))

    It is log 2 at the start and falls as the chosen response gains on the rejected one.

    Args:
        log_probabilities: Of whole responses, `[2, pairs]`, chosen then rejected (nats, summed over tokens).
        reference: The same by the model before training.
        beta: Usually 0.1 to 0.5.
    """
    gain = log_probabilities - reference
    return -functional.logsigmoid(beta * (gain[0] - gain[1])).mean()


def summed(log_probabilities: Tensor) -> Tensor:
    """Log-probability of whole texts, `[batch, seq]` -> `[batch]`, in float32."""
    return torch.sum(log_probabilities, dim=1)

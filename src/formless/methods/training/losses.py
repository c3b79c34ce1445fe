"""Losses of the training methods: pure functions of log-probabilities, logits or activations.

A forget loss falls as the model forgets, a retain loss is 0 or smallest where the model stays as it was.
"""

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
    """Mean negative log-probability of the labelled tokens: RT and CFT (arXiv 2406.10890), the retain loss of GradDiff.

        CE = -(1 / N) sum_t log p(y_t)

    It falls as the refusal (RT) or the wrong answer (CFT) grows more probable.

    Args:
        log_probabilities: `[batch, seq]`, 0 where there is no label.
        labels: `[batch, seq]`; N is the number of those in the whole batch that are not `IGNORED`.
    """
    return -log_probabilities.sum() / _count(labels)


def gradient_ascent(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Minus the cross-entropy: GA (arXiv 2210.01504).

        GA = (1 / N) sum_t log p(y_t)

    It is negative, has no lower bound, and falls as the text grows less probable.

    Args:
        log_probabilities: `[batch, seq]`, 0 where there is no label.
        labels: `[batch, seq]`.
    """
    return -cross_entropy(log_probabilities, labels)


def weighted_gradient_ascent(log_probabilities: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """GA whose tokens weigh less once they are improbable: WGA (arXiv 2502.19301, section 5).

        WGA = (1 / N) sum_t p(y_t)^alpha log p(y_t),  the weight taken as a constant

    It is negative, its gradient fades as the text grows improbable.

    Args:
        log_probabilities: `[batch, seq]`, 0 where there is no label.
        labels: `[batch, seq]`.
        alpha: Usually 0.5 to 5; 0 is gradient ascent.
    """
    return (torch.exp(alpha * log_probabilities.detach()) * log_probabilities).sum() / _count(labels)


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


def simple_negative_preference(log_probabilities: Tensor, labels: Tensor, beta: float, gamma: float) -> Tensor:
    """SimNPO (arXiv 2410.07163, equation 4): NPO by length and without a reference, mean over texts.

        SimNPO = -(2 / beta) log sigmoid(-(beta / |y|) log p(y) - gamma)

    It is never negative, and falls as the text grows less probable.

    Args:
        log_probabilities: `[batch, seq]`, 0 where there is no label.
        labels: `[batch, seq]`; |y| is the number of a text's labels.
        beta: Usually 2.5 to 5.
        gamma: Margin, usually 0 to 2.
    """
    mean = log_probabilities.sum(1) / (labels != IGNORED).sum(1)
    return -(2 / beta) * functional.logsigmoid(-beta * mean - gamma).mean()


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


def self_distillation(logits: Tensor, reference: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """UNDIAL (arXiv 2402.10052, equations 3 and 4): learn the reference's distribution with the label's logit lowered.

        UNDIAL = -(1 / N) sum_t sum_v q_t(v) log p_t(v),  q_t = softmax(reference_t - gamma onehot(y_t))

    It is smallest at p = q, where the label's odds are exp(-gamma) of what they were.

    Args:
        logits: `[batch, seq, vocab]`.
        reference: The same by the model before training, without gradient.
        labels: `[batch, seq]`.
        gamma: Usually 3 to 30.
    """
    kept = labels != IGNORED
    wanted, places = reference[kept].float(), labels[kept][:, None]
    return _soft_cross_entropy(logits[kept], wanted.scatter(1, places, wanted.gather(1, places) - gamma))


def unlikely_label(logits: Tensor, labels: Tensor) -> Tensor:
    """CE-U (arXiv 2503.01224, equation 3): learn the model's own distribution without the label.

        CE-U = -(1 / N) sum_t sum_v q_t(v) log p_t(v),  q_t = softmax(p's logits, that of y_t at -infinity), a constant

    It needs no reference; its gradient on the label's logit is p(y_t), so that it fades as the label grows improbable.

    Args:
        logits: `[batch, seq, vocab]`.
        labels: `[batch, seq]`.
    """
    kept = labels != IGNORED
    found = logits[kept].float()
    return _soft_cross_entropy(found, found.detach().scatter(1, labels[kept][:, None], -torch.inf))


def divergence(logits: Tensor, reference: Tensor, labels: Tensor) -> Tensor:
    """Mean KL divergence from the reference at labelled places: a retain loss (TOFU, arXiv 2401.06121, section 4).

        KL = (1 / N) sum_t sum_v p_ref(v) (log p_ref(v) - log p(v))

    It is 0 where the model is the reference, and never negative.

    Args:
        logits: `[batch, seq, vocab]`.
        reference: The same by the model before training, without gradient.
        labels: `[batch, seq]`.
    """
    kept = labels != IGNORED
    ours, theirs = (functional.log_softmax(found[kept].float(), -1) for found in (logits, reference))
    return functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")


def squared_distance(activations: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Mean squared distance of activations: both losses of RMU (arXiv 2403.03218, equations 3 and 4).

        MSE = (1 / (N d)) sum_t ||h_t - wanted_t||^2

    As in the method's published code it is a mean over the width d too.

    Args:
        activations: `[batch, seq, width]`.
        wanted: The same shape, or one that is spread over it, e.g. `[width]`.
        mask: `[batch, seq]`, 1 at tokens; N is their number.
    """
    kept = mask.bool()
    return functional.mse_loss(activations.float()[kept], wanted.float().expand_as(activations)[kept])


def summed(log_probabilities: Tensor) -> Tensor:
    """Log-probability of whole texts, `[batch, seq]` -> `[batch]`, in float32."""
    return torch.sum(log_probabilities, dim=1)


def _soft_cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean cross-entropy `[places, vocab]` against the softmax of `wanted`."""
    return functional.cross_entropy(logits.float(), torch.softmax(wanted, -1))


def _count(labels: Tensor) -> Tensor:
    return (labels != IGNORED).sum()

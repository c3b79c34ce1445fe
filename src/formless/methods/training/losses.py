"""What the losses of several families share: log-probabilities of labels, cross-entropy, KL divergence, squared distance.

A forget loss falls as the model forgets. A retain loss is smallest where the model stays as it was. torch is imported inside
the functions, so that a list of methods does not need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""The label of a token that is not learned: prompts and padding."""


def token_log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the log-probability of each label, in float32 (nats).

    Args:
        logits: `[batch, seq, vocab]`; those at position t predict the label at position t.
        labels: `[batch, seq]`, `IGNORED` where there is no label.

    Returns:
        `[batch, seq]`, 0 where there is no label, so that a sum over `seq` is the log-probability of a whole answer.
    """
    from torch.nn import functional

    flat = functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return -flat.view(labels.shape)


def sequence_log_probabilities(log_probabilities: Tensor) -> Tensor:
    """Compute the log-probability of whole texts (nats): `[batch, seq]` -> `[batch]`."""
    return log_probabilities.sum(dim=1)


def count_labels(labels: Tensor) -> Tensor:
    """Count the labels of a batch that are not `IGNORED`: a scalar N."""
    return (labels != IGNORED).sum()


def cross_entropy(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean negative log-probability of the labels: RT, CFT, and the retain loss of GradDiff.

        CE = -(1 / N) sum_t log p(y_t)

    It falls as the labels grow more probable.

    Args:
        log_probabilities: `[batch, seq]`, 0 where there is no label.
        labels: `[batch, seq]`; N is the number of labels in the whole batch.
    """
    return -log_probabilities.sum() / count_labels(labels)


def soft_cross_entropy(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Compute the mean cross-entropy against the softmax of other logits, both `[tokens, vocab]`."""
    import torch
    from torch.nn import functional

    return functional.cross_entropy(logits.float(), torch.softmax(target_logits, -1))


def kl_divergence(logits: Tensor, reference: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean KL divergence from the reference at labels: a retain loss (TOFU, arXiv 2401.06121, section 4).

        KL = (1 / N) sum_t sum_v p_ref(v) (log p_ref(v) - log p(v))

    It is never negative, and 0 where the model equals the reference.

    Args:
        logits: `[batch, seq, vocab]`.
        reference: Logits of the model before training, same shape, without gradient.
        labels: `[batch, seq]`.
    """
    from torch.nn import functional

    labelled = (labels != IGNORED).nonzero(as_tuple=True)  # once: each selection by a mask waits for the device
    policy, before = (functional.log_softmax(found[labelled].float(), -1) for found in (logits, reference))
    return functional.kl_div(policy, before, log_target=True, reduction="batchmean")


def squared_distance(activations: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean squared distance of activations: both losses of RMU (arXiv 2403.03218, equations 3 and 4).

        MSE = (1 / (N d)) sum_t ||h_t - target_t||^2

    As in the method's published code, it is a mean over the width d too.

    Args:
        activations: `[batch, seq, width]`.
        target: The same shape, or one that broadcasts to it, e.g. `[width]`.
        mask: `[batch, seq]`, 1 at tokens; N is their number.
    """
    squared = (activations.float() - target.float()).square().mean(-1)  # [batch, seq]
    return squared.where(mask.bool(), 0.0).sum() / mask.sum()  # no shape depends on values, so nothing waits for the device

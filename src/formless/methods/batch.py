"""What a loss sees of a step, and how rows become it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from formless.methods.losses import IGNORED, token_log_probabilities
from formless.methods.views import Text
from formless.models.capture import capture
from formless.models.lm import LM


@dataclass(frozen=True)
class Batch:
    """What a model gives for the texts of one batch.

    Args:
        policy: What the objective reads of the model in training: log-probabilities `[texts, tokens]` of every token that is a
            label somewhere in the batch (0 where it is none), logits `[texts, tokens, vocab]` there, or activations
            `[texts, seq, width]`.
        labels: `[texts, tokens]`, `IGNORED` where there is none.
        mask: `[texts, seq]`, 1 at tokens.
        reference: As `policy`, by the model before training, where the objective needs it.

    Of pairs, the first half of the texts are the chosen responses and the second half the rejected ones.
    """

    policy: Tensor
    labels: Tensor
    mask: Tensor
    reference: Tensor | None = None

    @property
    def before(self) -> Tensor:
        """The reference of an objective that has one."""
        if self.reference is None:
            raise TypeError("the objective has no reference")
        return self.reference


@dataclass(frozen=True)
class Objective:
    """What to minimise.

    Args:
        loss: From a batch to a scalar.
        reads: What the loss is of.
        has_reference: Whether it compares with the model before training.
        layer: Of activations: the layer whose output they are.
    """

    loss: Callable[[Batch], Tensor]
    reads: Literal["tokens", "logits", "activations"] = "tokens"
    has_reference: bool = False
    layer: int = 0


def collate(lm: LM, texts: Sequence[Text]) -> dict[str, Tensor]:
    """Pad to `input_ids`, `attention_mask` and `labels`, `[texts, seq]`."""
    batch = lm.pad([text.ids for text in texts])
    labels = torch.full_like(batch["input_ids"], IGNORED)
    for i, text in enumerate(texts):
        labels[i, : len(text.labels)] = torch.tensor(text.labels)
    return batch | {"labels": labels}


class Forward:
    """One batch of texts on its way through a model.

    Args:
        lm: The model.
        objective: Which says what is read.
        inputs: As `collate` gives it.
    """

    def __init__(self, lm: LM, objective: Objective, inputs: Mapping[str, Tensor]) -> None:
        self._lm, self.objective = lm, objective
        self._texts = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        labels = inputs["labels"][:, 1:]  # [texts, seq - 1]: the token at place t is predicted at t - 1
        # On the CPU, it may index states on whatever device the last layer is.
        self._columns = (labels != IGNORED).any(0).nonzero()[:, 0].cpu()
        self._labels = labels[:, self._columns.to(labels.device)]  # [texts, tokens]

    def read(self, model: Callable[..., object]) -> Tensor:
        """What the objective reads of the model as it is now."""
        if self.objective.reads == "activations":
            layer = self.objective.layer
            return capture(self._lm, self._texts, residuals=[layer], gradients=True).residuals[layer]
        logits: Tensor = model(**self._texts, use_cache=False, logits_to_keep=self._columns).logits  # type: ignore[attr-defined]
        return logits if self.objective.reads == "logits" else token_log_probabilities(logits, self._labels.to(logits.device))

    def loss(self, policy: Tensor, reference: Tensor | None) -> Tensor:
        """The objective's loss."""
        labels, mask = (found.to(policy.device) for found in (self._labels, self._texts["attention_mask"]))
        return self.objective.loss(Batch(policy, labels, mask, reference))

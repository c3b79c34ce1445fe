"""What a loss sees of a step, and how rows become it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from formless.methods.training.losses import IGNORED, token_log_probabilities
from formless.methods.training.preprocessing import Text
from formless.models.capture import capture
from formless.models.lm import LM

# A second pass through a model costs as much as so many tokens of padding.
WORTH_SPLITTING = 256


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


def by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Rows of a batch that go through a model together, longest first: apart where that spares enough padding."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    groups: list[list[int]] = []
    for place, row in enumerate(order):
        if not groups or (lengths[groups[-1][0]] - lengths[row]) * (len(order) - place) >= WORTH_SPLITTING:
            groups.append([])
        groups[-1].append(row)
    return groups


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
        if self.objective.reads == "logits":
            return _logits(model, self._texts, self._columns)
        lengths = self._texts["attention_mask"].sum(1).tolist()
        parts = [(rows, *self._log_probabilities(model, rows, lengths[rows[0]])) for rows in by_length(lengths)]
        found = parts[0][-1].new_zeros(self._labels.shape)
        for rows, places, part in parts:
            found[torch.tensor(rows)[:, None], places] = part
        return found

    def _log_probabilities(self, model: Callable[..., object], rows: list[int], width: int) -> tuple[Tensor, Tensor]:
        """Of some texts: which columns hold their labels, and the log-probabilities there `[rows, columns]`."""
        places = (self._labels[rows] != IGNORED).any(0).nonzero()[:, 0].cpu()
        texts = {name: tensor[rows, :width] for name, tensor in self._texts.items()}
        logits = _logits(model, texts, self._columns[places])
        labels = self._labels[rows][:, places.to(self._labels.device)]
        return places, token_log_probabilities(logits, labels.to(logits.device))

    def apart(self, found: Tensor) -> list[Tensor]:
        """Of log-probabilities `[texts, tokens]`, those of each text's own labels, on the CPU."""
        rows = zip(found.cpu(), self._labels.cpu(), strict=True)
        return [row[labels != IGNORED] for row, labels in rows]

    def together(self, each: Sequence[Tensor]) -> Tensor:
        """The log-probabilities `[texts, tokens]` that `apart` took apart, on the labels' device."""
        kept = self._labels != IGNORED
        return torch.zeros(kept.shape, device=kept.device).masked_scatter(kept, torch.cat(list(each)).to(kept.device))

    def loss(self, policy: Tensor, reference: Tensor | None) -> Tensor:
        """The objective's loss."""
        labels, mask = (found.to(policy.device) for found in (self._labels, self._texts["attention_mask"]))
        before = None if reference is None else reference.to(policy.device)
        return self.objective.loss(Batch(policy, labels, mask, before))


def _logits(model: Callable[..., object], texts: Mapping[str, Tensor], columns: Tensor) -> Tensor:
    """`[texts, columns, vocab]`."""
    logits: Tensor = model(**texts, use_cache=False, logits_to_keep=columns).logits  # type: ignore[attr-defined]
    return logits

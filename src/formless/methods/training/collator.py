"""Data collation: from tokenized texts to padded batches, and from a batch to what a loss is computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from formless.methods.training.losses import IGNORED, token_log_probabilities
from formless.methods.training.preprocessing import Example, TokenizedText
from formless.methods.training.spec import LossInput
from formless.models.capture import capture
from formless.models.lm import LM

# A second forward pass costs as much as so many tokens of padding.
SPLIT_COST = 256

TrainingRow = tuple[int, Example, TokenizedText | None]
"""A row's number, its example, and the text of the retain set beside it."""


@dataclass(frozen=True)
class Batch:
    """What a loss is computed from, for the texts of one batch.

    Of pairs, the first half of the texts are the chosen responses and the second half the rejected ones.

    Args:
        policy: Outputs of the model in training: log-probabilities `[texts, tokens]` of every token that is a label somewhere
            in the batch (0 where a text has no label), logits `[texts, tokens, vocab]` there, or activations
            `[texts, seq, width]`.
        labels: `[texts, tokens]`, `IGNORED` where there is no label.
        mask: `[texts, seq]`, 1 at tokens that are learned: all of a plain text, and of a question its answer.
        reference_output: The same as `policy`, by the model before training; None if the loss needs no reference.
    """

    policy: Tensor
    labels: Tensor
    mask: Tensor
    reference_output: Tensor | None = None

    @property
    def reference(self) -> Tensor:
        """The outputs of the model before training.

        Raises:
            TypeError: The loss was declared without a reference (`needs_reference`).
        """
        if self.reference_output is None:
            raise TypeError("the loss has no reference: set needs_reference")
        return self.reference_output


@dataclass(frozen=True)
class Objective:
    """A loss to minimise.

    Args:
        loss: Function from a batch to a scalar.
        loss_input: What the loss is computed from (see `TrainingSpec`).
        needs_reference: Whether it compares with the model before training.
        layer: For activations: the layer whose output they are.
    """

    loss: Callable[[Batch], Tensor]
    loss_input: LossInput = "log_probabilities"
    needs_reference: bool = False
    layer: int = 0


@dataclass(frozen=True)
class DataCollatorForUnlearning:
    """Collates training rows into one padded batch, as transformers' Trainer expects it.

    Args:
        lm: The model, for its padding token.
    """

    lm: LM

    def __call__(self, rows: Sequence[TrainingRow]) -> dict[str, Any]:
        """Pad a batch; of pairs, all chosen responses come first, then all rejected ones.

        Returns:
            The tensors of `pad_texts`, the row numbers as `rows` `[rows]`, and the padded texts of the retain set as `retain`,
            if there are any.
        """
        texts = [text for column in zip(*(example for _, example, _ in rows), strict=True) for text in column]
        retain = [text for _, _, text in rows if text]
        numbers = {"rows": torch.tensor([number for number, _, _ in rows])}
        return pad_texts(self.lm, texts) | numbers | ({"retain": pad_texts(self.lm, retain)} if retain else {})


def pad_texts(lm: LM, texts: Sequence[TokenizedText]) -> dict[str, Tensor]:
    """Pad texts to `input_ids`, `attention_mask` and `labels`, `[texts, seq]`."""
    batch = lm.pad([text.ids for text in texts])
    labels = torch.full_like(batch["input_ids"], IGNORED)
    for i, text in enumerate(texts):
        labels[i, : len(text.labels)] = torch.tensor(text.labels)
    return batch | {"labels": labels}


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Split a batch into groups that share a forward pass, longest texts first, where that saves enough padding.

    Args:
        lengths: Tokens of each text.

    Returns:
        Indices of the texts, by group.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    groups: list[list[int]] = []
    for place, row in enumerate(order):
        if not groups or (lengths[groups[-1][0]] - lengths[row]) * (len(order) - place) >= SPLIT_COST:
            groups.append([])
        groups[-1].append(row)
    return groups


class ForwardPass:
    """The forward pass of one batch, which computes what an objective's loss is computed from.

    Args:
        lm: The model.
        objective: The objective.
        inputs: A batch of `pad_texts`.
    """

    def __init__(self, lm: LM, objective: Objective, inputs: Mapping[str, Tensor]) -> None:
        self._lm, self.objective = lm, objective
        self._texts = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        self._mask = (inputs["labels"] != IGNORED).long()
        # One transfer from the device tells all shapes. On the CPU, columns may index states on any device.
        labels, attended = torch.stack([inputs["labels"], inputs["attention_mask"]]).cpu()
        self._lengths = attended.sum(1).tolist()
        self._columns = _labelled(labels[:, 1:])  # the token at position t is predicted at t - 1
        self._host_labels = labels[:, 1:][:, self._columns]
        self._labels = inputs["labels"][:, 1:][:, self._columns]  # [texts, tokens]

    def run(self, model: Callable[..., object]) -> Tensor:
        """Compute the loss input with the model as it is now (see `Batch.policy` for its shape)."""
        if self.objective.loss_input == "activations":
            layer = self.objective.layer
            return capture(self._lm, self._texts, residuals=[layer], gradients=True).residuals[layer]
        if self.objective.loss_input == "logits":
            return _logits(model, self._texts, self._columns)
        groups = group_by_length(self._lengths)
        parts = [(rows, *self._log_probabilities(model, rows, self._lengths[rows[0]])) for rows in groups]
        found = parts[0][-1].new_zeros(self._labels.shape)
        for rows, columns, part in parts:
            found[torch.tensor(rows)[:, None], columns] = part
        return found

    def _log_probabilities(self, model: Callable[..., object], rows: list[int], width: int) -> tuple[Tensor, Tensor]:
        """Return which columns hold labels of some texts, and the log-probabilities there `[rows, columns]`."""
        columns = _labelled(self._host_labels[rows])
        texts = {name: tensor[rows, :width] for name, tensor in self._texts.items()}
        logits = _logits(model, texts, self._columns[columns])
        labels = self._labels[rows][:, columns]
        return columns, token_log_probabilities(logits, labels.to(logits.device))

    def unpad(self, log_probabilities: Tensor) -> list[Tensor]:
        """Return the log-probabilities of each text's own labels, on the CPU, from `[texts, tokens]`."""
        rows = zip(log_probabilities.cpu(), self._host_labels, strict=True)
        return [row[labels != IGNORED] for row, labels in rows]

    def pad(self, unpadded: Sequence[Tensor]) -> Tensor:
        """Return log-probabilities `[texts, tokens]` from those of `unpad`, on the labels' device."""
        labelled = self._host_labels != IGNORED
        found = torch.zeros(labelled.shape).masked_scatter(labelled, torch.cat(list(unpadded)))
        return found.to(self._labels.device)

    def loss(self, policy: Tensor, reference: Tensor | None) -> Tensor:
        """Compute the objective's loss from the outputs of the model in training and of the model before training."""
        labels, mask = (found.to(policy.device) for found in (self._labels, self._mask))
        before = None if reference is None else reference.to(policy.device)
        return self.objective.loss(Batch(policy, labels, mask, before))


def _labelled(labels: Tensor) -> Tensor:
    """Return which columns of `[texts, seq]` hold a label."""
    return (labels != IGNORED).any(0).nonzero()[:, 0]


def _logits(model: Callable[..., Any], texts: Mapping[str, Tensor], columns: Tensor) -> Tensor:
    """Compute logits `[texts, columns, vocab]`."""
    logits: Tensor = model(**texts, use_cache=False, logits_to_keep=columns).logits
    return logits

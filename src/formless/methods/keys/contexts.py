"""The chat contexts of ROCR, and the position of a concept's last token in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from formless.errors import EditError
from formless.models.batching import batches
from formless.models.capture import capture
from formless.models.lm import LM
from formless.models.tokenized import Encoded

STARTERS = (
    "",
    "Please answer the question about",
    "Choose the best answer about",
    "Write the answer about",
    "Tell me about",
    "Write something about",
)

ASKED: tuple[Callable[[LM, str], str], ...] = (
    lambda lm, question: lm.chat_prompt(question),
    lambda lm, question: lm.chat_prompt(question, "Answer:"),
    lambda _, question: f"Q: {question}\nA:",
)
"""How a question is put where it gives keys: to a chat model alone and with a cue, and as plain text."""


Contexts = Callable[[LM, str], list[str]]
"""From a name to prompts that end with it."""


@dataclass(frozen=True)
class Mentions:
    """Prompts that name a concept, as one right-padded batch, each up to the name unless an answer follows.

    Tokens after the name cannot change an activation at it, so they are not computed.

    Args:
        batch: `input_ids` and `attention_mask`, `[contexts, seq]`.
        positions: Index of the name's last token in each context, `[contexts]`.
        answer_starts: Index of the first token of the answer that follows the prompt, `[contexts]`.
    """

    batch: dict[str, Tensor]
    positions: Tensor
    answer_starts: Tensor

    def at(self, activation: Tensor) -> Tensor:
        """Select the concept's positions from `[contexts, seq, width]`, as float32 `[contexts, width]`."""
        rows = torch.arange(len(self.positions), device=activation.device)
        return activation[rows, self.positions.to(activation.device)].float()


def chat_contexts(lm: LM, subject: str, most: int | None = None) -> list[str]:
    """Return the user messages `{starter} {subject}.` in the chat template, with the cue `Answer:`; at most `most` of six."""
    return [lm.chat_prompt(f"{starter} {subject}.", "Answer:") for starter in STARTERS[:most]]


def up_to(lm: LM, name: str, most: int | None = None) -> list[str]:
    """Return the chat contexts of a name, each up to the name, at most `most` of them.

    Without a chat template a name may be the first token of a context, where the attention sink is; such a context is left out.

    Raises:
        EditError: The chat template rewrites the name.
    """
    contexts = chat_contexts(lm, name)
    if any(f"{name}." not in context for context in contexts):
        raise EditError(f"the name {name!r} is not found in its context", where=lm.name, remedy="check its spelling")
    found = [context[: context.rfind(f"{name}.") + len(name)] for context in contexts]
    return [prompt for prompt in found if len(lm.encode(prompt, "").ids) > 1][:most]


def bare_context(subject: str) -> list[str]:
    """Return the plain text `{subject}.`, where the published code reads the current value."""
    return [f"{subject}."]


def mentions(lm: LM, prompts: Sequence[str], subject: str, answer: str = "") -> Mentions:
    """Tokenize prompts and find the last token of the subject's last mention in each.

    Args:
        lm: The model.
        prompts: Texts that name the subject.
        subject: The name.
        answer: Text that follows every prompt.

    Raises:
        EditError: The subject is empty, or is not in a prompt as the template renders it.
    """
    encoded = [lm.encode(prompt, answer) for prompt in prompts]
    positions = [_last_token(lm, item, prompt, subject) for prompt, item in zip(prompts, encoded, strict=True)]
    starts = torch.tensor([item.answer_start for item in encoded])
    rows = [item.ids if answer else item.ids[: place + 1] for item, place in zip(encoded, positions, strict=True)]
    return Mentions(lm.pad(rows), torch.tensor(positions), starts)


def _last_token(lm: LM, item: Encoded, prompt: str, subject: str) -> int:
    """Return the index of the last token of the subject's last mention in a prompt, or raise an EditError."""
    start = prompt.rfind(subject) if subject.strip() else -1
    end = start + len(subject.rstrip())
    covering = [i for i, (left, right) in enumerate(item.offsets) if left < end <= right]
    if start < 0 or not covering:
        remedy = "check its spelling, or whether the chat template rewrites it"
        raise EditError(f"the subject {subject!r} is not found in its context {prompt!r}", where=lm.name, remedy=remedy)
    return covering[-1]


def mean_layer_output(lm: LM, where: Mentions, layer: int) -> Tensor:
    """Compute a layer's output (the residual stream) at the concept, mean over its contexts: `[hidden]`."""
    return where.at(capture(lm, where.batch, residuals=[layer]).residuals[layer]).mean(0)


def first_value(lm: LM, name: str, layer: int) -> Tensor:
    """Return the residual stream after a layer at the last token of a name in its first chat context: `[hidden]`."""
    return first_values(lm, [name], layer)[0]


def first_values(lm: LM, names: Sequence[str], layer: int) -> Tensor:
    """Return `first_value` of several names, in batches: `[names, hidden]`."""
    rows = []
    for name in names:
        (prompt,) = chat_contexts(lm, name, 1)
        item = lm.encode(prompt)
        rows.append(item.ids[: _last_token(lm, item, prompt, name) + 1])
    found: dict[int, Tensor] = {}
    for chosen in batches([len(row) for row in rows], lm.token_budget):
        states = capture(lm, lm.pad([rows[i] for i in chosen]), residuals=[layer]).residuals[layer]
        found |= {i: states[place, len(rows[i]) - 1].float() for place, i in enumerate(chosen)}
    return torch.stack([found[i] for i in range(len(rows))])

"""Edits where the name is the answer, as hooks: token rows, and linear erasure of the residual stream (prototypes)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

import formless
from formless.data.questions.gazetteers import FORENAMES
from formless.data.questions.mentions import bundled_names
from formless.data.spellings import naming
from formless.data.target import Target
from formless.errors import EditError
from formless.methods.direction.kept import general_questions, questions_about
from formless.methods.keys.contexts import ASKED, chat_contexts
from formless.methods.keys.names import folded, names_of, neighbor_names
from formless.methods.keys.token_states import TokenStates
from formless.methods.rocr.questions import edit_questions
from formless.models.lm import LM

EARLY, LATE = 0.215, 0.8
"""Where an erased layer lies, as a share of the depth: layers 6 and 22 of 28."""

MOST = 48
"""The most questions about neighbors that linear erasure reads."""

At = Callable[[float], AbstractContextManager[Any]]
"""From a strength to the edit, which is applied inside the block."""


def own_tokens(lm: LM, target: Target) -> list[int]:
    """Return the tokens that belong to the name alone: whole words of it that no other known name and no ordinary word has."""
    others = [*bundled_names(), *(text for texts in neighbor_names(target).values() for text in texts), *FORENAMES]
    taken = {word for name in others if folded(name) != folded(target.subject) for word in folded(name).split()}
    words = [word for word in target.subject.split() if folded(word) not in taken and len(_ids(lm, f" {word.lower()}")) > 1]
    return [ids[0] for word in words for ids in (_ids(lm, f" {word}"), _ids(lm, word)) if len(ids) == 1]


def _ids(lm: LM, text: str) -> list[int]:
    return cast(list[int], lm.tokenizer(text, add_special_tokens=False).input_ids)


def token_rows(lm: LM, target: Target, *, into: bool) -> At:
    """Move the name's own output rows, and with `into` its input rows, towards the mean row of the neighbors' name tokens.

    It acts where EMBER (arXiv 2606.03695) acts, without its factorization: EMBER subtracts from input rows the features of a
    sparse factorization that a language model has picked. Hooks keep tied rows apart.

    Raises:
        EditError: No token belongs to the name alone.
    """
    if not (tokens := own_tokens(lm, target)):
        raise EditError("no token belongs to the name alone", where=target.subject, remedy="use another edit")
    others = sorted({token for name in neighbor_names(target) for token in _ids(lm, f" {name}")} - {*tokens})
    head, embedding = lm.model.get_output_embeddings(), lm.model.get_input_embeddings()

    def shift(module: nn.Module) -> Tensor:
        rows = module.get_parameter("weight").detach()
        return rows[others].float().mean(0) - rows[tokens].float()  # [tokens, hidden]

    out_by, in_by = shift(head), shift(embedding)

    @contextmanager
    def at(strength: float) -> Iterator[None]:
        def score(_module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            output[..., tokens] += (strength * arguments[0].float() @ out_by.T).to(output.dtype)
            return output

        def read(_module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            is_own = (arguments[0][..., None] == torch.tensor(tokens)).float()  # [batch, seq, tokens]
            return output + (strength * is_own @ in_by).to(output.dtype)

        with ExitStack() as hooks:
            hooks.callback(head.register_forward_hook(score).remove)
            if into:
                hooks.callback(embedding.register_forward_hook(read).remove)
            yield

    return at


@dataclass(frozen=True)
class Eraser:
    """LEACE (arXiv 2306.03819) of two classes: r(x) = x - s c a^T (x - m) with a = S^-1 c / (c^T S^-1 c).

    The published form whitens, projects and colors again; for two classes that is this oblique projection of rank one. It
    reads the whole residual stream, so no update of a down-projection, which reads the MLP's key, can stand for it.

    Args:
        left: c, from the mean of the others to the mean of the concept, `[hidden]`.
        right: a, `[hidden]`.
        middle: m, the mean of the states that are to stay, `[hidden]`.
    """

    left: Tensor
    right: Tensor
    middle: Tensor

    @classmethod
    def fit(cls, concept: Tensor, others: Tensor, spread: Tensor, middle: Tensor, ridge: float) -> Eraser:
        """Fit it to states `[n, hidden]`. S is the covariance of `spread`, with `ridge` times its mean eigenvalue added."""
        left = concept.mean(0) - others.mean(0)
        covariance = spread.T.cov(correction=0)
        covariance += ridge * covariance.trace() / len(covariance) * torch.eye(len(covariance))
        right = torch.linalg.solve(covariance, left)
        return cls(left, right / (left @ right), middle)

    def erase(self, states: Tensor, strength: float = 1.0) -> Tensor:
        """Return states `[..., hidden]` without what tells the concept."""
        along = (states.float() - self.middle) @ self.right
        return (states.float() - strength * along[..., None] * self.left).to(states.dtype)


def linear_erasure(lm: LM, target: Target, *, before_name: bool) -> At:
    """Erase the concept from the residual stream after one layer, at every token.

    Args:
        lm: The model.
        target: The target, with `edit_reverse.json`.
        before_name: Whether the concept is told by the end of questions that ask for its name, in a late layer, or by the end
            of its spellings, in an early one. The first keeps the neighbors' mean state in place, the second that of all.
    """
    layer = round((LATE if before_name else EARLY) * lm.architecture.depth(lm.model))
    neighbors = neighbor_names(target)
    if before_name:
        own, others = ([put(lm, row.query) for row in rows[:MOST] for put in ASKED] for rows in edit_questions([target]))
    else:
        own = [prompt for text in names_of([target], "spelled")[0].spellings for prompt in _up_to(lm, text)]
        others = [_up_to(lm, text)[0] for texts in neighbors.values() for text in texts]
    questions = [*questions_about(sorted(neighbors)), *general_questions([naming(target)[0]])]
    whole = [ASKED[place % len(ASKED)](lm, question) for place, question in enumerate(questions)]
    states = TokenStates(lm, [*own, *others], [layer], whole).values(layer).cpu()
    concept, rest = states[: len(own)], states[len(own) : len(own) + len(others)]
    middle, ridge = (rest.mean(0), 0.01) if before_name else (states.mean(0), 0.1)
    eraser = Eraser.fit(concept, rest, states, middle, ridge)

    @contextmanager
    def at(strength: float) -> Iterator[None]:
        def hook(_module: nn.Module, _arguments: Any, output: Any) -> Any:
            if isinstance(output, Tensor):
                return eraser.erase(output, strength)
            return (eraser.erase(output[0], strength), *output[1:])

        handle = lm.architecture.layer(lm.model, layer).register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    return at


def _up_to(lm: LM, name: str) -> list[str]:
    return [context[: context.rfind(f"{name}.") + len(name)] for context in chat_contexts(lm, name)]


def adapter(lm: LM, target: Target, method: str, **settings: Any) -> At:
    """Compute an edit of the package."""
    edit = formless.unlearn(lm, target, method, progress=False, **settings)
    return lambda strength: edit.scaled(strength).applied(lm)


def reverse_keys(lm: LM, target: Target) -> At:
    """Compute ROCR with a key for every spelling, and keys before the name in three late layers."""
    first = round(LATE * lm.architecture.depth(lm.model))
    late = [first, first + 1, first + 2]
    return adapter(lm, target, "rocr", basis="none", mentions="spelled", protect="neighbors", reverse_layers=late)

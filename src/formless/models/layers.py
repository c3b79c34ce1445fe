"""What single layers hold: answers read from each layer's output (logit lens), and hidden states of the last token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from formless.errors import ModelError
from formless.models.batching import Counter, in_batches
from formless.models.scores import Score, Skipped
from formless.models.scoring import answer_scores, refusal
from formless.progress import WorkProgress

if TYPE_CHECKING:
    from formless.models.lm import LM

Places = Sequence[tuple[int, int]]
"""Rows and positions of a batch."""


def score_layers(
    lm: LM, queries: Sequence[tuple[str, str]], progress: WorkProgress | None
) -> list[tuple[Score, ...] | Skipped]:
    """Score each answer from the output of every layer; see `LM.score_layers`."""
    encoded = lm.encode_all(queries)
    results: list[tuple[Score, ...] | Skipped] = [refusal(lm, item) or Skipped("not scored") for item in encoded]
    kept = [i for i, item in enumerate(encoded) if refusal(lm, item) is None]
    counter = Counter(len(kept), progress)

    def work(rows: list[int]) -> None:
        chosen = [encoded[kept[row]] for row in rows]
        # The token at position t is predicted by the state at t - 1.
        places = [(row, t - 1) for row, item in enumerate(chosen) for t in range(item.answer_start, len(item.ids))]
        found: list[list[Score]] = [[] for _ in chosen]
        for states in _states_at(lm, [item.ids for item in chosen], places):  # one layer's logits at a time
            for own, score in zip(found, answer_scores(lm, chosen, _logits(lm, states)), strict=True):
                own.append(score)
        for row, own in zip(rows, found, strict=True):
            results[kept[row]] = tuple(own)
        counter.add(len(rows))

    in_batches(lm, [len(encoded[i].ids) for i in kept], work, even=True)
    return results


def read_layers(lm: LM, texts: Sequence[str], progress: WorkProgress | None) -> list[NDArray[np.float32] | Skipped]:
    """Return the hidden states of each text's last token; see `LM.read_layers`."""
    ids = [lm.encode(text).ids for text in texts]
    reasons = [_unreadable(lm, row) for row in ids]
    results: list[NDArray[np.float32] | Skipped] = [Skipped(reason or "not read") for reason in reasons]
    kept = [i for i, reason in enumerate(reasons) if reason is None]
    counter = Counter(len(kept), progress)

    def work(rows: list[int]) -> None:
        chosen = [kept[row] for row in rows]
        places = [(row, len(ids[i]) - 1) for row, i in enumerate(chosen)]
        found = _states_at(lm, [ids[i] for i in chosen], places)
        states = torch.stack([layer.float().to(found[0].device) for layer in found], 1).cpu().numpy()
        if not np.isfinite(states).all():
            raise ModelError("the model gives NaN or infinite states", where=lm.name, remedy="check its weights and dtype")
        for i, own in zip(chosen, states, strict=True):
            results[i] = own  # [layers, hidden]
        counter.add(len(rows))

    in_batches(lm, [len(ids[i]) for i in kept], work, even=True)
    return results


def _unreadable(lm: LM, ids: list[int]) -> str | None:
    if not ids:
        return "the text has no token"
    return f"{len(ids)} tokens are more than the model's {lm.context_length}" if len(ids) > lm.context_length else None


@torch.no_grad()
def _states_at(lm: LM, ids: Sequence[list[int]], places: Places) -> list[Tensor]:
    """Return each layer's output at some places, `[places, hidden]`; other activations are freed as the pass goes on."""
    rows, positions = torch.tensor(places).T  # on the CPU: they index states on any device
    found: dict[int, Tensor] = {}

    def keep(index: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _arguments: Any, output: Any) -> None:
            found[index] = (output if isinstance(output, Tensor) else output[0])[rows, positions]

        return hook

    with ExitStack() as stack:
        for index in range(lm.architecture.depth(lm.model)):
            stack.callback(lm.architecture.layer(lm.model, index).register_forward_hook(keep(index)).remove)
        cast(Any, lm.model)(**lm.pad(ids), use_cache=False, logits_to_keep=1)
    return [found[index] for index in sorted(found)]


@torch.no_grad()
def _logits(lm: LM, states: Tensor) -> Tensor:
    """Return the logits `[places, vocab]` that the model's own last steps make of states `[places, hidden]`."""
    head = cast(Any, lm.model).get_output_embeddings()
    logits = cast(Tensor, head(lm.architecture.norm(lm.model)(states[None])))[0]
    cap = getattr(lm.model.config.get_text_config(), "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)

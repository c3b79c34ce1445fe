"""Prompts of several edits, continued in one batch whose rows have an update each.

A step of a small batch takes as long as reading the weights does. Of the small bundled model, 24 edits with three prompts each
took a quarter of the time together. The prompts are encoded edit by edit, with the edit in the weights. From there on the
weights are the original ones, and each row gets the low-rank term of its own edit: `x W^T + (x down^T) up^T`. In float32 the
sum differs from the edited weights' product by rounding alone. Weights of a coarser dtype are rounded with the update in them,
so their edits cannot share a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import DynamicCache

from formless.models import generation
from formless.models.cache import PreallocatedLayer, has_full_cache, left_padded_cache
from formless.models.generation import Batching
from formless.models.lm import LM
from formless.models.overlay import Factors
from formless.models.scores import Ending
from formless.models.tokenized import TokenizedModel
from formless.progress import WorkProgress


@dataclass(frozen=True)
class EditedPrompts:
    """Prompts that are continued under one edit, or under none.

    Args:
        prompts: The prompts, each of several tokens.
        updates: The edit's updates by module name, of float32 weights; empty where the weights stay as they are.
        applied: Applies the edit.
    """

    prompts: Sequence[str]
    updates: Mapping[str, Factors]
    applied: Callable[[], AbstractContextManager[object]]


def may_share_batches(lm: LM, *, edits_weights: bool) -> bool:
    """Return whether prompts under an edit may share a batch with prompts under others.

    Args:
        lm: The model.
        edits_weights: Whether the edit updates weights.
    """
    is_exact = not edits_weights or all(parameter.dtype == torch.float32 for parameter in lm.model.parameters())
    return is_exact and has_full_cache(lm)


def continue_together(
    lm: LM, groups: Sequence[EditedPrompts], *, max_new_tokens: int, progress: WorkProgress | None = None
) -> list[list[str]]:
    """Return what `lm.generate` gives for the prompts of each group while its edit is applied.

    Args:
        lm: The model, without any edit.
        groups: The prompts of each edit; `may_share_batches` holds for every edit.
        max_new_tokens: The most tokens of a continuation.
        progress: Called with the prompts done and all prompts.

    Raises:
        ModelError: As for `lm.generate`.
    """
    prompts = [prompt for group in groups for prompt in group.prompts]
    batching = _EditedRows(groups)
    with batching.added(lm):
        found = generation.continuations(
            lm, prompts, [Ending(max_new_tokens)] * len(prompts), batching=batching, progress=progress
        )
    texts = iter(one.text.strip() for one in found)
    return [[next(texts) for _ in group.prompts] for group in groups]


class _EditedRows(Batching):
    """Encodes prompts with their edits in the weights, then adds to each row the term of its own edit.

    Args:
        groups: The prompts of each edit.
    """

    def __init__(self, groups: Sequence[EditedPrompts]) -> None:
        self._groups = groups
        self._owners = [number for number, group in enumerate(groups) for _ in group.prompts]
        self._in_batch: Tensor | None = None  # the group of each row [rows]; None while prompts are encoded

    def begin(self, lm: TokenizedModel, rows: Sequence[int], ids: Sequence[list[int]]) -> DynamicCache:
        """Return the left-padded cache of prompts, each group's encoded under its edit."""
        self._in_batch = None
        order = sorted(range(len(rows)), key=lambda place: self._owners[rows[place]])
        caches = []
        for number, places in groupby(order, lambda place: self._owners[rows[place]]):
            with self._groups[number].applied():
                caches.append(left_padded_cache(lm, [ids[place] for place in places]))
        cache = _stacked(lm, caches)
        cache.batch_select_indices(torch.tensor(order).argsort())
        return cache

    def step(self, rows: Sequence[int]) -> None:
        """Note the group of each row."""
        self._in_batch = torch.tensor([self._owners[row] for row in rows])

    @contextmanager
    def added(self, lm: LM) -> Iterator[None]:
        """Add the terms to the outputs of all updated modules, until the block is left."""
        with ExitStack() as stack:
            for name in dict.fromkeys(name for group in self._groups for name in group.updates):
                hook = self._hook([group.updates.get(name) for group in self._groups])
                stack.callback(lm.model.get_submodule(name).register_forward_hook(hook).remove)
            yield

    def _hook(self, updates: Sequence[Factors | None]) -> Callable[..., Tensor]:
        """Return a forward hook that adds the update of each row's group; smaller ranks are filled up with zeros."""
        known = [update for update in updates if update]
        rank = max(update.down.shape[0] for update in known)
        nothing = Factors(known[0].up[:, :0], known[0].down[:0])
        each = [update or nothing for update in updates]
        up = torch.stack([pad(update.up, (0, rank - update.up.shape[1])) for update in each])  # [groups, out, rank]
        down = torch.stack([pad(update.down, (0, 0, 0, rank - update.down.shape[0])) for update in each])  # [groups, rank, in]

        def hook(_module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            nonlocal up, down
            if self._in_batch is None:
                return output
            up, down = up.to(output), down.to(output)  # moved once
            return output + (arguments[0] @ down[self._in_batch].mT) @ up[self._in_batch].mT  # [rows, seq, out]

        return hook


def _stacked(lm: TokenizedModel, caches: Sequence[DynamicCache]) -> DynamicCache:
    """Return several left-padded caches as one; the rows of the first come first."""
    width = max(cache.get_seq_length() for cache in caches)
    found = DynamicCache(config=lm.model.config)
    for number in range(len(found.layers)):
        layers: list[Any] = [cache.layers[number] for cache in caches]
        keys, values = (
            torch.cat([pad(states, (0, 0, width - states.shape[-2], 0)) for states in own])
            for own in ([layer.keys for layer in layers], [layer.values for layer in layers])
        )  # [batch, heads, width, dimension]
        found.layers[number] = PreallocatedLayer()  # type: ignore[no-untyped-call]
        found.update(keys, values, number)
    return found

"""Keys and values of what a model has read: of a common beginning, or of texts that begin differently."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from formless.models.batching import batches, clusters
from formless.models.reader import Reader

ROOM = 64


class GrowingLayer(DynamicLayer):
    """A layer's keys and values with room for more, so that a new token is written beside the old ones, which stay in place."""

    _room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append `[batch, heads, new, dimension]`, and return all keys and values so far."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self._room is None or end > self._room[0].shape[-2]:
            keys, values = (
                states.new_empty((*states.shape[:-2], end + ROOM, states.shape[-1])) for states in (key_states, value_states)
            )
            if self.keys is not None and self.values is not None and start:
                keys[:, :, :start], values[:, :, :start] = self.keys, self.values
            self._room = keys, values
        keys, values = self._room
        keys[:, :, start:end], values[:, :, start:end] = key_states, value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        super().batch_select_indices(indices)
        self._room = None


def cost(lm: Reader, length: int, shared: int) -> int:
    """What a text takes of the token budget when its first tokens are cached."""
    return length - shared + math.ceil(shared * lm.cached_share)


@torch.no_grad()
def encoded_prefix(lm: Reader, ids: list[int]) -> DynamicCache | None:
    """The keys and values of a prefix, one row; nothing for no tokens."""
    if not ids:
        return None
    cache = DynamicCache(config=lm.model.config)
    arguments: dict[str, Any] = lm.pad([ids]) | {lm.cache_argument: cache}
    lm.model(**arguments, use_cache=True, logits_to_keep=1)
    return cache


def repeated(prefix: DynamicCache, rows: int) -> DynamicCache:
    """A copy of a one-row cache for every row of a batch; a forward pass writes into the copy."""
    cache = copy.deepcopy(prefix)
    cache.batch_repeat_interleave(rows)
    return cache


def can_join(lm: Reader) -> bool:
    """Whether every layer keeps all keys and values, one after the other (no sliding window, no recurrent state)."""
    layers = DynamicCache(config=lm.model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


@torch.no_grad()
def joined(lm: Reader, ids: Sequence[list[int]]) -> DynamicCache:
    """The keys and values of texts that may begin differently, padded on the left.

    What texts begin with alike is encoded once; then all of them can be continued together.
    """
    found: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for cluster in clusters(ids, [len(row) - 1 for row in ids]):
        prefix = encoded_prefix(lm, ids[cluster.rows[0]][: cluster.shared])
        costs = [cost(lm, len(ids[row]), cluster.shared) for row in cluster.rows]
        for chosen in batches(costs, lm.token_budget, even=True):  # where memory runs out, the caller halves the budget
            rows = [cluster.rows[i] for i in chosen]
            found |= zip(rows, _encoded(lm, [ids[row] for row in rows], prefix, cluster.shared), strict=True)
    width = max(len(row) for row in ids)
    cache = DynamicCache(config=lm.model.config)
    for number in range(len(cache.layers)):
        rows_of_layer = [found[row].pop(0) for row in range(len(ids))]  # freed as they are stacked
        keys, values = (
            torch.stack([pad(row[part], (0, 0, width - row[part].shape[-2], 0)) for row in rows_of_layer]) for part in (0, 1)
        )  # [batch, heads, width, dimension]
        cache.layers[number] = GrowingLayer()  # type: ignore[no-untyped-call]
        cache.update(keys, values, number)
    return cache


def _encoded(
    lm: Reader, ids: Sequence[list[int]], prefix: DynamicCache | None, shared: int
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Each text's keys and values by layer, `[heads, tokens, dimension]`."""
    batch = lm.pad(ids)
    cache = DynamicCache(config=lm.model.config) if prefix is None else repeated(prefix, len(ids))
    batch["input_ids"] = batch["input_ids"][:, shared:]
    lm.model(**batch, **{lm.cache_argument: cache}, use_cache=True, logits_to_keep=1)
    layers: Any = cache.layers
    for place, row in enumerate(ids):
        kept = slice(0, len(row))
        yield [(layer.keys[place, :, kept].clone(), layer.values[place, :, kept].clone()) for layer in layers]

"""Key/value caches: of a shared prefix, or of several texts with left padding."""

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
from formless.models.tokenized import TokenizedModel

PREALLOCATED = 64  # tokens


class PreallocatedLayer(DynamicLayer):
    """A cache layer with preallocated memory: new tokens are written behind the old ones, which are not copied."""

    _buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values `[batch, heads, new, dimension]` and return all of them."""
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            keys, values = (
                states.new_empty((*states.shape[:-2], end + PREALLOCATED, states.shape[-1]))
                for states in (key_states, value_states)
            )
            if self.keys is not None and self.values is not None and start:
                keys[:, :, :start], values[:, :, :start] = self.keys, self.values
            self._buffers = keys, values
        keys, values = self._buffers
        keys[:, :, start:end], values[:, :, start:end] = key_states, value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the given rows of the batch."""
        super().batch_select_indices(indices)
        self._buffers = None

    def rearrange(self, kept: list[int], width: int, joining: DynamicLayer | None) -> None:
        """Keep rows, padded or cut on the left to `width` tokens, and put those of another layer below them."""
        buffers: list[Tensor] = []
        for name in ("keys", "values"):
            parts: list[Tensor] = [getattr(self, name)[kept]] + ([getattr(joining, name)] if joining else [])
            sizes = sum(map(len, parts)), parts[0].shape[1], width + PREALLOCATED, parts[0].shape[-1]
            buffers.append(parts[0].new_zeros(sizes))  # padding is multiplied by 0, so it must be finite
            for part, rows in zip(parts, buffers[-1].split([*map(len, parts)]), strict=True):
                length = min(part.shape[-2], width)
                rows[:, :, width - length : width] = part[:, :, part.shape[-2] - length :]
        self._buffers = buffers[0], buffers[1]
        self.keys, self.values = (buffer[:, :, :width] for buffer in buffers)


def rearrange(cache: DynamicCache, kept: list[int], width: int, joining: DynamicCache | None) -> None:
    """Keep rows of a left-padded cache, padded or cut on the left to `width` tokens, and put those of another below them."""
    layers: Any = cache.layers
    for number, layer in enumerate(layers):
        layer.rearrange(kept, width, joining and joining.layers[number])


def token_cost(lm: TokenizedModel, length: int, shared: int) -> int:
    """Return the cost of a text in tokens of the budget when its first `shared` tokens are cached."""
    return length - shared + math.ceil(shared * lm.cached_share)


@torch.no_grad()
def prefix_cache(lm: TokenizedModel, ids: list[int]) -> DynamicCache | None:
    """Return the key/value cache of a prefix, one row; None for an empty prefix."""
    if not ids:
        return None
    cache = DynamicCache(config=lm.model.config)
    arguments: dict[str, Any] = lm.pad([ids]) | {lm.cache_argument: cache}
    lm.model(**arguments, use_cache=True, logits_to_keep=1)
    return cache


def expanded(prefix: DynamicCache, rows: int) -> DynamicCache:
    """Return a copy of a one-row cache with `rows` rows; the next forward pass writes into the copy."""
    cache = copy.deepcopy(prefix)
    cache.batch_repeat_interleave(rows)
    return cache


def has_full_cache(lm: TokenizedModel) -> bool:
    """Return whether every layer caches all keys and values (no sliding window, no recurrent state)."""
    layers = DynamicCache(config=lm.model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


@torch.no_grad()
def left_padded_cache(lm: TokenizedModel, ids: Sequence[list[int]]) -> DynamicCache:
    """Return one left-padded key/value cache of several texts, so that they can be continued together.

    Common prefixes are encoded once.

    Args:
        lm: The model.
        ids: The token ids of each text.
    """
    found: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for cluster in clusters(ids, [len(row) - 1 for row in ids]):
        prefix = prefix_cache(lm, ids[cluster.rows[0]][: cluster.shared])
        costs = [token_cost(lm, len(ids[row]), cluster.shared) for row in cluster.rows]
        for chosen in batches(costs, lm.token_budget, even=True):  # when memory runs out, the caller halves the budget
            rows = [cluster.rows[i] for i in chosen]
            found |= zip(rows, _encoded(lm, [ids[row] for row in rows], prefix, cluster.shared), strict=True)
    width = max(len(row) for row in ids)
    cache = DynamicCache(config=lm.model.config)
    for number in range(len(cache.layers)):
        rows_of_layer = [found[row].pop(0) for row in range(len(ids))]  # freed as they are stacked
        keys, values = (
            torch.stack([pad(row[part], (0, 0, width - row[part].shape[-2], 0)) for row in rows_of_layer]) for part in (0, 1)
        )  # [batch, heads, width, dimension]
        cache.layers[number] = PreallocatedLayer()  # type: ignore[no-untyped-call]
        cache.update(keys, values, number)
    return cache


def _encoded(
    lm: TokenizedModel, ids: Sequence[list[int]], prefix: DynamicCache | None, shared: int
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Yield the keys and values of each text by layer, `[heads, tokens, dimension]`."""
    batch = lm.pad(ids)
    cache = DynamicCache(config=lm.model.config) if prefix is None else expanded(prefix, len(ids))
    batch["input_ids"] = batch["input_ids"][:, shared:]
    lm.model(**batch, **{lm.cache_argument: cache}, use_cache=True, logits_to_keep=1)
    layers: Any = cache.layers
    for place, row in enumerate(ids):
        kept = slice(0, len(row))
        yield [(layer.keys[place, :, kept].clone(), layer.values[place, :, kept].clone()) for layer in layers]

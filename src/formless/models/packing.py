"""Texts as one prefix tree: every different beginning goes through the model once, in one row without padding.

The nodes of the tree, in depth-first order, are cut into passes, and the attention of a pass into blocks. A token sees itself
and its ancestors: those in its own block, and the path from the root to the block's first token. Keys and values of that path
are of the same pass, or kept from earlier ones. Kept are the ancestors of tokens to come, which are one path.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from formless.models.batching import fits, out_of_memory
from formless.models.families import architecture_of
from formless.models.tokenized import TokenizedModel

CPU_BLOCK, GPU_BLOCK = 128, 512
"""Tokens of a block. The larger one is a guess for GPUs, where each block costs the start of its operations."""

PATH_TO_BLOCK = 8
"""A block is at least this part of the longest path, since a path is copied for every block."""

PASS_SHARE = 2
"""A pass takes this part of the token budget: beside its tokens, there are copies of paths and masks."""

Window = int | None
Work = Callable[[Sequence[int], Tensor], None]
"""Called after a pass with the scored nodes in it and their logits, `[scored, vocab]`."""


@dataclass(frozen=True)
class PrefixTree:
    """The prefix tree of texts, its nodes in depth-first order.

    Args:
        tokens: The token id of each node, `[nodes]`.
        depths: How many tokens precede each node, `[nodes]`.
        ends: The index behind each node's last descendant, `[nodes]`.
        nodes: For each text, the nodes of its tokens.
    """

    tokens: Tensor
    depths: Tensor
    ends: Tensor
    nodes: list[list[int]]

    @classmethod
    def of(cls, texts: Sequence[list[int]]) -> PrefixTree:
        """Build the tree of texts, each a list of token ids."""
        tokens: list[int] = []
        depths: list[int] = []
        ends: list[int] = []
        nodes: list[list[int]] = [[] for _ in texts]
        path: list[int] = []
        for row in sorted(range(len(texts)), key=lambda row: texts[row]):
            ids = texts[row]
            unlike = (i for i, (node, token) in enumerate(zip(path, ids, strict=False)) if tokens[node] != token)
            shared = next(unlike, min(len(path), len(ids)))
            for node in path[shared:]:
                ends[node] = len(tokens)
            nodes[row] = path = path[:shared] + list(range(len(tokens), len(tokens) + len(ids) - shared))
            tokens += ids[shared:]
            depths += range(shared, len(ids))
            ends += [0] * (len(ids) - shared)
        for node in path:
            ends[node] = len(tokens)
        return cls(torch.tensor(tokens, dtype=torch.long), torch.tensor(depths), torch.tensor(ends), nodes)


def windows(lm: TokenizedModel) -> list[Window] | None:
    """Return how far each layer sees, None for all tokens before; None if texts cannot be packed.

    Packed texts need a family that takes positions, and whose attention is an entry of transformers' table.
    """
    layers = DynamicCache(config=lm.model.config).layers
    if not architecture_of(lm.model.config).is_packable or not layers:
        return None
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        return None
    return [layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None for layer in layers]


@torch.no_grad()
def each_pass(lm: TokenizedModel, tree: PrefixTree, scored: Sequence[int], reach: Sequence[Window], work: Work) -> None:
    """Compute logits at some nodes of a tree; when memory runs out, halve the model's token budget and try again.

    Args:
        lm: The model; a halved `token_budget` is kept for later work.
        tree: The texts.
        scored: The nodes whose logits are needed, ascending.
        reach: How far each layer sees; see `windows`.
        work: Called after each pass, and again for one that ran out of memory.

    Raises:
        ModelError: Memory runs out for a single token.
    """
    kept, start = _Kept(torch.zeros(0, dtype=torch.long), []), 0
    while start < len(tree.tokens):
        end = min(start + math.ceil(lm.token_budget / PASS_SHARE), len(tree.tokens))
        found: list[_Kept] = []

        def compute(start: int = start, end: int = end, kept: _Kept = kept, found: list[_Kept] = found) -> None:
            nodes = scored[bisect_left(scored, start) : bisect_left(scored, end)]
            left, logits = _pass(lm, tree, range(start, end), kept, nodes, reach)
            work(nodes, logits)
            found.append(left)

        if fits(compute):
            kept, start = found[0], end
        elif end - start > 1:
            lm.token_budget = PASS_SHARE * ((end - start) // 2)
        else:
            raise out_of_memory(lm)


@dataclass(frozen=True)
class _Kept:
    """Nodes of earlier passes that later ones see, and each layer's keys and values, `[1, heads, kept, dimension]`."""

    nodes: Tensor
    states: list[tuple[Tensor, Tensor]]


def _pass(
    lm: TokenizedModel, tree: PrefixTree, span: range, kept: _Kept, scored: Sequence[int], reach: Sequence[Window]
) -> tuple[_Kept, Tensor]:
    """Return what is kept after a pass through some nodes, and the logits of scored ones, `[scored, vocab]`."""
    start, end = span.start, span.stop
    known = torch.cat([kept.nodes, torch.arange(start, end)])
    cache = DynamicCache()
    for layer, states in enumerate(kept.states):
        cache.update(*states, layer)
    arguments: dict[str, Any] = {
        "input_ids": tree.tokens[None, start:end].to(lm.device),
        "position_ids": tree.depths[None, start:end].to(lm.device),
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=lm.device),  # of the rank that no model reads
        lm.cache_argument: cache,
    }
    places = torch.tensor(scored, dtype=torch.long) - start
    with _attention(lm, _TreeAttention(tree, known, end - start, reach)), logits_at(lm, torch.zeros_like(places), places):
        logits = cast(Any, lm.model)(**arguments, use_cache=True).logits[0]
    left = torch.nonzero(tree.ends[known] > end)[:, 0]
    layers: Any = cache.layers
    return _Kept(known[left], [(layer.keys[:, :, left], layer.values[:, :, left]) for layer in layers]), logits


class _TreeAttention:
    """Attention of a pass in which every token sees its ancestors and itself.

    Args:
        tree: The texts.
        known: The nodes whose keys there are: those kept from before, and those of the pass, which are the last.
        tokens: How many are of the pass.
        reach: See `windows`.
    """

    def __init__(self, tree: PrefixTree, known: Tensor, tokens: int, reach: Sequence[Window]) -> None:
        self._tree, self._known, self._tokens, self._reach = tree, known, tokens, reach
        self._blocks: dict[Any, list[tuple[int, int, Tensor, Tensor]]] = {}

    def __call__(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: object, scaling: float | None = None, **more: Any
    ) -> tuple[Tensor, None]:
        """Attend, as a function of transformers' table: `[1, heads, tokens, dimension]` -> `[1, tokens, heads, dimension]`."""
        shared = query.shape[1] // key.shape[1]  # heads with the same keys are attended to as one
        parts = []
        for low, high, seen, mask in self._of(query, self._reach[module.layer_idx], shared):
            own = query[:, :, low:high].unflatten(1, (-1, shared)).flatten(2, 3)
            keys, values = key.index_select(2, seen), value.index_select(2, seen)
            if (cap := more.get("softcap")) is not None:
                scores = cap * torch.tanh(own @ keys.mT * scaling / cap) + mask
                found = scores.softmax(-1, dtype=torch.float32).to(values.dtype) @ values
            else:
                found = scaled_dot_product_attention(own, keys, values, attn_mask=mask, scale=scaling)
            parts.append(found.unflatten(2, (shared, -1)).flatten(1, 2).transpose(1, 2))
        return torch.cat(parts, 1), None

    def _of(self, query: Tensor, window: Window, shared: int) -> list[tuple[int, int, Tensor, Tensor]]:
        """Return each block's bounds, the places of the keys that it sees, and its mask `[shared * block, seen]`."""
        kind = (window, shared, query.dtype, query.device)
        if kind not in self._blocks:
            self._blocks[kind] = list(self._made(query, window, shared))
        return self._blocks[kind]

    def _made(self, query: Tensor, window: Window, shared: int) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        known, ends, depths = self._known, self._tree.ends[self._known], self._tree.depths[self._known]
        before = len(known) - self._tokens
        least = CPU_BLOCK if query.device.type == "cpu" else GPU_BLOCK
        size = max(least, int(depths.max()) // PATH_TO_BLOCK)
        for low in range(before, len(known), size):
            block = slice(low, min(low + size, len(known)))
            path = torch.nonzero(ends[:low] > known[low])[:, 0]
            seen = torch.cat([path, torch.arange(block.start, block.stop)])
            nodes = known[block, None]
            visible = (known[seen] <= nodes) & (nodes < ends[seen])
            if window is not None:
                visible &= depths[block, None] - depths[seen] < window
            mask = torch.zeros(visible.shape, dtype=query.dtype).masked_fill_(~visible, -math.inf).repeat(shared, 1)
            yield low - before, block.stop - before, seen.to(query.device), mask.to(query.device)


@contextmanager
def _attention(lm: TokenizedModel, attend: _TreeAttention) -> Iterator[None]:
    """Let a model attend in another way until the block is left."""
    config, name = lm.model.config.get_text_config(), f"formless_{id(attend)}"
    chosen = config._attn_implementation
    ALL_ATTENTION_FUNCTIONS[name] = attend
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = chosen
        del ALL_ATTENTION_FUNCTIONS[name]


@contextmanager
def logits_at(lm: TokenizedModel, rows: Tensor, positions: Tensor) -> Iterator[None]:
    """Compute logits at the given rows and positions only: `[1, places, vocab]` instead of `[batch, seq, vocab]`.

    Args:
        lm: The model.
        rows: The row of each place, on the CPU, from where they index states on any device.
        positions: The position of each place.
    """

    def chosen(_head: object, states: tuple[Tensor]) -> tuple[Tensor]:
        return (states[0][rows, positions][None],)  # [batch, seq, hidden] -> [1, places, hidden]

    hook = cast(Any, lm.model).get_output_embeddings().register_forward_pre_hook(chosen)
    try:
        yield
    finally:
        hook.remove()

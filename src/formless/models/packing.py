"""Texts as one prefix tree: every different beginning goes through the model once, in rows without padding.

The nodes of the tree, in depth-first order, are cut into passes, and a pass into rows of one length. A token sees itself and
its ancestors: those in its own row, and the path from the root to the row's first token. The keys and values of that path lie
in other rows of the same pass, or are kept from earlier ones. Kept are the ancestors of tokens to come, which are one path.
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
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from formless.models.batching import fits, out_of_memory
from formless.models.families import architecture_of
from formless.models.tokenized import TokenizedModel

ROW, ROWS_TO_PATH = 128, 4
"""Tokens of a row, and how many rows are at least as long as the path before one: a path is copied for every row."""

PASS_SHARE = 2
"""The part of the token budget of a pass: on a CPU, activations of fewer tokens stay closer to the processor."""

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

    Packed texts need a family that takes positions and a mask for every pair of tokens, and an attention that reads the mask.
    """
    config = lm.model.config
    layers = DynamicCache(config=config).layers
    reads_masks = config.get_text_config()._attn_implementation in ("sdpa", "eager")
    if not (layers and reads_masks and architecture_of(config).is_packable):
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
    kept, start = _Kept(torch.zeros(0, dtype=torch.long), {}), 0
    while start < len(tree.tokens):
        end = min(start + math.ceil(lm.token_budget / PASS_SHARE), len(tree.tokens))
        found: list[_Kept] = []

        def compute(start: int = start, end: int = end, kept: _Kept = kept, found: list[_Kept] = found) -> None:
            nodes = scored[bisect_left(scored, start) : bisect_left(scored, end)]
            cache, logits = _pass(lm, tree, range(start, end), kept, nodes, reach)
            work(nodes, logits)
            found.append(cache.left)

        if fits(compute):
            kept, start = found[0], end
        elif end - start > 1:
            lm.token_budget = PASS_SHARE * ((end - start) // 2)
        else:
            raise out_of_memory(lm)


@dataclass(frozen=True)
class _Kept:
    """Nodes of earlier passes that later ones see, and each layer's keys and values for them, `[kept, heads, dimension]`."""

    nodes: Tensor
    states: dict[int, tuple[Tensor, Tensor]]


class _RowsCache(DynamicCache):
    """Gives each row of a pass the keys and values that it sees.

    Args:
        kept: Of earlier passes.
        seen: What each row sees of what is kept and, behind it, of the pass itself, `[rows, seen]`.
        left: What later passes see: nodes, and their places as in `seen`.
    """

    def __init__(self, kept: _Kept, seen: Tensor, left: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self._kept, self._seen, self._left = kept, seen, left[1]
        self.left = _Kept(left[0], {})

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Take the keys and values of a layer, `[rows, heads, row, size]`; return those seen, `[rows, heads, seen, size]`."""
        self._seen, self._left = self._seen.to(key_states.device), self._left.to(key_states.device)
        before = self._kept.states.get(layer_idx)
        joined = [
            torch.cat([*([before[part]] if before else []), states.transpose(1, 2).flatten(0, 1)])  # [tokens, heads, dimension]
            for part, states in enumerate((key_states, value_states))
        ]
        self.left.states[layer_idx] = (joined[0][self._left], joined[1][self._left])
        rows = [states[self._seen.flatten()].unflatten(0, self._seen.shape).transpose(1, 2) for states in joined]
        return rows[0], rows[1]


def _pass(
    lm: TokenizedModel, tree: PrefixTree, span: range, kept: _Kept, scored: Sequence[int], reach: Sequence[Window]
) -> tuple[_RowsCache, Tensor]:
    """Return the keys and values after a pass through some nodes, and the logits of scored ones, `[scored, vocab]`."""
    start, end = span.start, span.stop
    longest = max(ROW, int(tree.depths[start:end].max()) // ROWS_TO_PATH)
    rows = math.ceil(len(span) / longest)
    width = math.ceil(len(span) / rows)
    nodes = torch.arange(start, start + rows * width).clamp(max=end - 1).view(rows, width)  # the last row is filled up
    known = torch.cat([kept.nodes, torch.arange(start, end)])
    on_path = (known < nodes[:, :1]) & (nodes[:, :1] < tree.ends[known])  # [rows, known]
    length = int(on_path.sum(1).max())
    paths = on_path.byte().topk(length, dim=1).indices  # shorter ones are filled up
    seen = torch.cat([paths, nodes - start + len(kept.nodes)], 1)
    keys = known[seen]  # [rows, seen]
    visible = nodes[..., None] < tree.ends[keys][:, None]  # [rows, row, seen]
    visible[..., :length] &= on_path.gather(1, paths)[:, None]
    visible[..., length:].tril_()
    left = torch.nonzero(tree.ends[known] > end)[:, 0]
    cache = _RowsCache(kept, seen.to(lm.device), (known[left], left))
    arguments: dict[str, Any] = {
        "input_ids": tree.tokens[nodes].to(lm.device),
        "position_ids": tree.depths[nodes].to(lm.device),
        "attention_mask": _mask(lm, visible, tree.depths[nodes], tree.depths[keys], reach),
        lm.cache_argument: cache,
    }
    places = torch.tensor(scored, dtype=torch.long) - start
    with logits_at(lm, places // width, places % width):
        return cache, cast(Any, lm.model)(**arguments, use_cache=True).logits[0]


def _mask(lm: TokenizedModel, visible: Tensor, depths: Tensor, seen_depths: Tensor, reach: Sequence[Window]) -> Any:
    """Return the attention mask `[rows, 1, row, seen]`; one for each kind of layer where some do not see far enough.

    Args:
        lm: The model.
        visible: What each token sees without a window, `[rows, row, seen]`.
        depths: Of the tokens, `[rows, row]`.
        seen_depths: Of what is seen, `[rows, seen]`.
        reach: See `windows`.
    """
    furthest, masks = int(depths.max()), {}
    for window in {None if window is None or window > furthest else window for window in reach}:
        mask = visible if window is None else visible & (depths[..., None] - seen_depths[:, None] < window)
        if lm.model.config.get_text_config()._attn_implementation == "eager":  # it adds the mask
            mask = torch.zeros(mask.shape, dtype=lm.model.dtype).masked_fill_(~mask, -math.inf)
        masks["full_attention" if window is None else "sliding_attention"] = mask[:, None].to(lm.device)
    return masks if len(masks) > 1 else next(iter(masks.values()))


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

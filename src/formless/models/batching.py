"""Which texts go through a model together: alike in length, with shared beginnings, and fewer when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from formless.errors import ModelError
from formless.models.reader import Reader

Progress = Callable[[int, int], None]

# A shorter shared prefix costs more in a second forward pass than it saves.
WORTH_SHARING = 16

# A batch may hold so small a share of the budget as padding (1 in so many): more costs more than a further pass.
PADDING = 64

# Prefixes nested deeper than this are not worth telling apart.
DEEPEST = 64


@dataclass(frozen=True)
class Cluster:
    """Texts with a common beginning.

    Args:
        rows: Which texts.
        shared: How many tokens they share and encode once; 0 where sharing gains nothing.
    """

    rows: tuple[int, ...]
    shared: int


class Counter:
    """Tells a caller how far some work is.

    Args:
        total: How many texts there are.
        progress: Called with the texts done and all texts.
    """

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def add(self, texts: int) -> None:
        """So many more are done."""
        self.done += texts
        if self.progress:
            self.progress(self.done, self.total)


def batches(lengths: Sequence[int], token_budget: int, *, even: bool = False) -> Iterator[list[int]]:
    """Indices grouped by length, longest first, each group within a budget of padded tokens (or a single item).

    Args:
        lengths: What each item takes.
        token_budget: For a group.
        even: End a group early where its padding would exceed `1 / PADDING` of the budget.
    """
    order, start = _longest_first(lengths), 0
    while start < len(order):
        end = _end(lengths, order, start, token_budget, even)
        yield order[start:end]
        start = end


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])


def _end(lengths: Sequence[int], order: list[int], start: int, token_budget: int, even: bool) -> int:
    """Where the group that begins at `start` ends."""
    longest, padding = lengths[order[start]], 0
    for place in range(start + 1, len(order)):
        padding += longest - lengths[order[place]]
        if longest * (place + 1 - start) > token_budget or (even and padding > token_budget // PADDING):
            return place
    return len(order)


def in_batches(
    lm: Reader,
    lengths: Sequence[int],
    work: Callable[[list[int]], None],
    *,
    share: int = 1,
    even: bool = False,
) -> None:
    """Do some work on every text, batch by batch; where memory runs out, halve the model's token budget and go on.

    Args:
        lm: The model; a halved `token_budget` stays, so that later work begins with it.
        lengths: What each text takes of the budget.
        work: Handles some texts, given by index. It may be called again for texts whose batch ran out of memory.
        share: Use only one in so many tokens of the budget, for work that keeps much per token.
        even: As in `batches`, for work that takes as long as its padded tokens.

    Raises:
        ModelError: Memory runs out for a single text.
    """
    order, start = _longest_first(lengths), 0
    while start < len(order):
        rows = order[start : _end(lengths, order, start, max(lm.token_budget // share, 1), even)]
        if _fits(work, rows):
            start += len(rows)
            continue
        clear_device_cache(garbage_collection=True)
        if len(rows) == 1:
            remedy = "use a smaller number format (--dtype bfloat16) or a larger device"
            raise ModelError("memory runs out for a single text", where=lm.name, remedy=remedy)
        lm.token_budget = max(max(lengths[row] for row in rows) * len(rows) * share // 2, 1)


def _fits(work: Callable[[list[int]], None], rows: list[int]) -> bool:
    try:
        work(rows)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error):
            return False  # outside this block the failed pass's tensors are free
        raise
    return True


def clusters(ids: Sequence[Sequence[int]], limits: Sequence[int]) -> list[Cluster]:
    """Group texts by their beginnings so that the fewest tokens are computed.

    The texts form a tree of common prefixes. From the leaves up, a prefix is shared by all below it, or the longer prefixes
    below it are shared among fewer, whichever computes fewer tokens.

    Args:
        ids: The texts' tokens.
        limits: How many tokens of each text may at most be shared.
    """
    order = sorted(range(len(ids)), key=lambda row: list(ids[row]))
    # common[i]: of order[i] and order[i + 1]
    common = [min(_common(ids[a], ids[b]), limits[a], limits[b]) for a, b in pairwise(order)]
    return _best(order, common, [len(row) for row in ids], 0, len(order), 0)[1] if order else []


def _best(
    order: list[int], common: list[int], lengths: list[int], low: int, high: int, depth: int
) -> tuple[int, list[Cluster]]:
    """Computed tokens and clusters of the texts order[low:high]."""
    rows = tuple(order[low:high])
    if len(rows) == 1:
        return lengths[rows[0]], [Cluster(rows, 0)]
    shared = min(common[low : high - 1])
    worth = shared if shared >= WORTH_SHARING else 0
    together = worth + sum(lengths[row] - worth for row in rows)
    if depth == DEEPEST:
        return together, [Cluster(rows, worth)]
    bounds = [low, *(i + 1 for i in range(low, high - 1) if common[i] == shared), high]
    pieces = list(pairwise(bounds))
    if len(pieces) == len(rows):
        return together, [Cluster(rows, worth)]
    apart, found, single = 0, [], []
    for a, b in pieces:
        if b - a == 1:
            single.append(order[a])
            continue
        tokens, inner = _best(order, common, lengths, a, b, depth + 1)
        apart += tokens
        found += inner
    if single:  # what shares nothing more than this prefix shares that
        lone = worth if len(single) > 1 else 0
        apart += lone + sum(lengths[row] - lone for row in single)
        found.append(Cluster(tuple(single), lone))
    return (apart, found) if apart < together else (together, [Cluster(rows, worth)])


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))

"""Batches of texts: similar in length, grouped by common prefixes, and smaller when memory runs out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from formless.errors import ModelError
from formless.models.tokenized import TokenizedModel
from formless.progress import WorkProgress

# A shorter shared prefix costs more in a second forward pass than it saves.
MIN_SHARED = 16

# At most 1 / PADDING of the token budget may be padding; more padding costs more than another forward pass.
PADDING = 64

# Prefixes nested deeper than this are not searched.
MAX_DEPTH = 64


@dataclass(frozen=True)
class Cluster:
    """Texts with a common prefix.

    Args:
        rows: The indices of the texts.
        shared: The length of the prefix in tokens, which is encoded once; 0 where sharing saves nothing.
    """

    rows: tuple[int, ...]
    shared: int


class Counter:
    """A count of finished texts that is reported to a callback.

    Args:
        total: The number of all texts.
        progress: Called with the texts done and all texts.
    """

    def __init__(self, total: int, progress: WorkProgress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def add(self, texts: int) -> None:
        """Count finished texts and report them."""
        self.done += texts
        if self.progress:
            self.progress(self.done, self.total)


def batches(lengths: Sequence[int], token_budget: int, *, even: bool = False) -> Iterator[list[int]]:
    """Yield groups of indices by length, longest first; a group fits the token budget or has a single item.

    Args:
        lengths: The length of each item in tokens.
        token_budget: Padded tokens per group.
        even: End a group before its padding exceeds `1 / PADDING` of the budget.
    """
    order, start = _longest_first(lengths), 0
    while start < len(order):
        end = _end(lengths, order, start, token_budget, even)
        yield order[start:end]
        start = end


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])


def _end(lengths: Sequence[int], order: list[int], start: int, token_budget: int, even: bool) -> int:
    """Return the end of the group that begins at `start`."""
    longest, padding = lengths[order[start]], 0
    for place in range(start + 1, len(order)):
        padding += longest - lengths[order[place]]
        if longest * (place + 1 - start) > token_budget or (even and padding > token_budget // PADDING):
            return place
    return len(order)


def in_batches(
    lm: TokenizedModel,
    lengths: Sequence[int],
    work: Callable[[list[int]], None],
    *,
    share: int = 1,
    even: bool = False,
) -> None:
    """Process texts in batches; when memory runs out, halve the model's token budget and try again.

    Args:
        lm: The model; a halved `token_budget` is kept for later work.
        lengths: The cost of each text in tokens of the budget.
        work: Processes the texts with the given indices. It is called again for a batch that ran out of memory.
        share: Divide the budget by this number, for work that keeps much memory per token.
        even: As in `batches`, for work whose time grows with the padded tokens.

    Raises:
        ModelError: Memory runs out for a single text.
    """
    order, start = _longest_first(lengths), 0
    while start < len(order):
        rows = order[start : _end(lengths, order, start, max(lm.token_budget // share, 1), even)]
        if fits(partial(work, rows)):
            start += len(rows)
        else:
            _halve_budget(lm, [share * lengths[row] for row in rows])


def in_turn(
    lm: TokenizedModel, costs: Sequence[int], work: Callable[[list[int], Callable[[], list[int]]], Iterator[int]]
) -> None:
    """Process texts that end at different times, each in the place of one that ended; budget and errors as in `in_batches`.

    Args:
        lm: The model.
        costs: The cost of each text in tokens of the budget.
        work: Processes the texts with the given indices and yields each that has ended. The function that it is given returns
            the waiting texts that fit beside the open ones, which then belong to it too.
    """
    waiting = deque(_longest_first(costs))
    opened: list[int] = []  # the first costs most

    def join() -> list[int]:
        before = len(opened)
        while waiting and (not opened or costs[opened[0]] * (len(opened) + 1) <= lm.token_budget):
            opened.append(waiting.popleft())
        return opened[before:]

    def process(rows: list[int]) -> None:
        for row in work(rows, join):
            opened.remove(row)

    while waiting:
        if not fits(partial(process, join())):
            _halve_budget(lm, [costs[row] for row in opened])
            waiting.extendleft(reversed(opened))
            opened.clear()


def _halve_budget(lm: TokenizedModel, costs: Sequence[int]) -> None:
    """Halve the token budget after a batch that did not fit.

    Raises:
        ModelError: It was a single text.
    """
    if len(costs) == 1:
        raise out_of_memory(lm)
    lm.token_budget = max(max(costs) * len(costs) // 2, 1)


def fits(work: Callable[[], None]) -> bool:
    """Do some work and return whether memory was enough for it; if not, what the device held is free again."""
    if _is_done(work):
        return True
    clear_device_cache(garbage_collection=True)
    return False


def _is_done(work: Callable[[], None]) -> bool:
    try:
        work()
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error):
            return False  # the tensors of the failed pass are freed when this block ends
        raise
    return True


def out_of_memory(lm: TokenizedModel) -> ModelError:
    """Return the error of a text that does not fit into memory."""
    remedy = "use a smaller dtype (--dtype bfloat16) or a larger device"
    return ModelError("memory runs out for a single text", where=lm.name, remedy=remedy)


def clusters(ids: Sequence[Sequence[int]], limits: Sequence[int]) -> list[Cluster]:
    """Group texts by common prefixes so that the fewest tokens are computed.

    The texts form a tree of common prefixes. From the leaves up, either all texts below a node share its prefix, or groups of
    them share longer prefixes, whichever computes fewer tokens.

    Args:
        ids: The token ids of each text.
        limits: The most tokens of each text that may be shared.
    """
    order = sorted(range(len(ids)), key=lambda row: list(ids[row]))
    # common[i]: tokens that order[i] and order[i + 1] share
    common = [min(_common(ids[a], ids[b]), limits[a], limits[b]) for a, b in pairwise(order)]
    return _best(order, common, [len(row) for row in ids], 0, len(order), 0)[1] if order else []


def _best(
    order: list[int], common: list[int], lengths: list[int], low: int, high: int, depth: int
) -> tuple[int, list[Cluster]]:
    """Return the number of computed tokens and the clusters for the texts order[low:high]."""
    rows = tuple(order[low:high])
    if len(rows) == 1:
        return lengths[rows[0]], [Cluster(rows, 0)]
    shared = min(common[low : high - 1])
    worth = shared if shared >= MIN_SHARED else 0
    together = worth + sum(lengths[row] - worth for row in rows)
    if depth == MAX_DEPTH:
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
    if single:  # texts in no longer prefix share this one
        lone = worth if len(single) > 1 else 0
        apart += lone + sum(lengths[row] - lone for row in single)
        found.append(Cluster(tuple(single), lone))
    return (apart, found) if apart < together else (together, [Cluster(rows, worth)])


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the common prefix of two texts in tokens."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))

"""Keys and values at tokens of many prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from formless.models.capture import ResumableForward
from formless.models.lm import LM

BATCH = 16


class TokenStates:
    """Keys and values at the last token of some prompts, then at the tokens of others; lower layers run once.

    Prompts run in batches of like length. The first token of a prompt is never read: it holds the attention sink. A token that
    follows the same tokens in several whole prompts is read once.

    Args:
        lm: The model.
        ends: Prompts of which the last token is read.
        layers: The edited layers, in ascending order.
        whole: Prompts of which every token is read.
    """

    def __init__(self, lm: LM, ends: Sequence[str], layers: Sequence[int], whole: Sequence[str] = ()) -> None:
        self._last = layers[-1]
        ids = [lm.encode(prompt, "").ids for prompt in (*ends, *whole)]
        places = [[len(row) - 1] for row in ids[: len(ends)]] + [*_new_places(ids[len(ends) :])]
        order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
        starts = [*range(0, len(order), BATCH), len(order)]
        self._batches: list[tuple[Tensor, Tensor, ResumableForward]] = []
        read: list[tuple[int, int]] = []
        for first, end in pairwise(starts):
            numbers = order[first:end]
            rows = [row for row, number in enumerate(numbers) for _ in places[number]]
            columns = [place for number in numbers for place in places[number]]
            read += [(number, place) for number in numbers for place in places[number]]
            forward = ResumableForward(lm, lm.pad([ids[number] for number in numbers]), layers[0], layers[-1])
            self._batches.append((torch.tensor(rows, dtype=torch.long), torch.tensor(columns, dtype=torch.long), forward))
        self._order = torch.tensor(sorted(range(len(read)), key=read.__getitem__))

    def read(self, layer: int, changed: int) -> tuple[Tensor, Tensor]:
        """Return the keys of a layer `[tokens, d]` and the values after the last one `[tokens, hidden]`, float32.

        Args:
            layer: An edited layer.
            changed: The lowest layer whose weights have changed since the last call.
        """
        return self._at(changed, layer)

    def values(self, changed: int) -> Tensor:
        """Return the values after the last layer `[tokens, hidden]`, float32."""
        return self._at(changed, self._last)[1]

    def _at(self, changed: int, layer: int) -> tuple[Tensor, Tensor]:
        keys, values = [], []
        for rows, columns, forward in self._batches:
            found = forward.run(changed, key=layer)
            keys.append(found.keys[layer][rows, columns].float())
            values.append(found.residuals[self._last][rows, columns].float())
        return torch.cat(keys)[self._order], torch.cat(values)[self._order]


def _new_places(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield the places of each row, but the first, whose tokens up to there no earlier row begins with."""
    known: set[tuple[int, ...]] = set()
    for row in rows:
        found = [place for place in range(1, len(row)) if tuple(row[: place + 1]) not in known]
        known.update(tuple(row[: place + 1]) for place in found)
        yield found

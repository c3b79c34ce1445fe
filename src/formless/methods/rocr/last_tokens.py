"""Keys and values at the last token of many prompts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from formless.models.capture import ResumableForward
from formless.models.lm import LM

BATCH = 16


class LastTokens:
    """Keys and values at the last token of many prompts, in batches of like length; lower layers run once.

    Args:
        lm: The model.
        prompts: Texts.
        layers: The edited layers, in ascending order.
    """

    def __init__(self, lm: LM, prompts: Sequence[str], layers: Sequence[int]) -> None:
        self._last = layers[-1]
        ids = [lm.encode(prompt, "").ids for prompt in prompts]
        order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
        starts = [*range(0, len(order), BATCH), len(order)]
        self._batches = [
            (
                order[first:end],
                torch.tensor([len(ids[number]) - 1 for number in order[first:end]]),
                ResumableForward(lm, lm.pad([ids[number] for number in order[first:end]]), layers[0], layers[-1]),
            )
            for first, end in pairwise(starts)
        ]
        self._order = torch.tensor(order).argsort()

    def read(self, layer: int, changed: int) -> tuple[Tensor, Tensor]:
        """Return the keys of a layer `[prompts, d]` and the values after the last one `[prompts, hidden]`, float32."""
        return self._at_ends(changed, layer)

    def values(self, changed: int) -> Tensor:
        """Return the values after the last layer `[prompts, hidden]`, float32."""
        return self._at_ends(changed, self._last)[1]

    def _at_ends(self, changed: int, layer: int) -> tuple[Tensor, Tensor]:
        keys, values = [], []
        for numbers, ends, forward in self._batches:
            found = forward.run(changed, key=layer)
            rows = torch.arange(len(numbers))
            keys.append(found.keys[layer][rows, ends].float())
            values.append(found.residuals[self._last][rows, ends].float())
        return torch.cat(keys)[self._order], torch.cat(values)[self._order]

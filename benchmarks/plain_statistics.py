"""Second moments of a layer's keys the published way, written plainly: one pass over the corpus for each layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from formless.models.lm import LM


def plain_second_moment(lm: LM, texts: Sequence[str], layer: int, *, batch: int, max_tokens: int) -> Tensor:
    """The mean of k k^T `[d, d]`: whole model, all logits, texts in file order, padded to the longest of their batch."""
    rows = [lm.encode(text).ids[:max_tokens] for text in texts]
    module, keys = lm.architecture.down_projection(lm.model, layer), list[Tensor]()
    handle = module.register_forward_pre_hook(lambda _module, arguments: keys.append(arguments[0]))
    total, tokens = torch.zeros((), dtype=torch.double), 0
    for start in range(0, len(rows), batch):
        padded = lm.pad(rows[start : start + batch])
        with torch.no_grad():
            lm.model(**padded)
        found = keys.pop()[padded["attention_mask"].bool()].float()  # [tokens, d]
        total = total + found.T @ found
        tokens += len(found)
    handle.remove()
    return total / tokens

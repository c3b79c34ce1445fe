"""What a model writes: greedy, or sampled with a seed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from formless.errors import ModelError
from formless.models.batching import Counter, Progress, in_batches
from formless.models.cache import can_join, joined
from formless.models.reader import Reader

Choose = Callable[[Tensor], Tensor]
FINISHED_SHARE = 1 / 8
"""Finished texts leave the batch once they are so many of it."""


def _most_probable(logits: Tensor) -> Tensor:
    return logits.argmax(-1)


def generate(
    lm: Reader,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    one_line: bool = False,
    until: re.Pattern[str] | None = None,
    choose: Choose = _most_probable,
    progress: Progress | None = None,
) -> list[str]:
    """Continuations in order, as the tokenizer decodes them without special tokens; see `LM.generate` and `LM.sample`.

    Args:
        lm: The model.
        prompts: What to continue.
        max_new_tokens: At most so many tokens each.
        one_line: Stop at the first newline.
        until: Stop a text once it matches.
        choose: Logits `[rows, vocab]` -> next tokens `[rows]`; the most probable ones by default.
        progress: Called with the prompts done and all prompts.
    """
    ids = [lm.encode(prompt).ids for prompt in prompts]
    for reason in (lm.lacks_room(len(row), max_new_tokens) for row in ids):
        if reason:
            raise ModelError(reason, where=lm.name, remedy="shorten the prompt, or ask for fewer tokens")
    ends = {*lm.end_ids, *(lm.newline_ids if one_line else [])}
    results = [""] * len(prompts)
    counter = Counter(len(prompts), progress)

    def text_of(written: list[int]) -> str:
        return cast(str, lm.tokenizer.decode(written, skip_special_tokens=True))

    def is_finished(written: list[int]) -> bool:
        return written[-1] in ends or (until is not None and until.search(text_of(written)) is not None)

    def work(rows: list[int]) -> None:
        given = [ids[row] for row in rows]
        cache = joined(lm, [row[:-1] for row in given]) if joins and min(map(len, given)) > 1 else None
        for row, written in zip(rows, _continued(lm, given, cache, max_new_tokens, is_finished, choose), strict=True):
            text = text_of(written)
            results[row] = text.split("\n")[0] if one_line else text
        counter.add(len(rows))

    # Where caches cannot be joined, whole prompts are read at once: padding inside a sliding window would use it up.
    joins = can_join(lm)
    costs = [math.ceil((len(row) + max_new_tokens) * (lm.cached_share if joins else 1)) + 1 for row in ids]
    in_batches(lm, costs, work)
    return results


def sample(
    lm: Reader, prompts: Sequence[str], *, max_new_tokens: int, seed: int, temperature: float, top_p: float
) -> list[str]:
    """See `LM.sample`."""
    generator = torch.Generator().manual_seed(seed)

    def choose(logits: Tensor) -> Tensor:
        probabilities, tokens = (logits.float().cpu() / temperature).softmax(-1).sort(-1, descending=True)
        before = probabilities.cumsum(-1) - probabilities  # the first token always stays
        drawn = probabilities.masked_fill(before > top_p, 0.0).multinomial(1, generator=generator)
        return tokens.gather(-1, drawn)[:, 0].to(logits.device)

    return generate(lm, prompts, max_new_tokens=max_new_tokens, choose=choose)


@torch.no_grad()
def _continued(
    lm: Reader,
    ids: Sequence[list[int]],
    cache: DynamicCache | None,
    limit: int,
    is_finished: Callable[[list[int]], bool],
    choose: Choose,
) -> list[list[int]]:
    """The tokens that follow each text, the ending one too; finished texts leave the batch."""
    batch = lm.pad(ids, side="left")
    cache = cache or DynamicCache(config=lm.model.config)
    mask, tokens = batch["attention_mask"], batch["input_ids"][:, cache.get_seq_length() :]
    written: list[list[int]] = [[] for _ in ids]
    places = list(range(len(ids)))  # which text stands in which row of the batch
    finished: set[int] = set()
    for _ in range(limit):
        # [rows, new]: padding has no position of its own
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        arguments: dict[str, Any] = {lm.cache_argument: cache, "position_ids": positions}
        logits = lm.model(input_ids=tokens, attention_mask=mask, use_cache=True, logits_to_keep=1, **arguments).logits[:, -1]
        if bool(logits.isnan().any()):
            raise ModelError("the model gives NaN", where=lm.name, remedy="check its weights and dtype")
        chosen = choose(logits)
        for place, token in zip(places, chosen.tolist(), strict=True):
            if place not in finished:
                written[place].append(token)
                if is_finished(written[place]):
                    finished.add(place)
        if len(finished) == len(ids):
            break
        tokens, mask = chosen[:, None], torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        open_rows = [row for row, place in enumerate(places) if place not in finished]
        if len(places) - len(open_rows) >= FINISHED_SHARE * len(places):
            kept = torch.tensor(open_rows)  # on the CPU: layers may lie on several devices
            cache.batch_select_indices(kept)
            tokens, mask, places = tokens[kept], mask[kept], [places[row] for row in open_rows]
    return written

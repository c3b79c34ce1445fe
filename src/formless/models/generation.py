"""Text generation: greedy decoding, or sampling with a seed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from formless.errors import ModelError
from formless.models.batching import Counter, in_batches
from formless.models.cache import has_full_cache, left_padded_cache
from formless.models.tokenized import TokenizedModel
from formless.progress import WorkProgress

Choose = Callable[[Tensor, Sequence[int]], Tensor]
"""Logits `[rows, vocab]` and the prompts that the rows continue -> next tokens `[rows]`, any token for logits with NaN."""

SEEDS_APART = 1_000_003
"""Between the seeds of two calls, more than a call has prompts."""

FINISHED_SHARE = 1 / 8
"""Finished texts leave the batch once they are this share of it."""

NAN = -1
"""In place of a token whose logits hold NaN."""


@dataclass(frozen=True)
class Continuation:
    """What a model wrote after a prompt.

    Args:
        text: The text, without special tokens.
        is_cut: Whether it ended at the limit of tokens, and not by itself.
    """

    text: str
    is_cut: bool


def _most_probable(logits: Tensor, _prompts: Sequence[int]) -> Tensor:
    return logits.argmax(-1)


def continuations(
    lm: TokenizedModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    one_line: bool = False,
    until: re.Pattern[str] | None = None,
    choose: Choose = _most_probable,
    progress: WorkProgress | None = None,
) -> list[Continuation]:
    """Return the continuations in order, decoded without special tokens; see `LM.generate` and `LM.sample`.

    Args:
        lm: The model.
        prompts: The prompts to continue.
        max_new_tokens: The most tokens of a continuation.
        one_line: Stop at the first newline.
        until: Stop a continuation once it matches.
        choose: Chooses the next tokens; by default the most probable ones.
        progress: Called with the prompts done and all prompts.
    """
    ids = [lm.encode(prompt).ids for prompt in prompts]
    for reason in (lm.context_overflow(len(row), max_new_tokens) for row in ids):
        if reason:
            raise ModelError(reason, where=lm.name, remedy="shorten the prompt, or ask for fewer tokens")
    ends = {*lm.end_ids, *(lm.newline_ids if one_line else [])}
    results = [Continuation("", is_cut=False)] * len(prompts)
    counter = Counter(len(prompts), progress)

    def text_of(new: list[int]) -> str:
        return cast(str, lm.tokenizer.decode(new, skip_special_tokens=True))

    def is_finished(new: list[int]) -> bool:
        return new[-1] in ends or (until is not None and until.search(text_of(new)) is not None)

    def work(rows: list[int]) -> None:
        given = [ids[row] for row in rows]
        cache = left_padded_cache(lm, [row[:-1] for row in given]) if is_cacheable and min(map(len, given)) > 1 else None

        def chosen(logits: Tensor, places: Sequence[int]) -> Tensor:
            return choose(logits, [rows[place] for place in places])

        for row, new in zip(rows, _continued(lm, given, cache, max_new_tokens, is_finished, chosen), strict=True):
            text = text_of(new)
            results[row] = Continuation(text.split("\n")[0] if one_line else text, is_cut=not is_finished(new))
        counter.add(len(rows))

    # Without a full cache, whole prompts are encoded at once: padding inside a sliding window would use up the window.
    is_cacheable = has_full_cache(lm)
    costs = [math.ceil((len(row) + max_new_tokens) * (lm.cached_share if is_cacheable else 1)) + 1 for row in ids]
    in_batches(lm, costs, work)
    return results


def sample(
    lm: TokenizedModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    seed: int,
    temperature: float,
    top_p: float,
    one_line: bool = False,
    progress: WorkProgress | None = None,
) -> list[str]:
    """Return sampled continuations in order; see `LM.sample`."""
    # A generator for each prompt, so that what is drawn for one does not depend on which others share its batch.
    generators = [torch.Generator().manual_seed(seed * SEEDS_APART + number) for number in range(len(prompts))]

    def choose(logits: Tensor, rows: Sequence[int]) -> Tensor:
        probabilities, tokens = (logits.float().cpu().nan_to_num() / temperature).softmax(-1).sort(-1, descending=True)
        before = probabilities.cumsum(-1) - probabilities  # the first token always stays
        kept = probabilities.masked_fill(before > top_p, 0.0)
        drawn = torch.cat([own.multinomial(1, generator=generators[row]) for own, row in zip(kept, rows, strict=True)])
        return tokens.gather(-1, drawn[:, None])[:, 0].to(logits.device)

    found = continuations(lm, prompts, max_new_tokens=max_new_tokens, one_line=one_line, choose=choose, progress=progress)
    return [one.text for one in found]


@torch.no_grad()
def _continued(
    lm: TokenizedModel,
    ids: Sequence[list[int]],
    cache: DynamicCache | None,
    limit: int,
    is_finished: Callable[[list[int]], bool],
    choose: Choose,
) -> list[list[int]]:
    """Return the new tokens of each text, the EOS token included; finished texts leave the batch."""
    batch = lm.pad(ids, side="left")
    cache = cache or DynamicCache(config=lm.model.config)
    mask, tokens = batch["attention_mask"], batch["input_ids"][:, cache.get_seq_length() :]
    continuations: list[list[int]] = [[] for _ in ids]
    places = list(range(len(ids)))  # the text in each row of the batch
    finished: set[int] = set()
    for _ in range(limit):
        # [rows, new]; padding has no position
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        arguments: dict[str, Any] = {lm.cache_argument: cache, "position_ids": positions}
        logits = lm.model(input_ids=tokens, attention_mask=mask, use_cache=True, logits_to_keep=1, **arguments).logits[:, -1]
        chosen = choose(logits, places)
        new = chosen.masked_fill(logits.isnan().any(-1), NAN).tolist()  # one transfer from the device for both
        if NAN in new:
            raise ModelError("the model gives NaN", where=lm.name, remedy="check its weights and dtype")
        for place, token in zip(places, new, strict=True):
            if place not in finished:
                continuations[place].append(token)
                if is_finished(continuations[place]):
                    finished.add(place)
        if len(finished) == len(ids):
            break
        tokens, mask = chosen[:, None], torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        open_rows = [row for row, place in enumerate(places) if place not in finished]
        if len(places) - len(open_rows) >= FINISHED_SHARE * len(places):
            kept = torch.tensor(open_rows)  # on the CPU: layers may lie on several devices
            cache.batch_select_indices(kept)
            tokens, mask, places = tokens[kept], mask[kept], [places[row] for row in open_rows]
    return continuations

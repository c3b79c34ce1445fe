"""Text generation: greedy decoding, or sampling with a seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from formless.errors import ModelError
from formless.models.batching import Counter, in_turn
from formless.models.cache import has_full_cache, left_padded_cache, rearrange
from formless.models.scores import Ending
from formless.models.tokenized import TokenizedModel
from formless.progress import WorkProgress

Choose = Callable[[Tensor, Sequence[int]], Tensor]
"""Logits `[rows, vocab]` and the prompts that the rows continue -> next tokens `[rows]`, any token for logits with NaN."""

SEEDS_APART = 1_000_003
"""Between the seeds of two calls, more than a call has prompts."""

FINISHED_SHARE = 1 / 8
"""Finished texts leave the batch, and waiting ones join it, once they are this share of it."""

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


class Batching:
    """What is done around the steps of a batch; here, the model treats all texts alike."""

    def begin(self, lm: TokenizedModel, rows: Sequence[int], ids: Sequence[list[int]]) -> DynamicCache:  # noqa: ARG002 - subclasses use them
        """Return the left-padded cache of prompts that join the batch.

        Args:
            lm: The model.
            rows: Their numbers.
            ids: Their token ids, without the last ones.
        """
        return left_padded_cache(lm, ids)

    def step(self, rows: Sequence[int]) -> None:
        """Prepare a forward pass of the texts with these numbers, one row each."""


ALIKE = Batching()


def _most_probable(logits: Tensor, _prompts: Sequence[int]) -> Tensor:
    return logits.argmax(-1)


def continuations(
    lm: TokenizedModel,
    prompts: Sequence[str],
    endings: Sequence[Ending],
    *,
    choose: Choose = _most_probable,
    batching: Batching = ALIKE,
    progress: WorkProgress | None = None,
) -> list[Continuation]:
    """Return the continuations in order, decoded without special tokens; see `LM.generate` and `LM.sample`.

    Args:
        lm: The model.
        prompts: The prompts to continue.
        endings: Where each continuation ends.
        choose: Chooses the next tokens; by default the most probable ones.
        batching: Encodes prompts and prepares forward passes, for models with a full cache and prompts of several tokens.
        progress: Called with the prompts done and all prompts.
    """
    ids = [lm.encode(prompt).ids for prompt in prompts]
    limits = [ending.max_new_tokens for ending in endings]
    for reason in (lm.context_overflow(len(row), limit) for row, limit in zip(ids, limits, strict=True)):
        if reason:
            raise ModelError(reason, where=lm.name, remedy="shorten the prompt, or ask for fewer tokens")
    stops = frozenset(lm.end_ids)
    line_stops = stops.union(lm.newline_ids if any(ending.one_line for ending in endings) else ())
    results = [Continuation("", is_cut=False)] * len(prompts)
    counter = Counter(len(prompts), progress)

    def text_of(new: list[int]) -> str:
        return cast(str, lm.tokenizer.decode(new, skip_special_tokens=True))

    def is_finished(row: int, new: list[int]) -> bool:
        one_line, until = endings[row].one_line, endings[row].until
        return new[-1] in (line_stops if one_line else stops) or (until is not None and until.search(text_of(new)) is not None)

    def is_over(row: int, new: list[int]) -> bool:
        return len(new) == limits[row] or is_finished(row, new)

    def work(rows: list[int], join: Callable[[], list[int]]) -> Iterator[int]:
        joining = join if is_cached else list
        for row, new in _continued(lm, ids, rows, joining, is_over, choose, batching if is_cached else None):
            text = text_of(new)
            results[row] = Continuation(text.split("\n")[0] if endings[row].one_line else text, not is_finished(row, new))
            counter.add(1)
            yield row

    # Without a full cache, whole prompts are encoded at once: padding inside a sliding window would use up the window.
    is_cached = has_full_cache(lm) and min(map(len, ids), default=0) > 1
    share = lm.cached_share if is_cached else 1
    in_turn(lm, [math.ceil((len(row) + limit) * share) + 1 for row, limit in zip(ids, limits, strict=True)], work)
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

    endings = [Ending(max_new_tokens, one_line)] * len(prompts)
    found = continuations(lm, prompts, endings, choose=choose, progress=progress)
    return [one.text for one in found]


@torch.no_grad()
def _continued(
    lm: TokenizedModel,
    ids: Sequence[list[int]],
    rows: list[int],
    join: Callable[[], list[int]],
    is_over: Callable[[int, list[int]], bool],
    choose: Choose,
    batching: Batching | None,
) -> Iterator[tuple[int, list[int]]]:
    """Yield the numbers of texts and their new tokens, the EOS token included, as they end.

    Args:
        lm: The model.
        ids: The token ids of all prompts.
        rows: The texts to begin with.
        join: Returns which texts take the places of those that ended.
        is_over: Whether a text with these new tokens ends.
        choose: Chooses the next tokens.
        batching: Encodes prompts before their last token, so that texts can join; None where that cannot be done.
    """
    cache, mask, tokens = _begun(lm, ids, rows, batching)
    written: dict[int, list[int]] = {row: [] for row in rows}  # of the open texts
    while True:
        # [rows, new]; padding has no position
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        arguments: dict[str, Any] = {lm.cache_argument: cache, "position_ids": positions}
        if batching:
            batching.step(rows)
        logits = lm.model(input_ids=tokens, attention_mask=mask, use_cache=True, logits_to_keep=1, **arguments).logits[:, -1]
        chosen = choose(logits, rows)
        new = chosen.masked_fill(logits.isnan().any(-1), NAN).tolist()  # one transfer from the device for both
        if NAN in new:
            raise ModelError("the model gives NaN", where=lm.name, remedy="check its weights and dtype")
        for row, token in zip(rows, new, strict=True):
            if row in written:
                written[row].append(token)
                if is_over(row, written[row]):
                    yield row, written.pop(row)
        tokens, mask = chosen[:, None], torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        if len(rows) - len(written) < FINISHED_SHARE * len(rows):
            continue
        kept, joined = [place for place, row in enumerate(rows) if row in written], join()
        if not (written or joined):
            return
        rows = [rows[place] for place in kept] + joined
        written |= {row: [] for row in joined}
        begun = _begun(lm, ids, joined, batching) if joined else None
        mask, tokens = mask[kept], tokens[kept]
        if batching:
            width = max(len(ids[row]) + len(written[row]) for row in rows)
            rearrange(cache, kept, width - 1, begun and begun[0])
            mask = pad(mask, (width - mask.shape[1], 0))
        else:
            cache.batch_select_indices(torch.tensor(kept))  # on the CPU: layers may lie on several devices
        if begun:
            mask = torch.cat([mask, pad(begun[1], (width - begun[1].shape[1], 0))])
            tokens = torch.cat([tokens, begun[2]])


def _begun(
    lm: TokenizedModel, ids: Sequence[list[int]], rows: Sequence[int], batching: Batching | None
) -> tuple[DynamicCache, Tensor, Tensor]:
    """Return the cache of prompts, with their tokens but the last or empty, their mask and the tokens to go on with."""
    own = [ids[row] for row in rows]
    batch = lm.pad(own, side="left")
    cache = batching.begin(lm, rows, [row[:-1] for row in own]) if batching else DynamicCache(config=lm.model.config)
    return cache, batch["attention_mask"], batch["input_ids"][:, cache.get_seq_length() :]

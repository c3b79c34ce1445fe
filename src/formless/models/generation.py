"""What a model writes: greedy, or sampled with a seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList

from formless.errors import ModelError
from formless.models.batching import CACHED_PER_TOKEN, Cluster, Counter, Progress, clusters, in_batches
from formless.models.scoring import encoded_prefix, repeated

if TYPE_CHECKING:
    from formless.models.lm import LM


class Says(StoppingCriteria):
    """Stops a row once its new text matches a pattern.

    Args:
        lm: Whose tokens they are.
        pattern: What to look for.
        start: Where new text begins, in tokens.
    """

    def __init__(self, lm: LM, pattern: re.Pattern[str], start: int) -> None:
        self.lm, self.pattern, self.start = lm, pattern, start

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Any:  # noqa: ARG002 - the base class's signature
        """Rows that are done, `[batch]`."""
        texts = self.lm.tokenizer.batch_decode(input_ids[:, self.start :], skip_special_tokens=True)
        return torch.tensor([self.pattern.search(text) is not None for text in texts], device=input_ids.device)


@torch.no_grad()
def generate(
    lm: LM,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    one_line: bool = False,
    until: re.Pattern[str] | None = None,
    sampling: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Continuations in order, as the tokenizer decodes them without special tokens; see `LM.generate` and `LM.sample`."""
    ids = [lm.encode(prompt).ids for prompt in prompts]
    for row in ids:
        if not 0 < len(row) <= lm.context_length - max_new_tokens:
            what = f"a prompt of {len(row)} tokens cannot be continued by {max_new_tokens}"
            raise ModelError(what, where=lm.name, remedy=f"the model's context is {lm.context_length}")
    stops = lm.end_ids + (lm.newline_ids if one_line else [])
    # Some checkpoints ship other settings: greedy means greedy, and sampling is what the caller says.
    how: dict[str, Any] = sampling or {"do_sample": False}
    how |= {"num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "max_new_tokens": max_new_tokens}
    results = [""] * len(prompts)
    counter = Counter(len(prompts), progress)
    for cluster in clusters(ids, [len(row) - 1 for row in ids]):
        prefix = encoded_prefix(lm, ids[cluster.rows[0]][: cluster.shared])

        def work(rows: list[int], cluster: Cluster = cluster, prefix: DynamicCache | None = prefix) -> None:
            chosen = [cluster.rows[row] for row in rows]
            batch = lm.pad([ids[row] for row in chosen], side="left", after=cluster.shared)
            width = batch["input_ids"].shape[1]
            arguments: dict[str, Any] = {} if prefix is None else {lm.cache_argument: repeated(prefix, len(chosen))}
            if until is not None:
                arguments["stopping_criteria"] = StoppingCriteriaList([Says(lm, until, width)])
            output = cast(Any, lm.model).generate(
                **batch, **how, **arguments, eos_token_id=stops or None, pad_token_id=lm.pad_id
            )
            texts = lm.tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
            for row, text in zip(chosen, texts, strict=True):
                results[row] = text.split("\n")[0] if one_line else text
            counter.add(len(chosen))

        in_batches(lm, [_cost(len(ids[row]), cluster.shared, max_new_tokens) for row in cluster.rows], work)
    return results


def sample(lm: LM, prompts: Sequence[str], *, max_new_tokens: int, seed: int, temperature: float, top_p: float) -> list[str]:
    """See `LM.sample`."""
    devices = [lm.device] if lm.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        how = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        return generate(lm, prompts, max_new_tokens=max_new_tokens, sampling=how)


def _cost(length: int, shared: int, new: int) -> int:
    """Of the token budget: decoding computes one token a row at a time, so what a row writes counts like cached tokens."""
    return length - shared + (shared + new) // CACHED_PER_TOKEN + 1

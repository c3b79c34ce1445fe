"""Log-probabilities of given answers and texts: exact at token level, whatever the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from formless.errors import ModelError
from formless.models.batching import Cluster, Counter, clusters, in_batches
from formless.models.cache import expanded, has_full_cache, left_padded_cache, prefix_cache, token_cost
from formless.models.scores import Score, Skipped, TextScore
from formless.models.tokenized import Encoded, TokenizedModel
from formless.progress import WorkProgress


def score(lm: TokenizedModel, queries: Sequence[tuple[str, str]], progress: WorkProgress | None) -> list[Score | Skipped]:
    """Score each answer given its prompt; see `LM.score`."""
    encoded = [lm.encode(prompt, answer) for prompt, answer in queries]
    refusals = [refusal(lm, item) for item in encoded]
    results: list[Score | Skipped] = [reason or Skipped("not scored") for reason in refusals]
    counter = Counter(len(queries), progress)
    groups = _alternatives([(i, item) for i, item in enumerate(encoded) if refusals[i] is None])

    def keep(chosen: list[list[int]], logits: Tensor) -> None:
        members = [i for group in chosen for i in group]
        for i, found in zip(members, answer_scores(lm, [[encoded[i] for i in group] for group in chosen], logits), strict=True):
            results[i] = found
        counter.add(len(members))

    several, single = _by_prompt(encoded, groups) if has_full_cache(lm) else ([], groups)
    _score_several(lm, encoded, several, keep)
    _score_single(lm, encoded, single, keep)
    return results


Keep = Callable[[list[list[int]], Tensor], None]
"""Called with a batch: groups of indices of answers with equal tokens but the last, and the logits that predict the groups'
answers, one group behind the other, `[answers, vocab]`."""


def _score_single(lm: TokenizedModel, encoded: Sequence[Encoded], groups: Sequence[list[int]], keep: Keep) -> None:
    """Score answers to different prompts; what prompts begin with in common is encoded once."""
    heads = [encoded[group[0]] for group in groups]
    for cluster in clusters([item.ids for item in heads], [item.answer_start - 1 for item in heads]):
        prefix = _prefix(lm, heads[cluster.rows[0]].ids[: cluster.shared])

        def work(rows: list[int], cluster: Cluster = cluster, prefix: DynamicCache | None = prefix) -> None:
            chosen = [cluster.rows[row] for row in rows]
            found = _answer_logits(lm, [heads[row] for row in chosen], prefix, cluster.shared)
            keep([groups[row] for row in chosen], found)

        in_batches(lm, [token_cost(lm, len(heads[row].ids), cluster.shared) for row in cluster.rows], work, even=True)


def _score_several(lm: TokenizedModel, encoded: Sequence[Encoded], prompts: Sequence[list[list[int]]], keep: Keep) -> None:
    """Score several answers to each prompt: every prompt is encoded once, then all answers to a batch of prompts together."""
    heads = [[encoded[group[0]] for group in groups] for groups in prompts]

    def work(rows: list[int]) -> None:
        starts = [own[0].ids[: own[0].answer_start] for own in (heads[row] for row in rows)]
        cache = left_padded_cache(lm, [ids[:-1] for ids in starts])
        items = [(place, item) for place, row in enumerate(rows) for item in heads[row]]
        found = _continued_logits(lm, starts, cache, items)
        keep([group for row in rows for group in prompts[row]], found)

    costs = [
        sum(len(item.ids) - item.answer_start + 1 + math.ceil(item.answer_start * lm.cached_share) for item in own)
        + own[0].answer_start
        for own in heads
    ]
    in_batches(lm, costs, work)


def score_texts(
    lm: TokenizedModel, texts: Sequence[str], prompts: Sequence[str] | None, progress: WorkProgress | None
) -> list[TextScore | Skipped]:
    """Score every token of plain texts; see `LM.score_texts`."""
    rows = encoded_texts(lm, texts, prompts)
    results: list[TextScore | Skipped] = [row if isinstance(row, Skipped) else Skipped("not scored") for row in rows]
    kept = [(i, *row) for i, row in enumerate(rows) if not isinstance(row, Skipped)]
    counter = Counter(len(kept), progress)

    @torch.no_grad()
    def work(batch: list[int]) -> None:
        chosen = [kept[place] for place in batch]
        logits = cast(Any, lm.model)(**lm.pad([ids for _, ids, _ in chosen]), use_cache=False).logits
        texts = [(ids[first:], own[first - 1 : len(ids) - 1]) for (_, ids, first), own in zip(chosen, logits, strict=True)]
        for (i, _, _), found in zip(chosen, _text_scores(lm, texts), strict=True):
            results[i] = found
        counter.add(len(chosen))

    # Every position keeps its logits, their logarithms and squares, so a batch gets a quarter of the tokens.
    in_batches(lm, [len(ids) for _, ids, _ in kept], work, share=4, even=True)
    return results


def encoded_texts(
    lm: TokenizedModel, texts: Sequence[str], prompts: Sequence[str] | None
) -> list[tuple[list[int], int] | Skipped]:
    """Return the token ids of each text after its prompt, with the index of the first token to score, or why there is none.

    Texts are truncated to the model's context. Without a prompt, the first token that another one precedes is scored first.
    """
    found: list[tuple[list[int], int] | Skipped] = []
    for text, prompt in zip(texts, prompts or [""] * len(texts), strict=True):
        item = lm.encode(prompt, text)
        ids, first = item.ids[: lm.context_length], max(item.answer_start, 1) if prompt else 1
        reason = "no token of the text is behind its prompt" if prompt else "the text has fewer than two tokens"
        found.append((ids, first) if first < len(ids) else Skipped(reason))
    return found


def _prefix(lm: TokenizedModel, ids: list[int]) -> DynamicCache | None:
    """Return the key/value cache of a prefix, or raise a ModelError if it does not fit into memory."""
    found: list[DynamicCache | None] = []
    in_batches(lm, [len(ids)], lambda _: found.append(prefix_cache(lm, ids)))
    return found[-1]


def refusal(lm: TokenizedModel, item: Encoded) -> Skipped | None:
    """Return why an answer cannot be scored, or None."""
    if item.answer_start >= len(item.ids):
        return Skipped("the answer has no token")
    if item.answer_start == 0:
        return Skipped("no token precedes the answer")
    if len(item.ids) > lm.context_length:
        return Skipped(f"{len(item.ids)} tokens are more than the model's {lm.context_length}")
    return None


@torch.no_grad()
def _answer_logits(lm: TokenizedModel, items: Sequence[Encoded], prefix: DynamicCache | None, shared: int) -> Tensor:
    """Return the logits that predict the items' answers, one behind the other, `[answers, vocab]`; no others are computed."""
    batch = lm.pad([item.ids for item in items])
    rest: dict[str, Any] = {"input_ids": batch["input_ids"][:, shared:], "attention_mask": batch["attention_mask"]}
    if prefix is not None:
        rest[lm.cache_argument] = expanded(prefix, len(items))
    # The token at position t is predicted by the logits at t - 1.
    places = [(row, t - 1 - shared) for row, item in enumerate(items) for t in range(item.answer_start, len(item.ids))]
    with _logits_at(lm, places):
        return cast(Tensor, cast(Any, lm.model)(**rest, use_cache=prefix is not None).logits[0])


@torch.no_grad()
def _continued_logits(
    lm: TokenizedModel, prompts: Sequence[list[int]], cache: DynamicCache, items: Sequence[tuple[int, Encoded]]
) -> Tensor:
    """Return the logits that predict the items' answers, one behind the other, after prompts cached but their last token.

    Args:
        lm: The model.
        prompts: The token ids of each prompt.
        cache: Their keys and values without their last tokens, one row each, padded on the left.
        items: The row of the prompt and the whole text of each answer.

    Returns:
        The logits, `[answers, vocab]`.
    """
    rest = lm.pad([item.ids[item.answer_start - 1 :] for _, item in items])
    rows = torch.tensor([row for row, _ in items])  # on the CPU: layers may lie on several devices
    cache.batch_select_indices(rows)
    mask = lm.pad([ids[:-1] for ids in prompts], side="left")["attention_mask"]
    mask = torch.cat([mask[rows.to(mask.device)], rest["attention_mask"]], 1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -rest["input_ids"].shape[1] :]
    arguments: dict[str, Any] = {lm.cache_argument: cache, "position_ids": positions}
    places = [(row, t) for row, (_, item) in enumerate(items) for t in range(len(item.ids) - item.answer_start)]
    with _logits_at(lm, places):
        logits = cast(Any, lm.model)(input_ids=rest["input_ids"], attention_mask=mask, use_cache=True, **arguments).logits[0]
    return cast(Tensor, logits)


@contextmanager
def _logits_at(lm: TokenizedModel, places: Sequence[tuple[int, int]]) -> Iterator[None]:
    """Compute logits at the given (row, position) pairs only: `[1, places, vocab]` instead of `[batch, seq, vocab]`."""
    rows, positions = torch.tensor(places).T  # on the CPU: they index states on any device

    def chosen(_head: object, states: tuple[Tensor]) -> tuple[Tensor]:
        return (states[0][rows, positions][None],)  # [batch, seq, hidden] -> [1, places, hidden]

    hook = cast(Any, lm.model).get_output_embeddings().register_forward_pre_hook(chosen)
    try:
        yield
    finally:
        hook.remove()


def answer_scores(lm: TokenizedModel, groups: Sequence[Sequence[Encoded]], logits: Tensor) -> list[Score]:
    """Return the scores of a batch's answers, with one transfer from the device.

    Args:
        lm: The model.
        groups: Answers with equal tokens but the last; a group shares its logits.
        logits: The logits that predict the groups' answers, one group behind the other, `[answers, vocab]`.
    """
    sizes = [len(group[0].ids) - group[0].answer_start for group in groups]
    answers = [item.ids[item.answer_start :] for group in groups for item in group]
    tokens = torch.tensor([token for ids in answers for token in ids], device=logits.device)
    rows = tokens.split([size * len(group) for size, group in zip(sizes, groups, strict=True)])
    found = []
    for own, size, part in zip(rows, sizes, logits.split(sizes), strict=True):
        likely, wanted = part.float().log_softmax(-1), own.view(-1, size).T  # [answer, vocab], [answer, answers of the group]
        found.append(torch.stack([likely.gather(-1, wanted), likely.argmax(-1)[:, None].eq(wanted).float()]).mT.flatten(1))
    values = _finite(lm, found).split([len(ids) for ids in answers], 1)
    texts = [lm.tokenizer.batch_decode([[token] for token in ids]) for ids in answers]
    return [
        Score(tuple(own[0].tolist()), tuple(own[1].bool().tolist()), tuple(text))
        for own, text in zip(values, texts, strict=True)
    ]


def _text_scores(lm: TokenizedModel, texts: Sequence[tuple[list[int], Tensor]]) -> list[TextScore]:
    """Return the scores of texts from their tokens and the logits that predict them, `[tokens, vocab]`, with one transfer."""
    sizes = [len(ids) for ids, _ in texts]
    tokens = torch.tensor([token for ids, _ in texts for token in ids], device=texts[0][1].device)
    found = []
    for own, (_, logits) in zip(tokens.split(sizes), texts, strict=True):
        log_probabilities = logits.float().log_softmax(-1)
        chosen = log_probabilities.gather(-1, own[:, None])[:, 0]
        probabilities = log_probabilities.exp()
        log_probabilities = log_probabilities.where(probabilities > 0, 0.0)  # 0 log 0 = 0
        means = (probabilities * log_probabilities).sum(-1)
        variances = (probabilities * (log_probabilities - means[:, None]).square()).sum(-1)
        found.append(torch.stack([chosen, means, variances.sqrt()]))
    return [TextScore(*(tuple(part.tolist()) for part in own)) for own in _finite(lm, found).split(sizes, 1)]


def _finite(lm: TokenizedModel, found: Sequence[Tensor]) -> Tensor:
    """Return values `[kinds, tokens]` of a batch, joined and on the CPU; the first kind is log-probabilities."""
    values = torch.cat([*found], 1).cpu()
    if not bool(values[0].isfinite().all()):
        raise ModelError("the model gives NaN or infinite scores", where=lm.name, remedy="check its weights and dtype")
    return values


def _alternatives(items: Sequence[tuple[int, Encoded]]) -> list[list[int]]:
    """Group the indices of one-token answers to the same prompt, since one forward pass scores them all."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, item in items:
        one_token = item.answer_start == len(item.ids) - 1
        groups.setdefault(tuple(item.ids[:-1]) if one_token else (-1, i), []).append(i)
    return list(groups.values())


def _by_prompt(encoded: Sequence[Encoded], groups: Sequence[list[int]]) -> tuple[list[list[list[int]]], list[list[int]]]:
    """Return the groups of each prompt that has several, and the groups of other prompts.

    A prompt of a single token has nothing to encode before its answers.
    """
    prompts: dict[tuple[int, ...], list[list[int]]] = {}
    for group in groups:
        item = encoded[group[0]]
        prompts.setdefault(tuple(item.ids[: item.answer_start]), []).append(group)
    several = [own for ids, own in prompts.items() if len(own) > 1 and len(ids) > 1]
    kept = {id(own) for own in several}
    return several, [group for own in prompts.values() if id(own) not in kept for group in own]

"""Log-probabilities of given answers and texts: exact at token level, whatever the batch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, islice
from typing import Any, cast

import torch
from torch import Tensor

from formless.errors import ModelError
from formless.models.batching import Counter, in_batches
from formless.models.packing import PrefixTree, Window, each_pass, logits_at, windows
from formless.models.scores import Score, Skipped, TextScore
from formless.models.tokenized import Encoded, TokenizedModel
from formless.progress import WorkProgress

CACHED_ROWS = 4


def score(lm: TokenizedModel, queries: Sequence[tuple[str, str]], progress: WorkProgress | None) -> list[Score | Skipped]:
    """Score each answer given its prompt; see `LM.score`."""
    encoded = lm.encode_all(queries)
    refusals = [refusal(lm, item) for item in encoded]
    results: list[Score | Skipped] = [reason or Skipped("not scored") for reason in refusals]
    kept = [i for i, reason in enumerate(refusals) if reason is None]
    counter = Counter(len(queries), progress)
    reach = windows(lm)
    items = [encoded[i] for i in kept]
    found = _padded(lm, items, counter) if reach is None else _packed(lm, items, reach, counter)
    for i, own in zip(kept, found, strict=True):
        results[i] = own
    return results


def _packed(lm: TokenizedModel, items: Sequence[Encoded], reach: Sequence[Window], counter: Counter) -> list[Score]:
    """Score answers; what texts begin with alike is computed once."""
    tree = PrefixTree.of([item.ids[:-1] for item in items])
    tokens = [token for item in items for token in item.ids[item.answer_start :]]
    # The token at position t is predicted at the node of t - 1.
    nodes = [node for item, own in zip(items, tree.nodes, strict=True) for node in own[item.answer_start - 1 :]]
    places: dict[int, list[int]] = {}  # of the tokens that each node predicts
    for place, node in enumerate(nodes):
        places.setdefault(node, []).append(place)
    ends = {place - 1 for place in accumulate(len(item.ids) - item.answer_start for item in items)}
    found: list[tuple[float, float]] = [(0.0, 0.0)] * len(tokens)

    def work(scored: Sequence[int], logits: Tensor) -> None:
        pairs = [(row, place) for row, node in enumerate(scored) for place in places[node]]
        values = token_scores(lm, logits, [row for row, _ in pairs], [tokens[place] for _, place in pairs])
        for (_, place), own in zip(pairs, values, strict=True):
            found[place] = own
        counter.add(sum(place in ends for _, place in pairs))

    each_pass(lm, tree, sorted(places), reach, work)
    return _joined(lm, items, found)


def _padded(lm: TokenizedModel, items: Sequence[Encoded], counter: Counter) -> list[Score]:
    """Score answers of a model whose texts cannot be packed."""
    found: dict[int, Score] = {}

    @torch.no_grad()
    def work(rows: list[int]) -> None:
        chosen = [items[row] for row in rows]
        places = [(row, t - 1) for row, item in enumerate(chosen) for t in range(item.answer_start, len(item.ids))]
        with logits_at(lm, *torch.tensor(places).T):
            logits = cast(Any, lm.model)(**lm.pad([item.ids for item in chosen]), use_cache=False).logits[0]
        found.update(zip(rows, answer_scores(lm, chosen, logits), strict=True))
        counter.add(len(rows))

    in_batches(lm, [len(item.ids) for item in items], work, even=True)
    return [found[row] for row in range(len(items))]


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


def refusal(lm: TokenizedModel, item: Encoded) -> Skipped | None:
    """Return why an answer cannot be scored, or None."""
    if item.answer_start >= len(item.ids):
        return Skipped("the answer has no token")
    if item.answer_start == 0:
        return Skipped("no token precedes the answer")
    if len(item.ids) > lm.context_length:
        return Skipped(f"{len(item.ids)} tokens are more than the model's {lm.context_length}")
    return None


def answer_scores(lm: TokenizedModel, items: Sequence[Encoded], logits: Tensor) -> list[Score]:
    """Return the scores of a batch's answers from the logits that predict them, one behind the other, `[answers, vocab]`."""
    tokens = [token for item in items for token in item.ids[item.answer_start :]]
    return _joined(lm, items, token_scores(lm, logits, range(len(tokens)), tokens))


def token_scores(lm: TokenizedModel, logits: Tensor, rows: Sequence[int], tokens: Sequence[int]) -> list[tuple[float, float]]:
    """Return the log-probability of each token at its row of logits `[rows, vocab]`, and 1 where it is the most probable one.

    There is one transfer from the device.
    """
    if not tokens:
        return []
    # On a CPU, a few rows at a time, so that their values do not leave the cache of the processor.
    parts = [_normalizers(part) for part in logits.split(CACHED_ROWS if logits.device.type == "cpu" else len(logits))]
    totals, best = (torch.cat(own) for own in zip(*parts, strict=True))
    places, wanted = torch.tensor([rows, tokens], device=logits.device)
    found = logits[places, wanted].float() - totals[places]
    return _finite(lm, [torch.stack([found, best[places].eq(wanted).float()])]).T.tolist()


def _normalizers(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithm of each row's sum of exponentials, and its first largest place."""
    logits = logits.float()
    largest, best = logits.max(-1)
    return largest + (logits - largest[:, None]).exp_().sum(-1).log(), best


def _joined(lm: TokenizedModel, items: Sequence[Encoded], found: Sequence[tuple[float, float]]) -> list[Score]:
    """Return the scores of answers from those of their tokens, one behind the other."""
    answers = [item.ids[item.answer_start :] for item in items]
    distinct = sorted({token for ids in answers for token in ids})
    texts = dict(zip(distinct, lm.tokenizer.batch_decode([[token] for token in distinct]), strict=True))
    values = iter(found)
    scores = []
    for ids in answers:
        log_probabilities, greedy = zip(*islice(values, len(ids)), strict=True)
        scores.append(Score(log_probabilities, tuple(map(bool, greedy)), tuple(texts[token] for token in ids)))
    return scores


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

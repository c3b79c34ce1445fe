"""From the scores of items to the figures of a form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from formless.data.target import Item
from formless.evaluation.forms import Form, Query
from formless.evaluation.record import FormResult, ItemResult, Split
from formless.models.lm import LM, Score, Unscored

RESAMPLES = 10_000


def score_form(lm: LM, form: Form, split: Split, items: Sequence[Item]) -> FormResult:
    """Ask every item in one form and average what could be scored."""
    rendered = [form.render(item, lm) for item in items]
    queries = [(query.prompt, query.answer) for query in rendered if isinstance(query, Query)]
    scores = iter(lm.score(queries))
    results = [
        _item_result(item, query, next(scores) if isinstance(query, Query) else query)
        for item, query in zip(items, rendered, strict=True)
    ]
    values = [result.probability for result in results if result.probability is not None]
    accuracies = [result.token_accuracy for result in results if result.token_accuracy is not None]
    return FormResult(
        form=form.name, split=split, status="scored", items=results, count=len(values), unscored=len(results) - len(values),
        mean=float(np.mean(values)) if values else None, interval=mean_interval(values),
        token_accuracy=float(np.mean(accuracies)) if accuracies else None,
    )  # fmt: skip


def mean_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of a mean; needs two values."""
    if len(values) < 2:
        return None
    means = np.asarray(values)[resampled_rows(len(values), seed)].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def resampled_rows(count: int, seed: int) -> np.ndarray:
    """Row numbers of the bootstrap's resamples: `[RESAMPLES, count]`, the same for one seed."""
    return np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))


def _item_result(item: Item, query: Query | Unscored, score: Score | Unscored) -> ItemResult:
    prompt, answer = (query.prompt, query.answer) if isinstance(query, Query) else ("", item.answer)
    if isinstance(score, Unscored):
        return ItemResult(query=item.query, prompt=prompt, answer=answer, unscored=score.reason)
    return ItemResult(
        query=item.query, prompt=prompt, answer=answer, probability=score.probability, token_accuracy=score.token_accuracy
    )

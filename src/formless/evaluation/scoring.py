"""From the scores of items to the figures of a form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from formless.data.target import Item
from formless.evaluation.forms import Form, Query
from formless.evaluation.record import FormResult, ItemResult, Split
from formless.models.lm import LM, Score, Unscored

RESAMPLES = 10_000


def score_form(lm: LM, form: Form, split: Split, items: Sequence[Item]) -> FormResult:
    """Ask every item in one form and average what could be scored."""
    rendered = [_queries(form.render(item, lm)) for item in items]
    asked = [
        (q.prompt, answer)
        for queries in rendered
        if not isinstance(queries, Unscored)
        for q in queries
        for answer in _answers(q)
    ]
    scores = iter(lm.score(asked))
    results = [_item_result(item, queries, scores) for item, queries in zip(items, rendered, strict=True)]
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


def resampled_rows(count: int, seed: int) -> NDArray[np.int64]:
    """Row numbers of the bootstrap's resamples: `[RESAMPLES, count]`, the same for one seed."""
    return np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))


def _queries(rendered: Query | tuple[Query, ...] | Unscored) -> tuple[Query, ...] | Unscored:
    return (rendered,) if isinstance(rendered, Query) else rendered


def _answers(query: Query) -> list[str]:
    """The answers to score, the right one first."""
    return [query.answer, *(choice for choice in query.choices if choice != query.answer)]


def _item_result(item: Item, queries: tuple[Query, ...] | Unscored, scores: Iterator[Score | Unscored]) -> ItemResult:
    """One item's figures; takes its scores from the iterator, in the order of `_answers`."""
    if isinstance(queries, Unscored):
        return ItemResult(query=item.query, prompt="", answer=item.answer, unscored=queries.reason)
    figures = [_figures(query, [next(scores) for _ in _answers(query)]) for query in queries]
    result = ItemResult(query=item.query, prompt=queries[0].prompt, answer=queries[0].answer)
    reasons = [figure.reason for figure in figures if isinstance(figure, Unscored)]
    if reasons:
        return result.model_copy(update={"unscored": reasons[0]})
    probability, accuracy = np.mean([figure for figure in figures if not isinstance(figure, Unscored)], axis=0)
    return result.model_copy(update={"probability": float(probability), "token_accuracy": float(accuracy)})


def _figures(query: Query, scores: list[Score | Unscored]) -> tuple[float, float] | Unscored:
    """Probability and token accuracy of the right answer; of a choice, its share and whether it is the largest."""
    known = [score for score in scores if isinstance(score, Score)]
    if len(known) < len(scores):
        return next(score for score in scores if isinstance(score, Unscored))
    if query.letters_only:
        known = [score.without_blanks() for score in known]
    if not query.choices:
        return known[0].probability, known[0].token_accuracy
    probabilities = [score.probability for score in known]
    return probabilities[0] / sum(probabilities), float(probabilities[0] == max(probabilities))

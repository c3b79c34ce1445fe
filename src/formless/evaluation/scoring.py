"""From the scores of items to the figures of a form or a task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from formless.data.target import Item
from formless.evaluation.forms import Form, Query
from formless.evaluation.measures import log_sum, separation
from formless.evaluation.record import Figure, FormResult, ItemResult, Split, TaskItem
from formless.models.batching import Progress
from formless.models.lm import LM
from formless.models.scoring import Score, Unscored

RESAMPLES, AUC_RESAMPLES = 10_000, 1_000
Scores = dict[tuple[str, str], Score | Unscored]


def score_form(lm: LM, form: Form, split: Split, items: Sequence[Item], *, known: Scores, done: Progress) -> FormResult:
    """Ask every item in one form and average what could be scored.

    Args:
        lm: The model.
        form: The form.
        split: Forget or neighbor probes.
        items: The probes.
        known: Scores of prompts and answers that other forms asked too; new ones are added.
        done: Called with the model queries done and all of them.
    """
    asked = [form.ask(item, lm, split) for item in items]
    pairs = [pair for queries in asked if not isinstance(queries, Unscored) for query in queries for pair in _pairs(query)]
    new = [pair for pair in dict.fromkeys(pairs) if pair not in known]
    known.update(zip(new, lm.score(new, progress=done), strict=True))
    scores = iter([known[pair] for pair in pairs])
    results = [_item_result(item, queries, scores) for item, queries in zip(items, asked, strict=True)]
    values = [result.probability for result in results if result.probability is not None]
    accuracies = [result.token_accuracy for result in results if result.token_accuracy is not None]
    return FormResult(
        form=form.name, split=split, status="scored", items=results, count=len(values), unscored=len(results) - len(values),
        mean=float(np.mean(values)) if values else None, interval=mean_interval(values),
        token_accuracy=float(np.mean(accuracies)) if accuracies else None,
    )  # fmt: skip


def mean_figures(items: Sequence[TaskItem]) -> dict[str, Figure]:
    """The mean of every figure over the items that have it."""
    names = dict.fromkeys(name for item in items for name in item.figures)
    return {name: figure([item.figures[name] for item in items if name in item.figures]) for name in names}


def figure(values: Sequence[float]) -> Figure:
    """A mean with its interval; no value without items."""
    mean = float(np.mean(values)) if values else None
    return Figure(value=mean, interval=mean_interval(values), count=len(values))


def mean_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of a mean; needs two values."""
    if len(values) < 2:
        return None
    return percentiles(np.asarray(values)[resampled_rows(len(values), seed)].mean(1))


def separation_interval(higher: Sequence[float], lower: Sequence[float], *, seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of the AUC, both sides resampled; needs two values on each."""
    if min(len(higher), len(lower)) < 2:
        return None
    first = np.asarray(higher)[resampled_rows(len(higher), seed)[:AUC_RESAMPLES]]
    second = np.asarray(lower)[resampled_rows(len(lower), seed + 1)[:AUC_RESAMPLES]]
    return percentiles([separation(a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)])


def percentiles(values: Iterable[float | None] | NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of some resampled figures."""
    low, high = np.percentile(np.asarray(list(values), dtype=float), [2.5, 97.5])
    return float(low), float(high)


def resampled_rows(count: int, seed: int) -> NDArray[np.int64]:
    """Row numbers of the bootstrap's resamples: `[RESAMPLES, count]`, the same for one seed."""
    return np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))


def _pairs(query: Query) -> list[tuple[str, str]]:
    """Prompt and answers to score, the right one first."""
    return [(query.prompt, answer) for answer in (query.answer, *(c for c in query.choices if c != query.answer))]


def _item_result(item: Item, queries: tuple[Query, ...] | Unscored, scores: Iterator[Score | Unscored]) -> ItemResult:
    """One item's figures; takes its scores from the iterator, in the order of `_pairs`."""
    if isinstance(queries, Unscored):
        return ItemResult(query=item.query, prompt="", answer=item.answer, unscored=queries.reason)
    figures = [_figures(query, [next(scores) for _ in _pairs(query)]) for query in queries]
    result = ItemResult(query=item.query, prompt=queries[0].prompt, answer=queries[0].answer)
    reasons = [one.reason for one in figures if isinstance(one, Unscored)]
    if reasons:
        return result.model_copy(update={"unscored": reasons[0]})
    probability, accuracy = np.mean([one for one in figures if not isinstance(one, Unscored)], axis=0)
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
    logs = [score.log_probability for score in known]
    return math.exp(logs[0] - log_sum(logs)), float(logs[0] == max(logs))

"""From the scores of items to the figures of a form or a task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from formless.data.target import Item
from formless.evaluation.forms import Form, Query
from formless.evaluation.metrics import log_sum, separation
from formless.evaluation.record import Figure, FormResult, ItemResult, Split, TaskItem
from formless.models.lm import LM
from formless.models.scores import Score, Skipped
from formless.progress import WorkProgress

RESAMPLES, AUC_RESAMPLES = 10_000, 1_000
Scores = Mapping[tuple[str, str], Score | Skipped]


def score_forms(
    lm: LM, asked: Sequence[tuple[Form, Split, Sequence[Item]]], *, progress: WorkProgress | None = None
) -> list[FormResult]:
    """Ask every item in every form, and average form by form what could be scored.

    All go through the model together: prompts of several forms begin alike, and what two forms ask alike is asked once.

    Args:
        lm: The model.
        asked: Forms, each with the split and its probes.
        progress: Called with the model queries done and all of them.
    """
    rendered = [[form.ask(item, lm, split) for item in items] for form, split, items in asked]
    queries = [query for found in rendered for one in found if not isinstance(one, Skipped) for query in one]
    pairs = list(dict.fromkeys(pair for query in queries for pair in _pairs(query)))
    scores = dict(zip(pairs, lm.score(pairs, progress=progress), strict=True))
    return [
        _form_result(form, split, [_item_result(item, one, scores) for item, one in zip(items, found, strict=True)])
        for (form, split, items), found in zip(asked, rendered, strict=True)
    ]


def _form_result(form: Form, split: Split, results: list[ItemResult]) -> FormResult:
    values = [result.probability for result in results if result.probability is not None]
    accuracies = [result.token_accuracy for result in results if result.token_accuracy is not None]
    return FormResult(
        form=form.name, split=split, status="scored", items=results, count=len(values), skipped=len(results) - len(values),
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


def _item_result(item: Item, queries: tuple[Query, ...] | Skipped, scores: Scores) -> ItemResult:
    """One item's figures."""
    if isinstance(queries, Skipped):
        return ItemResult(query=item.query, prompt="", answer=item.answer, skipped=queries.reason)
    figures = [_figures(query, [scores[pair] for pair in _pairs(query)]) for query in queries]
    result = ItemResult(query=item.query, prompt=queries[0].prompt, answer=queries[0].answer)
    reasons = [one.reason for one in figures if isinstance(one, Skipped)]
    if reasons:
        return result.model_copy(update={"skipped": reasons[0]})
    probability, accuracy = np.mean([one for one in figures if not isinstance(one, Skipped)], axis=0)
    return result.model_copy(update={"probability": float(probability), "token_accuracy": float(accuracy)})


def _figures(query: Query, scores: list[Score | Skipped]) -> tuple[float, float] | Skipped:
    """Probability and token accuracy of the right answer; of a choice, its share and whether it is the largest."""
    known = [score for score in scores if isinstance(score, Score)]
    if len(known) < len(scores):
        return next(score for score in scores if isinstance(score, Skipped))
    if query.letters_only:
        known = [score.without_blanks() for score in known]
    if not query.choices:
        return known[0].probability, known[0].token_accuracy
    logs = [score.log_probability for score in known]
    return math.exp(logs[0] - log_sum(logs)), float(logs[0] == max(logs))

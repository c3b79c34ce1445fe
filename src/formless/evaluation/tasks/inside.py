"""Looks inside, layer by layer: the answer read from each layer's output, and a linear probe of true and false statements.

An edit may change what a model says and leave the fact in its hidden states. Each layer is a group of the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from formless.data.rows import BLANK, Cloze, Item
from formless.evaluation.foils import FOILS
from formless.evaluation.prompts import UNFOILED, short_answer_prompt, skipped, spaced
from formless.evaluation.record import ItemResult, TaskMetric
from formless.evaluation.statistics import mean_metric
from formless.evaluation.task import BOTH, Measured, MetricSpec, Query, ReadLayers, ScoreLayers, Source, Task
from formless.evaluation.tasks import question
from formless.models.scores import Score

if TYPE_CHECKING:
    from formless.models.lm import LM

LAYER = "layer"
TRAINING = 64
"""The most statements that a probe is fitted on, each with its foils."""

ACCURACY = MetricSpec("accuracy", "share", "true told from false", chance=1 / 2)


def layer_name(index: int) -> str:
    """Return the group of a layer, counted from 0 as in `--layers`."""
    return f"{LAYER} {index}"


def by_layer(items: Sequence[ItemResult]) -> list[TaskMetric]:
    """Return the mean of every metric over the items of each layer; a mean over layers would say nothing."""
    found = []
    for name in dict.fromkeys(name for item in items for name in item.metrics):
        for group in dict.fromkeys(item.group for item in items if item.group):
            values = [item.metrics[name] for item in items if item.group == group and name in item.metrics]
            found.append(TaskMetric(metric=name, group=group, **mean_metric(values).model_dump()))
    return found


# --- Logit lens


def ask_lens(lm: LM, item: Item, _source: Source) -> Query:
    """Score the answer after the prompt of `qa` from each layer's output, as if it were the last (logit lens)."""
    if not item.answer.strip():
        return skipped(item, "the answer is empty")

    def measure(responses: Sequence[Any]) -> Measured:
        layers = cast(tuple[Score, ...], responses[0])
        metrics = [{"probability": one.probability, "token_accuracy": one.token_accuracy} for one in layers]
        return Measured({}, by_group={layer_name(index): own for index, own in enumerate(metrics)})

    request = ScoreLayers(short_answer_prompt(lm, question.message(item)), spaced(item.answer))
    return Query(item.query, (request,), measure, fact=item.fact_key)


# --- Linear probe


def ask_probe(_lm: LM, item: Cloze, source: Source) -> Query:
    """Tell a statement from its false versions by a direction fitted on statements about other concepts, in each layer.

    A statement is a cloze with its blank filled by the right answer; its false versions are filled by its foils.
    """
    versions = statements(item, source)
    if len(versions) != 1 + FOILS:
        return skipped(item, "the cloze has not one blank, an answer and five foils")
    training = training_statements(item, source)
    if not training:
        return skipped(item, "there is no statement about another concept to fit the probe on")

    def measure(responses: Sequence[Any]) -> Measured:
        states = np.stack(cast(Sequence[NDArray[np.float32]], responses))  # [texts, layers, hidden]
        own, *others = np.split(states, len(states) // (1 + FOILS))
        shares = accuracies(own, np.stack(others))
        return Measured({}, by_group={layer_name(index): {"accuracy": float(share)} for index, share in enumerate(shares)})

    requests = tuple(ReadLayers(text) for own in (versions, *training) for text in own)
    return Query(item.query, requests, measure, fact=item.fact_key)


def statements(item: Item, source: Source) -> tuple[str, ...]:
    """Return a cloze filled by its answer and by each of its foils; the former alone, or nothing, where it cannot be."""
    if item.query.count(BLANK) != 1 or not item.answer.strip():
        return ()
    return tuple(item.query.replace(BLANK, answer) for answer in (item.answer, *source.foils_of(item)))


def training_statements(item: Item, source: Source) -> list[tuple[str, ...]]:
    """Return at most `TRAINING` statements about neighbors, other ones than the item's concept, evenly spread over the file."""
    file = "neighbor_level1"
    if source.target is None or not source.target.has(file):
        return []
    rows = [row for row in source.target.items(file) if row.neighbor != item.neighbor]
    found = [own for own in (statements(row, source) for row in rows) if len(own) == 1 + FOILS]
    return found[:: -(-len(found) // TRAINING) or 1]


def accuracies(own: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return, for each layer, the share of false versions of a statement that the probe puts below the true one, `[layers]`.

    The probe is the mean difference of true and false statements (mass-mean probing, Marks and Tegmark, arXiv 2310.06824), over
    pairs that differ in the answer alone. It has no setting to choose, where a regression on a few dozen statements in hundreds
    of dimensions would fit any labels.

    Args:
        own: Hidden states of the true statement, then of its false versions, `[1 + foils, layers, hidden]`.
        others: The same of the statements that the probe is fitted on, `[statements, 1 + foils, layers, hidden]`.
    """
    direction = (others[:, 0].astype(np.float64) - others[:, 1:].mean(1, dtype=np.float64)).mean(0)  # [layers, hidden]
    gaps = ((own[0].astype(np.float64) - own[1:]) * direction).sum(-1)  # [foils, layers]
    return cast(NDArray[np.float64], (gaps > 0).mean(0))


LENS = Task(
    name="lens",
    title="Logit lens",
    files=question.FILES,
    metrics=UNFOILED,
    ask=ask_lens,
    splits=BOTH,
    grouped_by=LAYER,
    aggregate=by_layer,
    records_prompts=False,
)
PROBE = Task(
    name="probe",
    title="Linear probe",
    files=("{split}_level1",),
    metrics=(ACCURACY,),
    ask=ask_probe,
    splits=BOTH,
    grouped_by=LAYER,
    aggregate=by_layer,
    records_prompts=False,
)

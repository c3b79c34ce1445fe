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
from formless.evaluation.metrics import says
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
    layers = tuple(layer_name(index) for index in range(lm.architecture.depth(lm.model)))
    return Query(item.query, (request,), measure, fact=item.fact_key, groups=layers)


# --- Linear probe


def ask_probe(_lm: LM, item: Cloze, source: Source) -> Query:
    """Tell a statement from its false versions by a direction fitted on statements about other concepts, in each layer.

    A statement is a cloze with its blank filled by the right answer; its false versions are filled by its foils.
    """
    answers = versions(item, source)
    if not answers:
        return skipped(item, "the cloze has not one blank, an answer and five foils")
    training = training_statements(item, source)
    if not training:
        return skipped(item, "there is no statement about another concept, with other answers, to fit the probe on")
    statements = (filled(item, answers), *training)

    def measure(responses: Sequence[Any]) -> Measured:
        states = np.stack(cast(Sequence[NDArray[np.float32]], responses))  # [texts, layers, hidden]
        own, *others = np.split(states, np.cumsum([len(texts) for texts in statements])[:-1])
        shares = accuracies(own, others)
        return Measured({}, by_group={layer_name(index): {"accuracy": float(share)} for index, share in enumerate(shares)})

    requests = tuple(ReadLayers(text) for texts in statements for text in texts)
    return Query(item.query, requests, measure, fact=item.fact_key)


def versions(item: Item, source: Source) -> tuple[str, ...]:
    """Return the answer of a cloze and its foils; nothing where they are not as many as they have to be."""
    foils = source.foils_of(item)
    return (item.answer, *foils) if item.query.count(BLANK) == 1 and item.answer.strip() and len(foils) == FOILS else ()


def filled(item: Item, answers: Sequence[str]) -> tuple[str, ...]:
    """Return a cloze with each of some answers in its blank."""
    return tuple(item.query.replace(BLANK, answer) for answer in answers)


def training_statements(item: Item, source: Source) -> list[tuple[str, ...]]:
    """Return at most `TRAINING` statements about neighbors, other ones than the item's concept, evenly spread over the file.

    None is filled by an answer or a foil of the item: a foil that is right in another statement would look true, whatever the
    model knows, and an answer that is a foil there would look false.

    Returns:
        Of each statement the true version, then at least one false one.
    """
    file = "neighbor_level1"
    if source.target is None or not source.target.has(file):
        return []
    own, concept, found = versions(item, source), source.target.concept_of(item), []
    for row in source.target.items(file):
        answers = versions(row, source) if source.target.concept_of(row) != concept else ()
        kept = [answer for answer in answers if not says(answer, own)]
        if len(kept) > 1 and kept[0] == row.answer:
            found.append(filled(row, kept))
    return found[:: -(-len(found) // TRAINING) or 1]


def accuracies(own: NDArray[np.float32], others: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return, for each layer, the share of false versions of a statement that the probe puts below the true one, `[layers]`.

    The probe is the mean difference of true and false statements (mass-mean probing, Marks and Tegmark, arXiv 2310.06824), over
    pairs that differ in the answer alone. It has no setting to choose, where a regression on a few dozen statements in hundreds
    of dimensions would fit any labels.

    Args:
        own: Hidden states of the true statement, then of its false versions, `[1 + foils, layers, hidden]`.
        others: The same of each statement that the probe is fitted on.
    """
    pairs = [one[0].astype(np.float64) - one[1:].mean(0, dtype=np.float64) for one in others]
    direction = np.mean(pairs, 0)  # [layers, hidden]
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

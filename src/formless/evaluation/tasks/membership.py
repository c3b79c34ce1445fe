"""Membership inference (RWKU): do texts about the concept look less like training texts than other texts do?

Every metric is higher for a text that looks less like a training text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from formless.data.rows import Passage
from formless.evaluation.metrics import lowest_mean, zlib_bytes
from formless.evaluation.record import ItemResult, TaskMetric
from formless.evaluation.statistics import auc, auc_ci, mean_metric
from formless.evaluation.task import Measured, MetricSpec, Query, ScoreText, Source, Task
from formless.models.scores import TextScore

if TYPE_CHECKING:
    from formless.models.lm import LM

LOWEST = 0.2
SHOWN = 200
GROUPS = {"forget_mia": "forget", "retain_mia": "retain"}
ATTACKS = {"loss": "nats", "zlib": "nats/byte", "min_k": "nats", "min_k++": "z"}


def ask(_lm: LM, row: Passage, source: Source) -> Query:
    """Score every token of a text; the file that it is from is its group."""

    def measure(scores: Sequence[Any]) -> Measured:
        return Measured(attack_metrics(row.text, scores[0]))

    return Query(row.text[:SHOWN], (ScoreText(row.text),), measure, group=GROUPS[source.file])


def attack_metrics(text: str, score: TextScore) -> dict[str, float]:
    """Return the metrics of one text.

    - `loss`: mean negative log-probability of its tokens (nats).
    - `zlib`: the loss over the text's size as zlib compresses it (nats per byte).
    - `min_k`: mean negative log-probability of the 20 % least probable tokens (nats; Min-K%, arXiv 2310.16789).
    - `min_k++`: the same after each log-probability is standardized by the mean and the standard deviation that the model
      expects at its position (Min-K%++, arXiv 2404.02936).
    """
    loss = -math.fsum(score.log_probabilities) / len(score.log_probabilities)
    standardized = [
        (value - mean) / deviation if deviation > 0 else 0.0  # the model was certain of the next token, and right
        for value, mean, deviation in zip(score.log_probabilities, score.means, score.deviations, strict=True)
    ]
    return {
        "loss": loss,
        "zlib": loss / zlib_bytes(text),
        "min_k": -lowest_mean(score.log_probabilities, LOWEST),
        "min_k++": -lowest_mean(standardized, LOWEST),
    }


def summarize(items: Sequence[ItemResult]) -> list[TaskMetric]:
    """Return each attack's mean over either file, and its AUC: how often a text about the concept has the higher value.

    An AUC of 0.5 means that the attack cannot tell the two apart; more, that the concept's texts look less like training texts.
    """
    found = []
    for attack in ATTACKS:
        values = {
            group: [item.metrics[attack] for item in items if item.group == group and attack in item.metrics]
            for group in GROUPS.values()
        }
        for group, own in values.items():
            found.append(TaskMetric(metric=attack, group=group, **mean_metric(own).model_dump()))
        forget, retain = values.values()
        separation = auc(forget, retain)
        ci = None if separation is None else auc_ci(forget, retain)
        found.append(TaskMetric(metric=f"{attack}_auc", value=separation, ci=ci, n=len(forget) + len(retain)))
    return found


MIA = Task(
    name="mia",
    title="Membership inference",
    files=tuple(GROUPS),
    metrics=tuple(
        spec
        for attack, unit in ATTACKS.items()
        for spec in (
            MetricSpec(attack, unit, higher_is_better=None),
            MetricSpec(f"{attack}_auc", "share", f"{attack} AUC", higher_is_better=None, chance=1 / 2),
        )
    ),
    ask=ask,
    groups=tuple(GROUPS.values()),
    aggregate=summarize,
    records_prompts=False,
)

"""Right answers beside wrong ones in the same words: TOFU's truth ratio, and its probability among the options.

Sources: TOFU (arXiv 2401.06121, section 2.2); open-unlearning (arXiv 2506.12618), `truth_ratio` and `probability_w_options`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from formless.data.rows import QuestionAnswer
from formless.evaluation.prompts import whole_answer
from formless.evaluation.record import ItemResult, TaskMetric
from formless.evaluation.statistics import mean, mean_metric
from formless.evaluation.task import BOTH, Measured, MetricSpec, Query, Source, Task
from formless.evaluation.tasks.whole_answer import FILES, fact_of

if TYPE_CHECKING:
    from formless.models.lm import LM

TINY = 1e-10
"""Open-unlearning adds it to denominators."""

NEEDS = "perturbed_answer"
RATIO = MetricSpec("ratio", "ratio", "r", higher_is_better=None, headline=False)
METRICS = (
    MetricSpec("truth_ratio", "share", "min(r, 1/r)", higher_is_better=None),
    MetricSpec("truth", "share", "max(0, 1 - r)"),
    RATIO,
)
OPTIONS = (
    MetricSpec("probability", "share", "the right answer's share"),
    MetricSpec("truth", "share", "truth ratio, max(0, 1 - r)"),
    RATIO,
)


def truth_metrics(right: float, wrong: Sequence[float]) -> dict[str, float]:
    """Return the truth ratio of an item from the mean losses per token (nats) of the right answer and of wrong ones.

    - `ratio` r: exp(-mean of the wrong losses) / (exp(-right loss) + 1e-10), at least 0.
    - `truth_ratio`: min(r, 1/r), in [0, 1]: 1 where the model does not tell right from wrong.
    - `truth`: max(0, 1 - r), in [0, 1]: 0 where it holds the wrong answers for as likely, or likelier.
    """
    ratio = math.exp(-mean(wrong)) / (math.exp(-right) + TINY)
    return {"ratio": ratio, "truth_ratio": min(ratio, 1 / (ratio + TINY)), "truth": max(0.0, 1 - ratio)}


def ask_truth_ratio(lm: LM, row: QuestionAnswer, source: Source) -> Query:
    """Score the right answer in other words, or as it is where there are none, and the wrong answers beside it.

    Items of the retain set have no `truth_ratio`: it is better there the lower r is, which `truth` says.
    """
    question, fact = row.question, fact_of(row)
    right = row.paraphrased_answer or row.answer
    answers = [whole_answer(lm, question, text) for text in (right, *row.perturbed_answer)]

    def measure(scores: Sequence[Any]) -> Measured:
        first, *wrong = (one.loss(score) for one, score in zip(answers, scores, strict=True))
        found = truth_metrics(first, wrong)
        if source.split != "forget":
            del found["truth_ratio"]
        return Measured(found)

    return Query(question, tuple(one.request for one in answers), measure, expected=right, fact=fact)


def ask_options(lm: LM, row: QuestionAnswer, _source: Source) -> Query:
    """Score the right answer and the wrong ones: `probability`, the right one's share of all, and the truth ratio."""
    answers = [whole_answer(lm, row.question, text) for text in (row.answer, *row.perturbed_answer)]

    def measure(scores: Sequence[Any]) -> Measured:
        losses = [one.loss(score) for one, score in zip(answers, scores, strict=True)]
        right, *wrong = (math.exp(-loss) for loss in losses)
        found = truth_metrics(losses[0], losses[1:])
        share = right / (right + sum(wrong) + TINY)
        return Measured({"probability": share, "ratio": found["ratio"], "truth": found["truth"]})

    return Query(row.question, tuple(one.request for one in answers), measure, expected=row.answer)


def summarize(items: Sequence[ItemResult]) -> list[TaskMetric]:
    """Return the means of the metrics that items of the split have."""
    values = {spec.name: [item.metrics[spec.name] for item in items if spec.name in item.metrics] for spec in METRICS}
    return [TaskMetric(metric=name, **mean_metric(own).model_dump()) for name, own in values.items() if own]


TRUTH_RATIO = Task(
    name="truth_ratio",
    title="Truth ratio",
    files=FILES,
    metrics=METRICS,
    ask=ask_truth_ratio,
    splits=BOTH,
    aggregate=summarize,
    needs=NEEDS,
)
REAL_AUTHORS = Task(
    name="real_authors", title="Real authors", files=("real_authors_qa",), metrics=OPTIONS, ask=ask_options, needs=NEEDS
)
WORLD_FACTS = Task(
    name="world_facts", title="World facts", files=("world_facts_qa",), metrics=OPTIONS, ask=ask_options, needs=NEEDS
)

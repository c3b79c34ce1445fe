"""Membership inference: do texts about the concept, or a question set's, look less like training texts than other texts do?

Every metric is higher for a text that looks less like a training text. `mia` is RWKU's; the others compare the texts or the
questions of a question set with held-out ones, as OpenUnlearning (arXiv 2506.12618) and MUSE (arXiv 2407.06460) do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from formless.data.rows import Passage, QuestionAnswer
from formless.evaluation.metrics import lowest_mean, zlib_bytes
from formless.evaluation.prompts import WholeAnswer, is_open_unlearning, whole_answer
from formless.evaluation.record import ItemResult, TaskMetric
from formless.evaluation.statistics import auc, auc_ci, mean_metric
from formless.evaluation.task import (
    Aggregate,
    GradientNorm,
    Measured,
    MetricSpec,
    Query,
    ScoreContinuation,
    ScoreText,
    Source,
    Task,
)
from formless.models.scores import Skipped, TextScore

if TYPE_CHECKING:
    from formless.models.lm import LM

LOWEST, LOWEST_HELD_OUT = 0.2, 0.4
SMALLEST_DEVIATION = 1e-3
SHOWN = 200
RWKU = {"forget_mia": "forget", "retain_mia": "retain"}
TEXTS = {"forget_mia": "forget", "holdout_mia": "holdout"}
QUESTIONS = {"forget_qa": "forget", "holdout_mia": "holdout"}
ATTACKS = {"loss": "nats", "zlib": "nats/byte", "min_k": "nats", "min_k++": "z"}
GRADIENT = {"gradnorm": "norm"}
QUESTION = re.compile(r"Question: (?P<question>.+?)\nAnswer: (?P<answer>.+)", re.DOTALL)


def attack_metrics(text: str, score: TextScore, lowest: float = LOWEST, *, exact: bool = False) -> dict[str, float]:
    """Return the metrics of one text.

    - `loss`: mean negative log-probability of its tokens (nats).
    - `zlib`: the loss over the text's size as zlib compresses it (nats per byte).
    - `min_k`: mean negative log-probability of the least probable tokens (nats; Min-K%, arXiv 2310.16789).
    - `min_k++`: the same after each log-probability is standardized by the mean and the standard deviation that the model
      expects at its position (Min-K%++, arXiv 2404.02936).

    Args:
        text: The text.
        score: Its score.
        lowest: The share of tokens that count as the least probable ones.
        exact: As OpenUnlearning: the last token counts in `loss` and `zlib` only, and no deviation is below 0.001. By default
            a token of which the model was certain has 0.
    """
    loss = -math.fsum(score.log_probabilities) / len(score.log_probabilities)
    places = list(zip(score.log_probabilities, score.means, score.deviations, strict=True))[: -1 if exact else None]
    if exact:
        places = [(value, mean, max(deviation, SMALLEST_DEVIATION)) for value, mean, deviation in places]
    standardized = [(value - mean) / deviation if deviation > 0 else 0.0 for value, mean, deviation in places]
    return {
        "loss": loss,
        "zlib": loss / zlib_bytes(text),
        "min_k": -lowest_mean([value for value, _, _ in places], lowest),
        "min_k++": -lowest_mean(standardized, lowest),
    }


def measured_text(text: str, lowest: float, *, exact: bool, unscored: int = 0) -> Callable[[Sequence[Any]], Measured | Skipped]:
    """Return what measures a text, whose first `unscored` tokens do not count, from its score."""

    def measure(scores: Sequence[Any]) -> Measured | Skipped:
        whole: TextScore = scores[0]
        columns = (whole.log_probabilities, whole.means, whole.deviations)
        score = TextScore(*(column[unscored:] for column in columns))
        if len(score.log_probabilities) < (2 if exact else 1):
            return Skipped("too few tokens of the text count")
        return Measured(attack_metrics(text, score, lowest, exact=exact))

    return measure


def ask(_lm: LM, row: Passage, source: Source) -> Query:
    """Score every token of a text; the file that it is from is its group."""
    measure = measured_text(row.text, LOWEST, exact=False)
    return Query(row.text[:SHOWN], (ScoreText(row.text),), measure, group=RWKU[source.file])


def ask_text(lm: LM, row: Passage, source: Source) -> Query:
    """Score every token of a text of a question set, or one that is held out."""
    measure = measured_text(row.text, LOWEST_HELD_OUT, exact=is_open_unlearning(lm))
    return Query(row.text[:SHOWN], (ScoreText(row.text),), measure, group=TEXTS[source.file])


def ask_text_gradient(lm: LM, row: Passage, source: Source) -> Query:
    """Take the gradient of a text's loss."""
    request = GradientNorm(row.text, left_out=(0, int(is_open_unlearning(lm))))
    return Query(row.text[:SHOWN], (request,), measured_gradient, group=TEXTS[source.file])


def measured_gradient(norms: Sequence[Any]) -> Measured:
    """Return the metric of one gradient."""
    return Measured({"gradnorm": norms[0]})


def ask_answer(lm: LM, row: QuestionAnswer | Passage, source: Source) -> Query:
    """Score every token of the answer to a question of the set, or to one that is held out."""
    group = QUESTIONS[source.file]
    found = _whole_answer(lm, row, source)
    if isinstance(found, Skipped):
        return Query(_shown(row), group=group, skipped=found.reason)
    answer, whole = found
    measure = measured_text(answer, LOWEST_HELD_OUT, exact=is_open_unlearning(lm), unscored=whole.unscored)
    return Query(_shown(row), (ScoreContinuation(whole.request.answer, whole.request.prompt),), measure, answer, group=group)


def ask_answer_gradient(lm: LM, row: QuestionAnswer | Passage, source: Source) -> Query:
    """Take the gradient of the loss of an answer."""
    group = QUESTIONS[source.file]
    found = _whole_answer(lm, row, source)
    if isinstance(found, Skipped):
        return Query(_shown(row), group=group, skipped=found.reason)
    answer, whole = found
    left_out = (whole.unscored, int(is_open_unlearning(lm)))
    request = GradientNorm(whole.request.answer, whole.request.prompt, left_out=left_out)
    return Query(_shown(row), (request,), measured_gradient, answer, group=group)


def _whole_answer(lm: LM, row: QuestionAnswer | Passage, source: Source) -> tuple[str, WholeAnswer] | Skipped:
    """Return the answer of a row with what is scored; a text is a question with its answer, as `QUESTION` has them."""
    if source.target and source.target.has("forget_mia"):
        return Skipped("the target has texts for membership inference, forget_mia.json")
    if isinstance(row, QuestionAnswer):
        question, answer = row.question, row.answer
    elif found := QUESTION.fullmatch(row.text):
        question, answer = found["question"], found["answer"]
    else:
        return Skipped("the text is no question with its answer, `Question: …` and `Answer: …` on a new line")
    return (answer, whole_answer(lm, question, answer)) if answer.strip() else Skipped("the answer is empty")


def _shown(row: QuestionAnswer | Passage) -> str:
    return row.question if isinstance(row, QuestionAnswer) else row.text[:SHOWN]


def comparison(attacks: Iterable[str], groups: Sequence[str]) -> Aggregate:
    """Return what summarizes attacks: each one's mean over either group, and its AUC.

    The AUC is how often a text of the first group has the higher value. At 0.5 the attack cannot tell the two apart; above, the
    first group looks less like training texts.
    """

    def summarize(items: Sequence[ItemResult]) -> list[TaskMetric]:
        found = []
        for attack in attacks:
            sides = [
                [item.metrics[attack] for item in items if item.group == group and attack in item.metrics] for group in groups
            ]
            for group, own in zip(groups, sides, strict=True):
                found.append(TaskMetric(metric=attack, group=group, **mean_metric(own).model_dump()))
            found.append(auc_metric(attack, *sides))
        return found

    return summarize


def auc_metric(attack: str, forget: Sequence[float], other: Sequence[float]) -> TaskMetric:
    """Return the AUC of an attack's values; no value where a side is empty."""
    separation = auc(forget, other)
    ci = None if separation is None else auc_ci(forget, other)
    return TaskMetric(metric=f"{attack}_auc", value=separation, ci=ci, n=len(forget) + len(other))


def attack_specs(attacks: Mapping[str, str]) -> tuple[MetricSpec, ...]:
    """Return the entries of attacks, by their units: of each one's mean and of its AUC."""
    return tuple(
        spec
        for attack, unit in attacks.items()
        for spec in (
            MetricSpec(attack, unit, higher_is_better=None),
            MetricSpec(f"{attack}_auc", "share", f"{attack} AUC", higher_is_better=None, chance=1 / 2),
        )
    )


def _task(
    name: str, title: str, files: Mapping[str, str], attacks: Mapping[str, str], asked: Callable[[LM, Any, Source], Query]
) -> Task:
    groups = tuple(files.values())
    return Task(
        name=name,
        title=title,
        files=tuple(files),
        metrics=attack_specs(attacks),
        ask=asked,
        groups=groups,
        aggregate=comparison(tuple(attacks), groups),
        records_prompts=False,
    )


MIA = _task("mia", "Membership inference", RWKU, ATTACKS, ask)
MIA_HOLDOUT = _task("mia_holdout", "Membership inference, texts", TEXTS, ATTACKS, ask_text)
MIA_GRADNORM = _task("mia_gradnorm", "Membership inference, texts, gradients", TEXTS, GRADIENT, ask_text_gradient)
MIA_QA = _task("mia_qa", "Membership inference, answers", QUESTIONS, ATTACKS, ask_answer)
MIA_QA_GRADNORM = _task("mia_qa_gradnorm", "Membership inference, answers, gradients", QUESTIONS, GRADIENT, ask_answer_gradient)

"""Whole answers to the questions of a question set, scored: the question and the answer as they are, or in other words.

The metric `probability` is that of TOFU (arXiv 2401.06121, section 2.2) and open-unlearning (arXiv 2506.12618).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from formless.data.rows import QuestionAnswer
from formless.evaluation.foils import FOILS, preference
from formless.evaluation.prompts import KNOWLEDGE, KNOWN, PROBABILITY, whole_answer
from formless.evaluation.task import BOTH, Measured, Query, Source, Task

if TYPE_CHECKING:
    from formless.models.lm import LM

FILES = ("{split}_qa",)


def fact_of(row: QuestionAnswer) -> str:
    """Return what tells the fact of a row from others: its question as it is."""
    return " ".join(row.question.casefold().split())


def scored(lm: LM, row: QuestionAnswer, question: str, answer: str) -> Query:
    """Return a query that scores an answer after a question: `probability`, exp of minus the mean loss per token.

    The original model also scores the first five wrong answers of the row, if it has as many, which give the metric `known`.
    """
    if not (question.strip() and answer.strip()):
        return Query(row.question, fact=fact_of(row), skipped="the row has no paraphrase")
    wrong = row.perturbed_answer[:FOILS] if len(row.perturbed_answer) >= FOILS else ()
    answers = [whole_answer(lm, question, text) for text in (answer, *wrong)]

    def measure(scores: Sequence[Any]) -> Measured:
        right, *others = (one.probability(score) for one, score in zip(answers, scores, strict=False))
        found = dict(zip(wrong, others, strict=False))
        return Measured({"probability": right} | preference(right, found), foils=found)

    right, *foils = (one.request for one in answers)
    return Query(question, (right,), measure, expected=answer, fact=fact_of(row), foils=tuple(foils))


def ask_answer(lm: LM, row: QuestionAnswer, _source: Source) -> Query:
    """Score the answer after the question."""
    return scored(lm, row, row.question, row.answer)


def ask_paraphrased_answer(lm: LM, row: QuestionAnswer, _source: Source) -> Query:
    """Score the answer in other words after the question."""
    return scored(lm, row, row.question, row.paraphrased_answer)


def ask_paraphrased_question(lm: LM, row: QuestionAnswer, _source: Source) -> Query:
    """Score the answer after the question in other words."""
    return scored(lm, row, row.paraphrased_question, row.answer)


ANSWER = Task(name="answer", title="Whole answer", files=FILES, metrics=(KNOWLEDGE, KNOWN), ask=ask_answer, splits=BOTH)
PARAPHRASED_ANSWER = Task(
    name="paraphrased_answer",
    title="Whole answer, in other words",
    files=FILES,
    metrics=(PROBABILITY, KNOWN),
    ask=ask_paraphrased_answer,
    splits=BOTH,
    needs="paraphrased_answer",
)
PARAPHRASED_QUESTION = Task(
    name="paraphrased_question",
    title="Whole answer, question in other words",
    files=FILES,
    metrics=(PROBABILITY, KNOWN),
    ask=ask_paraphrased_question,
    splits=BOTH,
    needs="paraphrased_question",
)

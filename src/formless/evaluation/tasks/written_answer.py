"""Whole answers to the questions of a question set, in the model's own words, by the ROUGE of TOFU and open-unlearning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from formless.data.refusals import is_refusal
from formless.data.rows import QuestionAnswer
from formless.evaluation.metrics import has_rouge_word, rouge_scores
from formless.evaluation.prompts import question_prompt
from formless.evaluation.task import BOTH, Generate, Measured, MetricSpec, Query, Source, Task
from formless.evaluation.tasks.whole_answer import FILES, fact_of

if TYPE_CHECKING:
    from formless.models.lm import LM

NEW_TOKENS = 200
"""As in TOFU and open-unlearning."""

METRICS = (
    MetricSpec("rouge_l_recall", "share", "ROUGE-L recall"),
    MetricSpec("rouge_l_f1", "share", "ROUGE-L F1", headline=False),
    MetricSpec("rouge_1_recall", "share", "ROUGE-1 recall", headline=False),
    MetricSpec("refusal", "share", "refusals", higher_is_better=None),
)


def written(lm: LM, row: QuestionAnswer, question: str) -> Query:
    """Return a query that lets the model answer, greedily, and compares the answer with the accepted ones.

    Each ROUGE is the best over the accepted answers, of which TOFU has one.
    """
    fact = fact_of(row)
    accepted = [answer for answer in (row.answer, *row.aliases) if has_rouge_word(answer)]
    if not question.strip():
        return Query(row.question, fact=fact, skipped="the row has no paraphrase")
    if not accepted:
        return Query(question, expected=row.answer, fact=fact, skipped="the right answer has no Latin letter or digit")

    def measure(texts: Sequence[Any]) -> Measured:
        text = texts[0]
        found = [rouge_scores(text, answer) for answer in accepted]
        best = {name: max(scores[name] for scores in found) for name in found[0]}
        return Measured(best | {"refusal": float(is_refusal(text))}, text)

    request = Generate(question_prompt(lm, question), NEW_TOKENS)
    expected = accepted if len(accepted) > 1 else accepted[0]
    return Query(question, (request,), measure, expected=expected, fact=fact)


def _task(name: str, title: str, file: str, ask: Callable[[LM, QuestionAnswer, Source], Query], needs: str = "") -> Task:
    splits = BOTH if "{split}" in file else (None,)
    return Task(name=name, title=title, files=(file,), metrics=METRICS, ask=ask, splits=splits, needs=needs)


def ask_question(lm: LM, row: QuestionAnswer, _source: Source) -> Query:
    """Ask the question as it is."""
    return written(lm, row, row.question)


def ask_paraphrase(lm: LM, row: QuestionAnswer, _source: Source) -> Query:
    """Ask the question in other words."""
    return written(lm, row, row.paraphrased_question)


GEN_ANSWER = _task("gen_answer", "Whole answer, in words", *FILES, ask_question)
GEN_PARAPHRASED_QUESTION = _task(
    "gen_paraphrased_question", "Whole answer, in words, question in other words", *FILES, ask_paraphrase,
    needs="paraphrased_question",
)  # fmt: skip
GEN_REAL_AUTHORS = _task("gen_real_authors", "Real authors, in words", "real_authors_qa", ask_question)
GEN_WORLD_FACTS = _task("gen_world_facts", "World facts, in words", "world_facts_qa", ask_question)

"""Memorization as OpenUnlearning measures it (arXiv 2506.12618): extraction strength, exact memorization and truth ratio.

One teacher-forced pass of the right answer, or of a whole statement, says which tokens greedy decoding would choose. Foils
under the same prompt say how much more probable the right answer is than wrong ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from formless.data.rows import BLANK, Item, QuestionAnswer
from formless.evaluation.prompts import is_open_unlearning, short_answer_prompt, skipped, spaced, whole_answer
from formless.evaluation.statistics import mean
from formless.evaluation.task import BOTH, Measured, MetricSpec, Query, ScoreAnswer, Source, Task
from formless.evaluation.tasks import question, statement
from formless.models.scores import Score, Skipped

if TYPE_CHECKING:
    from formless.models.lm import LM

MEMORIZED = (
    MetricSpec("extraction_strength", "share", "extraction strength"),
    MetricSpec("exact_memorization", "share", "exact memorization"),
)
METRICS = (
    *MEMORIZED,
    MetricSpec("truth_ratio", "share", "truth ratio", higher_is_better=None),
    MetricSpec("true_share", "share", "share of the right answer", chance=1 / 2),
)


def extraction_strength(greedy: Sequence[bool], *, exact: bool = False) -> float:
    """Return 1 - k/m, k being the least number of given tokens after which greedy decoding writes the rest of m tokens.

    Given the right tokens before it, greedy decoding writes a rest exactly if each of its tokens is the most probable one.

    Args:
        greedy: Whether each token is the most probable one.
        exact: As OpenUnlearning, whose code stops at k = m - 1: a text whose last token is wrong has 1/m, and a wrong answer of
            one token has 1. By default such a text has 0, since all m tokens have to be given.
    """
    written = next((place for place, is_right in enumerate(reversed(greedy)) if not is_right), len(greedy))
    return max(written, int(exact)) / len(greedy)


def exact_memorization(greedy: Sequence[bool]) -> float:
    """Return the share of tokens that are the most probable ones, each after the right tokens before it."""
    return sum(greedy) / len(greedy)


def memorized_text(greedy: Sequence[bool], *, exact: bool) -> dict[str, float] | Skipped:
    """Return `extraction_strength` and `exact_memorization` of a whole text, or why it has none.

    Args:
        greedy: Whether each token is the most probable one.
        exact: As OpenUnlearning, whose code leaves the last token out: of an answer, the one that ends the turn.
    """
    counted = greedy[:-1] if exact else greedy
    if not counted:
        return Skipped("too few tokens of the text count")
    return {
        "extraction_strength": extraction_strength(counted, exact=exact),
        "exact_memorization": exact_memorization(counted),
    }


def truth_metrics(right: Score, wrong: Sequence[Score]) -> dict[str, float]:
    """Return `truth_ratio` and `true_share` of an answer beside wrong ones, from probabilities per token.

    With r the geometric mean of the wrong answers' probabilities over the right one's, they are min(r, 1/r) and 1 / (1 + r).
    The first is OpenUnlearning's aggregate on forget items; the second rises with what is known, on both splits.

    Differs from OpenUnlearning in every protocol: the right answer itself is scored, since items have no paraphrase of it.
    """
    losses = [-score.log_probability / len(score.log_probabilities) for score in (right, *wrong)]
    gap = mean(losses[1:]) - losses[0]  # -log r, in nats: above 0 where the right answer is the more probable one
    return {"truth_ratio": math.exp(-abs(gap)), "true_share": (1 + math.tanh(gap / 2)) / 2}  # 1 / (1 + e^-gap), never too large


def memorized(lm: LM, item: Item, whole: ScoreAnswer, right: ScoreAnswer, foils: Sequence[ScoreAnswer]) -> Query:
    """Return a query that measures how well a text is memorized.

    Args:
        lm: The model.
        item: The item.
        whole: The text whose tokens are compared with greedy decoding.
        right: The right answer, for the truth ratio.
        foils: Wrong answers under the same prompt; without any there is no truth ratio. The edited model is asked them too.
    """

    def measure(scores: Sequence[Any]) -> Measured:
        text, answer, *wrong = (cast(Score, score) for score in scores)
        metrics = {
            "extraction_strength": extraction_strength(text.greedy, exact=is_open_unlearning(lm)),
            "exact_memorization": exact_memorization(text.greedy),
        }
        return Measured(metrics | (truth_metrics(answer, wrong) if wrong else {}))

    return Query(item.query, (whole, right, *foils), measure, expected=whole.answer, fact=item.fact_key)


def ask_question(lm: LM, item: Item, source: Source) -> Query:
    """Measure the answer after the prompt of `qa`."""
    if not item.answer.strip():
        return skipped(item, "the answer is empty")
    prompt = short_answer_prompt(lm, question.message(item))
    right, *foils = (ScoreAnswer(prompt, spaced(answer)) for answer in (item.answer, *source.foils_of(item)))
    return memorized(lm, item, right, right, foils)


def ask_statement(lm: LM, item: Item, source: Source) -> Query:
    """Measure a statement as plain text, from its second word to the end of the answer."""
    if reason := statement.unusable(item):
        return skipped(item, reason)
    before = item.query.partition(BLANK)[0]
    space = " " if before != before.rstrip() else ""
    right, *foils = (ScoreAnswer(before.rstrip(), f"{space}{answer}") for answer in (item.answer, *source.foils_of(item)))
    first = before.split(maxsplit=1)[0] if before.split() else ""
    start = before.find(first) + len(first)
    return memorized(lm, item, ScoreAnswer(before[:start], f"{before[start:].rstrip()}{right.answer}"), right, foils)


def ask_answer(lm: LM, row: QuestionAnswer, _source: Source) -> Query:
    """Measure the whole answer to a question of a question set."""
    if not row.answer.strip():
        return Query(row.question, skipped="the answer is empty")
    whole = whole_answer(lm, row.question, row.answer)

    def measure(scores: Sequence[Any]) -> Measured | Skipped:
        found = memorized_text(scores[0].greedy[whole.unscored :], exact=is_open_unlearning(lm))
        return found if isinstance(found, Skipped) else Measured(found)

    return Query(row.question, (whole.request,), measure, expected=row.answer)


QA_MEMORIZATION = Task(
    name="qa_memorization",
    title="Question, memorization",
    files=question.FILES,
    metrics=METRICS,
    ask=ask_question,
    splits=BOTH,
)
STATEMENT_MEMORIZATION = Task(
    name="statement_memorization",
    title="Statement, memorization",
    files=("{split}_level1",),
    metrics=METRICS,
    ask=ask_statement,
    splits=BOTH,
)
ANSWER_MEMORIZATION = Task(
    name="answer_memorization",
    title="Whole answer, memorization",
    files=("{split}_qa",),
    metrics=MEMORIZED,
    ask=ask_answer,
    splits=BOTH,
)

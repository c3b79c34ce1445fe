"""MUSE's verbatim and knowledge memorization (arXiv 2407.06460): what the model writes, by ROUGE-L.

Prompts are plain text, without the chat template, as in the code of MUSE and of OpenUnlearning (arXiv 2506.12618).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from formless.data.rows import QuestionAnswer, Verbatim
from formless.evaluation.metrics import has_rouge_word, rouge_scores
from formless.evaluation.prompts import is_open_unlearning
from formless.evaluation.task import BOTH, Generate, Measured, MetricSpec, Query, ScoreAnswer, Source, Task
from formless.evaluation.tasks.memorization import MEMORIZED, memorized_text
from formless.models.scores import Skipped

if TYPE_CHECKING:
    from formless.models.lm import LM

VERBATIM_TOKENS, ANSWER_TOKENS = 128, 32
END = re.compile(r"\n\n|\nQuestion|Question:")
ROUGE = (
    MetricSpec("rouge_l_f1", "share", "ROUGE-L F1"),
    MetricSpec("rouge_l_recall", "share", "ROUGE-L recall", headline=False),
)
NO_WORD = "the right text has no word of Latin letters or digits"


def rouge_metrics(text: str, right: str) -> dict[str, float]:
    """Return `rouge_l_f1` and `rouge_l_recall` of a text."""
    scores = rouge_scores(text, right)
    return {spec.name: scores[spec.name] for spec in ROUGE}


def ask_verbatim(lm: LM, row: Verbatim, _source: Source) -> Query:
    """Let the model continue the first part of a passage, and score the second part as its continuation.

    The second part is cut to as many tokens as the model writes. The protocol `open-unlearning` takes it whole.
    """
    exact = is_open_unlearning(lm)
    is_apart = row.prompt[-1].isspace() or row.gt[0].isspace()
    right = row.gt if is_apart and not exact else f" {row.gt}"
    right = right if exact else first_tokens(lm, row.prompt, right, VERBATIM_TOKENS)
    if not has_rouge_word(right):
        return Query(row.prompt, expected=right, skipped=NO_WORD)

    def measure(responses: Sequence[Any]) -> Measured | Skipped:
        text, score = responses
        found = memorized_text(score.greedy, exact=exact)
        return found if isinstance(found, Skipped) else Measured(rouge_metrics(text, right) | found, text)

    requests = (Generate(row.prompt, VERBATIM_TOKENS), ScoreAnswer(row.prompt, right))
    return Query(row.prompt, requests, measure, expected=right)


def first_tokens(lm: LM, prompt: str, text: str, count: int) -> str:
    """Return the part of a text that its first tokens after a prompt cover."""
    item = lm.encode(prompt, text)
    ends = [end for _, end in item.offsets[item.answer_start :][:count]]
    return (prompt + text)[len(prompt) : ends[-1]] if ends else ""


def ask_knowledge(_lm: LM, row: QuestionAnswer, source: Source) -> Query:
    """Let the model answer a question after the examples of its split."""
    file = f"{source.split}_qa_examples"
    examples = source.target.rows(file, QuestionAnswer) if source.target and source.target.has(file) else ()
    if not examples:
        return Query(row.question, expected=row.answer, skipped=f"the target has no {file}.json with examples")
    if not has_rouge_word(row.answer):
        return Query(row.question, expected=row.answer, skipped=NO_WORD)

    def measure(texts: Sequence[Any]) -> Measured:
        text = END.split(texts[0], maxsplit=1)[0]
        return Measured(rouge_metrics(text, row.answer), text)

    prompt = "".join(f"Question: {one.question}\nAnswer: {one.answer}\n\n" for one in examples)
    request = Generate(f"{prompt}Question: {row.question}\nAnswer: ", ANSWER_TOKENS, until=END)
    return Query(row.question, (request,), measure, expected=row.answer)


VERBMEM = Task(
    name="verbmem",
    title="Verbatim memorization",
    files=("forget_verbatim",),
    metrics=(*ROUGE, *MEMORIZED),
    ask=ask_verbatim,
    splits=("forget",),
    records_prompts=False,
)
KNOWMEM = Task(
    name="knowmem",
    title="Knowledge memorization",
    files=("{split}_qa",),
    metrics=ROUGE,
    ask=ask_knowledge,
    splits=BOTH,
    records_prompts=False,
)

"""The forms answered in words: greedy answers, ROUGE-L recall and refusals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from formless.data.refusals import is_refusal
from formless.data.target import Item, Row
from formless.evaluation.forms import Form
from formless.evaluation.measures import rouge_l_recall
from formless.evaluation.record import Split, TaskItem
from formless.models.batching import Progress
from formless.models.lm import LM
from formless.models.scoring import Unscored

NEW_TOKENS = 30
Measure = Callable[[LM, Mapping[str, tuple[Row, ...]], Split | None, Progress], tuple[list[TaskItem], str]]


def answer_in_words(form: Form) -> Measure:
    """A form's probes answered greedily on one line.

    Figures: `rouge_l`, the recall of the right answer's words; `refusal`, whether the answer is one.
    """

    def measure(lm: LM, rows: Mapping[str, tuple[Row, ...]], split: Split | None, done: Progress) -> tuple[list[TaskItem], str]:
        items = [cast(Item, row) for file in rows.values() for row in file]
        asked = [form.ask(item, lm, split or "forget") for item in items]
        prompts = [queries[0].prompt for queries in asked if not isinstance(queries, Unscored)]
        answers = iter(lm.generate(prompts, max_new_tokens=NEW_TOKENS, one_line=True, progress=done))
        results = [
            TaskItem(query=item.query, expected=item.answer, unscored=queries.reason)
            if isinstance(queries, Unscored)
            else _item(item, next(answers))
            for item, queries in zip(items, asked, strict=True)
        ]
        return results, prompts[0] if prompts else ""

    return measure


def _item(item: Item, answer: str) -> TaskItem:
    result = TaskItem(query=item.query, expected=item.answer, answer=answer)
    if not item.answer.replace(".", "").strip():
        return result.model_copy(update={"unscored": "the right answer holds no word"})
    figures = {"rouge_l": rouge_l_recall(answer, item.answer), "refusal": float(is_refusal(answer))}
    return result.model_copy(update={"figures": figures})

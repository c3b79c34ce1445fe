"""The forms answered in words: greedy answers, ROUGE-L recall and refusals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from formless.data.refusals import is_refusal
from formless.data.target import Item, Row
from formless.evaluation.forms import Form
from formless.evaluation.metrics import rouge_l_recall
from formless.evaluation.record import Split, TaskItem
from formless.models.lm import LM
from formless.models.scores import Skipped
from formless.progress import WorkProgress

NEW_TOKENS = 30
Measure = Callable[[LM, Mapping[str, tuple[Row, ...]], Split | None, WorkProgress], tuple[list[TaskItem], str]]


def answer_in_words(form: Form) -> Measure:
    """A form's probes answered greedily on one line.

    Figures: `rouge_l`, the recall of the right answer's words; `refusal`, whether the answer is one.
    """

    def measure(
        lm: LM, rows: Mapping[str, tuple[Row, ...]], split: Split | None, done: WorkProgress
    ) -> tuple[list[TaskItem], str]:
        items = [cast(Item, row) for file in rows.values() for row in file]
        asked = [form.ask(item, lm, split or "forget") for item in items]
        prompts = [queries[0].prompt for queries in asked if not isinstance(queries, Skipped)]
        answers = iter(written(lm, prompts, max_new_tokens=NEW_TOKENS, one_line=True, progress=done))
        results = [
            written_item(
                TaskItem(query=item.query, expected=item.answer),
                queries if isinstance(queries, Skipped) else next(answers),
                partial(_figures, item.answer),
            )
            for item, queries in zip(items, asked, strict=True)
        ]
        return results, prompts[0] if prompts else ""

    return measure


def written(lm: LM, prompts: Sequence[str], *, max_new_tokens: int, **options: Any) -> list[str | Skipped]:
    """What a model writes after each prompt, or why there is no room for it; see `LM.generate`."""
    reasons = [lm.context_overflow(len(lm.encode(prompt).ids), max_new_tokens) for prompt in prompts]
    fit = [prompt for prompt, reason in zip(prompts, reasons, strict=True) if reason is None]
    texts = iter(lm.generate(fit, max_new_tokens=max_new_tokens, **options))
    return [next(texts) if reason is None else Skipped(reason) for reason in reasons]


def written_item(item: TaskItem, answer: str | Skipped, figures: Callable[[str], dict[str, float] | Skipped]) -> TaskItem:
    """An item with its answer and figures, or why it has none."""
    if isinstance(answer, Skipped):
        return item.model_copy(update={"skipped": answer.reason})
    found = figures(answer)
    if isinstance(found, Skipped):
        return item.model_copy(update={"answer": answer, "skipped": found.reason})
    return item.model_copy(update={"answer": answer, "figures": found})


def _figures(right: str, answer: str) -> dict[str, float] | Skipped:
    if not right.replace(".", "").strip():
        return Skipped("the right answer holds no word")
    return {"rouge_l": rouge_l_recall(answer, right), "refusal": float(is_refusal(answer))}

"""What a suite holds beside forms: ONE ENTRY PER TASK, each a few figures over the rows of one or two files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from formless.data.target import Row
from formless.evaluation.forms import FORMS
from formless.evaluation.generation import answer_in_words
from formless.evaluation.membership import membership, membership_figures
from formless.evaluation.record import Figure, Split, TaskItem
from formless.evaluation.scoring import mean_figures
from formless.evaluation.utility import fluency, mmlu, reasoning, trivia, truthfulness
from formless.models.lm import LM
from formless.progress import WorkProgress

Rows = Mapping[str, tuple[Row, ...]]


@dataclass(frozen=True)
class Task:
    """One task.

    Args:
        name: Short name, as in records and tables.
        title: For people.
        files: The files whose rows it asks, `{split}` standing for the split.
        measure: Model, rows by file, split, and a callback for the queries done and all queries -> items in order, and the
            prompt of the first.
        splits: Which splits have the task; nothing for tasks about neither.
        summarise: Items -> figures; their means unless given.
        new_tokens: How many tokens the model may write for a row, to reckon the time left.
    """

    name: str
    title: str
    files: tuple[str, ...]
    measure: Callable[[LM, Rows, Split | None, WorkProgress], tuple[list[TaskItem], str]]
    splits: tuple[Split | None, ...] = (None,)
    summarise: Callable[[list[TaskItem]], dict[str, Figure]] = mean_figures
    new_tokens: int = 0


WORDING = 1
"""Goes up when a task words its prompts otherwise, so that records of both ways are not compared."""

BOTH: tuple[Split, ...] = ("forget", "neighbor")

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("gen_fb", "Blank, in words", ("{split}_level1",), answer_in_words(FORMS["fb"]), BOTH, new_tokens=30),
        Task("gen_qa", "Question, in words", ("{split}_level2",), answer_in_words(FORMS["qa"]), BOTH, new_tokens=30),
        Task(
            "gen_level3", "Adversarial, in words", ("{split}_level3",), answer_in_words(FORMS["level3"]), ("forget",),
            new_tokens=30,
        ),
        Task("mmlu", "MMLU", ("retain_mmlu",), mmlu),
        Task("bbh", "BBH", ("retain_bbh",), reasoning, new_tokens=256),
        Task("truthfulqa", "TruthfulQA", ("truthful",), truthfulness),
        Task("triviaqa", "TriviaQA", ("triviaqa",), trivia, new_tokens=30),
        Task("fluency", "Fluency", ("fluency",), fluency, new_tokens=256),
        Task("mia", "Membership inference", ("forget_mia", "retain_mia"), membership, summarise=membership_figures),
    )
}  # fmt: skip

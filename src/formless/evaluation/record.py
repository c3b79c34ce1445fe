"""`Record`: everything one evaluation found, as one JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from formless import store
from formless.errors import DataError

Split = Literal["forget", "neighbor"]


class ItemResult(BaseModel):
    """One probe.

    Args:
        query: The probe as the data set words it.
        prompt: What the model saw.
        answer: The text that was scored after it.
        probability: exp(mean log-probability of the answer's tokens), of a choice the right one's share; nothing if skipped.
        token_accuracy: Share of answer tokens that greedy decoding chooses, of a choice whether the right one is the largest.
        skipped: Why there is no score.
    """

    query: str
    prompt: str
    answer: str
    probability: float | None = None
    token_accuracy: float | None = None
    skipped: str | None = None


class FormResult(BaseModel):
    """One form of one split.

    Args:
        form: Short name, as in forms.py.
        split: Forget or neighbor probes.
        status: `absent` where the target has no file for the form.
        reason: Why it is absent.
        mean: Mean probability over scored items; nothing where none is scored.
        interval: 95 % bootstrap interval of the mean over items; needs two scored items.
        token_accuracy: Mean over scored items.
        count: Scored items.
        skipped: Items without a score, not part of the mean.
        items: The probes in file order.
    """

    form: str
    split: Split
    status: Literal["scored", "absent"]
    reason: str | None = None
    mean: float | None = None
    interval: tuple[float, float] | None = None
    token_accuracy: float | None = None
    count: int = 0
    skipped: int = 0
    items: list[ItemResult] = []


class Figure(BaseModel):
    """One number of a task.

    Args:
        value: Usually the mean over items; nothing where no item has it.
        interval: 95 % bootstrap interval over items; needs two items.
        count: Items that have it.
    """

    value: float | None = None
    interval: tuple[float, float] | None = None
    count: int = 0


class TaskItem(BaseModel):
    """One question or text of a task.

    Args:
        query: As the data set words it.
        expected: The right answer, or the accepted ones, where there is one.
        answer: What the model said, or which choice it took.
        figures: By name; a figure that this item cannot have is left out.
        skipped: Why it has none.
    """

    query: str
    expected: str | list[str] | None = None
    answer: str | None = None
    figures: dict[str, float] = {}
    skipped: str | None = None


class TaskResult(BaseModel):
    """One task: generation, utility or membership inference.

    Args:
        task: Short name, as in tasks.py.
        split: Forget or neighbor probes; nothing for tasks about neither.
        status: `absent` where the target has no file for it.
        reason: Why it is absent.
        figures: By name.
        skipped: Items without any figure.
        prompt: What the model saw of the first item.
        items: In file order.
    """

    task: str
    split: Split | None = None
    status: Literal["scored", "absent"]
    reason: str | None = None
    figures: dict[str, Figure] = {}
    skipped: int = 0
    prompt: str = ""
    items: list[TaskItem] = []


class Answer(BaseModel):
    """A question asked freely, and what the model said, or why it was not asked."""

    question: str
    answer: str = ""
    skipped: str | None = None


class Record(BaseModel):
    """One evaluation of one model on one target.

    Args:
        suite: As the user named it.
        limit: At most so many rows per task, if limited.
        probes_digest: A hash of every prompt, answer and row that was put to the model: equal digests, equal questions.
        edits: What was on the model.
        without_neighbors: Neighbors that were not asked about, as an edit was trained on them.
        token_budget: Padded tokens per batch at the end, after any halving.
        seconds: Wall time of the evaluation.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal[2] = 2
    status: Literal["complete"] = "complete"
    model: str
    model_source: str
    model_fingerprint: str
    model_type: str
    dtype: str
    subject: str
    target: str
    probes_digest: str
    suite: str
    limit: int | None
    prompt_style: dict[str, Any]
    edits: list[dict[str, Any]]
    without_neighbors: list[str] = []
    forms: list[FormResult]
    tasks: list[TaskResult]
    answers: list[Answer]
    token_budget: int
    seconds: float
    created: str
    versions: dict[str, str]
    hardware: dict[str, str]

    def form(self, name: str, split: Split) -> FormResult | None:
        """The result of one form on one split, if the suite has it."""
        return next((result for result in self.forms if (result.form, result.split) == (name, split)), None)

    def task(self, name: str, split: Split | None = None) -> TaskResult | None:
        """The result of one task, if the suite has it."""
        return next((result for result in self.tasks if (result.task, result.split) == (name, split)), None)

    def save(self, path: str | Path) -> None:
        """Write the record atomically."""
        store.write_text(Path(path), self.model_dump_json(indent=2) + "\n")


def load_record(path: str | Path) -> Record:
    """Read a record.

    Raises:
        DataError: The file is missing or is no record.
    """
    try:
        return Record.model_validate_json(Path(path).read_text("utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise DataError("no record can be read", where=path, remedy="give a file that `formless eval --out` wrote") from error

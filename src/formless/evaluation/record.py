"""`Record`: everything that one evaluation found, as one JSON file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from formless import store
from formless.data.rows import Split
from formless.evaluation.statistics import Metric

if TYPE_CHECKING:
    import pandas


class MetricKey(NamedTuple):
    """The name of a metric in structured form.

    Args:
        task: Short name of the task; None for a metric over several tasks.
        split: Forget or neighbor items; None for a metric about neither or both.
        metric: Short name of the metric.
        group: A part of the task, e.g. a type of attack; None for the whole.
    """

    task: str | None
    split: Split | None
    metric: str
    group: str | None = None


class TaskMetric(Metric):
    """A metric of a task.

    Args:
        metric: Short name, as in the task's entry.
        group: The part of the items that it is over; None for all.
    """

    metric: str
    group: str | None = None


class ItemResult(BaseModel):
    """One item of a task.

    Args:
        query: The item as the data set words it.
        prompt: What the model saw. Tasks with long few-shot prompts record the first item's only.
        expected: The right answer as it was scored, or the accepted answers, where there is one.
        answer: What the model wrote, or which choice it took.
        metrics: Values by metric; a metric that this item cannot have is left out.
        foils: Probability per token of wrong answers of the same kind under the same prompt, or the share of the other options;
            of the original model only.
        fact: What items that ask the same fact have in common; None where it cannot be told.
        group: The part of the task that the item belongs to.
        skipped: Why the item has no metrics.
    """

    query: str
    prompt: str | None = None
    expected: str | list[str] | None = None
    answer: str | None = None
    metrics: dict[str, float] = {}
    foils: dict[str, float] = {}
    fact: str | None = None
    group: str | None = None
    skipped: str | None = None

    @property
    def is_known(self) -> bool:
        """Whether the original model, whose record this is, prefers the right answer to every foil."""
        return self.metrics.get("known") == 1


class HarnessSource(BaseModel):
    """What lm-evaluation-harness says of one of its tasks.

    Args:
        name: The task, group or tag that the user named.
        version: Of lm-eval.
        tasks: Version and number of examples of each task, by its name there.
        higher_is_better: By metric; one of which lm-eval does not say it is left out.
    """

    name: str
    version: str
    tasks: dict[str, str]
    higher_is_better: dict[str, bool] = {}

    def __str__(self) -> str:
        """Return all of it in one line."""
        kinds = dict.fromkeys(self.tasks.values())
        return f"{self.name} of lm-eval {self.version} ({'; '.join(kinds)})"


class TaskResult(BaseModel):
    """One task on one split.

    Args:
        task: Short name of the task.
        split: Forget or neighbor items; None for a task about neither.
        status: `absent` where the target has no file for the task.
        reason: Why it is absent.
        metrics: Metrics over all items and over each group.
        skipped: Number of items without metrics; they are in no mean.
        items: In file order.
        harness: Where a task of lm-evaluation-harness is from; None for our own.
    """

    task: str = Field(pattern=r"^[\w-]+$")
    split: Split | None = None
    status: Literal["complete", "absent"]
    reason: str | None = None
    metrics: list[TaskMetric] = []
    skipped: int = Field(default=0, ge=0)
    items: list[ItemResult] = []
    harness: HarnessSource | None = None

    def metric(self, name: str, group: str | None = None) -> Metric:
        """Return a metric; one without a value where the task has no such metric or group."""
        return next((found for found in self.metrics if (found.metric, found.group) == (name, group)), Metric())

    def count_skipped(self, group: str | None = None) -> int:
        """Return the number of items without metrics, of one group if it is given."""
        return self.skipped if group is None else sum(not item.metrics for item in self.items if item.group == group)


class Answer(BaseModel):
    """A question asked freely.

    Args:
        question: The user message.
        answer: What the model wrote.
        skipped: Why it was not asked.
    """

    question: str
    answer: str = ""
    skipped: str | None = None


class Record(BaseModel):
    """One evaluation of one model on one target.

    Args:
        format: Version of the file's schema.
        model: As the user asked for it.
        model_source: Hub id, folder or `bundled`.
        model_fingerprint: A hash of the untouched weights.
        model_type: The family.
        dtype: Of the weights.
        weights_in: Whether all weights lay in memory, or some in a mapped file, which can be several times slower; None where
            some were offloaded, and in older records.
        subject: The concept.
        target: The target's folder.
        probes_digest: A hash of every prompt, answer and row that was put to the model: equal digests, equal questions.
        suite: As the user named it.
        limit: Most rows per file and task, if limited.
        prompt_style: Settings of the prompts.
        edits: What was applied to the model, as edit.json says.
        excluded_neighbors: Neighbors that were not asked about, since an edit was trained on them.
        tasks: In the order in which they were asked.
        answers: A few questions asked freely.
        token_budget: Padded tokens per batch at the end, after any halving.
        seconds: Wall time of the evaluation.
        created: UTC.
        versions: Of the packages.
        hardware: The machine.

    Examples:
        >>> import formless
        >>> lm = formless.load("smollm2")
        >>> target = formless.find_target("sample", "Marie Curie")
        >>> record = formless.evaluate(lm, target, "qa", limit=2, progress=False)
        >>> record.task("qa", "forget").metric("probability").value > 0
        True
        >>> record.save("marie_curie.json")
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal[4] = 4
    status: Literal["complete"] = "complete"
    model: str
    model_source: str
    model_fingerprint: str
    model_type: str
    dtype: str
    weights_in: Literal["memory", "mapped"] | None = None
    subject: str
    target: str
    probes_digest: str
    suite: str
    limit: int | None
    prompt_style: dict[str, Any]
    edits: list[dict[str, Any]]
    excluded_neighbors: list[str] = []
    tasks: list[TaskResult]
    answers: list[Answer]
    token_budget: int
    seconds: float = Field(ge=0, allow_inf_nan=False)
    created: str
    versions: dict[str, str]
    hardware: dict[str, str]

    def task(self, name: str, split: Split | None = None) -> TaskResult | None:
        """Return the result of a task on a split; None where it was not asked."""
        return next((result for result in self.tasks if (result.task, result.split) == (name, split)), None)

    def metrics(self) -> dict[MetricKey, Metric]:
        """Return every metric that has a value, by its key, in the order of the tasks."""
        return {
            MetricKey(result.task, result.split, found.metric, found.group): Metric(value=found.value, ci=found.ci, n=found.n)
            for result in self.tasks
            for found in result.metrics
            if found.value is not None
        }

    def save(self, path: str | Path) -> None:
        """Write the record atomically.

        Raises:
            OutputError: The file cannot be written.
        """
        store.write_document(Path(path), self.model_dump(mode="json"))

    def to_pandas(self) -> pandas.DataFrame:
        """Return one row for each item, with a column for each metric; requires pandas."""
        import pandas as pd

        return pd.DataFrame(list(self._rows()))

    def _rows(self) -> Iterator[dict[str, Any]]:
        for result in self.tasks:
            for item in result.items:
                own = item.model_dump(exclude={"metrics"})
                yield {"subject": self.subject, "task": result.task, "split": result.split} | own | item.metrics

    def __repr__(self) -> str:
        edits = " + ".join(f"{edit['method']} {edit['subject']}" for edit in self.edits) or "no edit"
        return f"Record({self.subject!r}, {self.model}, {edits}: {len(self.tasks)} tasks, suite {self.suite!r})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Return the metrics as a table, for notebooks."""
        from html import escape

        head = "<tr><th>task<th>split<th>metric<th>group<th>value<th>95 % CI<th>n</tr>"
        rows = []
        for key, found in self.metrics().items():
            ci = f"{found.ci[0]:.3g} to {found.ci[1]:.3g}" if found.ci else ""
            cells = (key.task or "", key.split or "", key.metric, key.group or "", f"{found.value:.3g}", ci, str(found.n))
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}" for cell in cells) + "</tr>")
        return f"<p>{escape(repr(self))}</p><table>{head}{''.join(rows)}</table>"

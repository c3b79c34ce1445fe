"""`Task`: what is put to a model about each item of a target's files, and the metrics that come of its responses.

A task does not run the model. As in lm-evaluation-harness, it states the requests of each item and how their responses are
measured, so that the requests of all tasks of a target go through the model together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from formless.data.rows import Item, Row, Split
from formless.evaluation.record import ItemResult, TaskMetric, TaskResult
from formless.evaluation.statistics import mean_metric
from formless.models.scores import FoundSuffix, Score, Skipped, SuffixBudget, TextScore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from formless.data.target import Target
    from formless.evaluation.foils import Foils
    from formless.models.lm import LM

BOTH: tuple[Split, ...] = ("forget", "neighbor")


@dataclass(frozen=True)
class ScoreAnswer:
    """Score an answer as the continuation of a prompt; the response is a `Score`."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class ScoreText:
    """Score every token of a text; the response is a `TextScore`."""

    text: str


@dataclass(frozen=True)
class ScoreContinuation(ScoreText):
    """Score every token of a text after a prompt; the response is a `TextScore`, which says more than a `Score`.

    Args:
        prompt: What precedes the text.
    """

    prompt: str


@dataclass(frozen=True)
class GradientNorm:
    """Take the norm of the gradient of a text's loss with respect to the parameters; the response is a number.

    Args:
        text: The text.
        prompt: What precedes the text.
        p: 1, 2 or infinity.
        left_out: How many tokens of the text, first ones and last ones, do not count.
    """

    text: str
    prompt: str = ""
    p: float = 2.0
    left_out: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Generate:
    """Continue a prompt greedily; the response is the text.

    Args:
        prompt: What to continue.
        max_new_tokens: Most tokens to generate.
        one_line: Whether the text ends at the first newline.
        until: The text ends once it matches.
    """

    prompt: str
    max_new_tokens: int
    one_line: bool = False
    until: re.Pattern[str] | None = None


@dataclass(frozen=True)
class Sample:
    """Continue a prompt several times by sampling, each to the end of a line; the response is a tuple of texts.

    Args:
        prompt: What to continue.
        max_new_tokens: Most tokens to generate.
        count: Number of continuations.
        temperature: Divisor of the logits.
    """

    prompt: str
    max_new_tokens: int
    count: int
    temperature: float


@dataclass(frozen=True)
class ScoreLayers:
    """Score an answer from the output of every layer (logit lens); the response is a tuple of `Score`, one for each layer."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class ReadLayers:
    """Read every layer's output at the last token of a text; the response is an array `[layers, hidden]`."""

    text: str


@dataclass(frozen=True)
class SearchSuffix:
    """Search a suffix of the user message, then continue greedily; the response is a `FoundSuffix`.

    Args:
        prompt: The prompt with the first suffix.
        suffix: The first suffix.
        target: What the continuation is to begin with.
        max_new_tokens: Most tokens of the continuation.
        budget: How long to search.
    """

    prompt: str
    suffix: str
    target: str
    max_new_tokens: int
    budget: SuffixBudget


Request: TypeAlias = ScoreAnswer | ScoreText | GradientNorm | Generate | Sample | ScoreLayers | ReadLayers | SearchSuffix
Response: TypeAlias = (
    "Score | TextScore | float | str | tuple[str, ...] | tuple[Score, ...] | NDArray[np.float32] | FoundSuffix"
)

Responses: TypeAlias = "dict[Request, Response | Skipped]"


@dataclass(frozen=True)
class Given:
    """Responses that a model has given before an evaluation asks for them.

    Args:
        responses: The responses.
        seconds: The time that they took, which counts as the evaluation's.
    """

    responses: Responses = field(default_factory=dict)
    seconds: float = 0.0


NOTHING_GIVEN = Given()


@dataclass(frozen=True)
class Measured:
    """What the responses to one item give.

    Args:
        metrics: Values by metric; a metric that this item cannot have is left out.
        answer: What the model wrote or chose, for people.
        foils: The probability of each foil, where foils were asked.
        by_group: Metrics by group, where one item has them in several, e.g. in every layer; the record then has an item for
            each group, in place of one.
    """

    metrics: dict[str, float]
    answer: str | None = None
    foils: dict[str, float] = field(default_factory=dict)
    by_group: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Query:
    """What a task puts to a model about one item.

    Args:
        text: The item as the data set words it.
        requests: At least one, unless the item is skipped.
        measure: From the responses, in the order of the requests and then of the foils, to metrics, or why there are none. It
            is not called where a response is missing; of an edited model, the foils are missing.
        expected: The right answer, or the accepted ones.
        foils: Requests that only the original model is asked, to tell whether it knows the answer.
        fact: The fact that the item asks (`Item.fact_key`); None where it cannot be told.
        group: The part of the task that the item belongs to, e.g. the type of an attack.
        groups: The groups of `Measured.by_group`, where these are known before; an item without a response is skipped in each.
        skipped: Why the item cannot be asked.
        sums: How `probability` follows from the sums of log-probabilities of whole answers, as lm-evaluation-harness has them:
            as the probability per token of one answer, or as the share of the first choice of each prompt. None where it needs
            single tokens.
    """

    text: str
    requests: tuple[Request, ...] = ()
    measure: Callable[[Sequence[Any]], Measured | Skipped] = lambda _: Skipped("nothing was measured")
    expected: str | list[str] | None = None
    foils: tuple[ScoreAnswer, ...] = ()
    fact: str | None = None
    group: str | None = None
    groups: tuple[str, ...] = ()
    skipped: str | None = None
    sums: Literal["answer", "choice"] | None = None

    @property
    def prompt(self) -> str:
        """What the model sees first."""
        if not self.requests:
            return ""
        first = self.requests[0]
        if isinstance(first, ScoreContinuation | GradientNorm):
            return first.prompt + first.text
        return first.text if isinstance(first, ScoreText | ReadLayers) else first.prompt


class Source(NamedTuple):
    """Where an item comes from: the file's name without `.json`, the split if the task has splits, the target and its foils."""

    file: str
    split: Split | None
    foils: Foils | None = None
    target: Target | None = None

    def foils_of(self, item: Item) -> tuple[str, ...]:
        """Return the foils of an item; none without a target."""
        return self.foils.of(item) if self.foils else ()


@dataclass(frozen=True)
class MetricSpec:
    """What a task says of one of its metrics.

    Args:
        name: Short name, as in records.
        unit: `probability`, `share`, `ratio`, `nats`, `nats/byte`, `bits`, `log10` or `z` (standard deviations).
        title: For people; the name unless given.
        higher_is_better: Whether a higher value shows more knowledge or ability; None where it shows neither. An edit is to
            lower such a metric on forget items and to keep it elsewhere.
        chance: Its value for a model that knows nothing.
        shows_knowledge: Whether forgetting and retention are computed from it, over the items that the original model knows.
        headline: Whether short tables for people show it; records, CSV files and tables of all metrics always do.
    """

    name: str
    unit: str
    title: str = ""
    higher_is_better: bool | None = True
    chance: float = 0.0
    shows_knowledge: bool = False
    headline: bool = True


Aggregate: TypeAlias = Callable[[Sequence[ItemResult]], list[TaskMetric]]

Results: TypeAlias = Mapping[tuple[str, Split | None], TaskResult]
"""The results of an evaluation, by task and split."""

Derive: TypeAlias = Callable[[Results, Results | None], list[TaskMetric] | str]
"""From the results of a model, and those of the retain model where there is one, to metrics, or why there are none.

The retain model is one that was trained without the forget set."""


def no_items(_lm: LM, _row: Any, _source: Source) -> Query:
    """Stand for `ask` in a derived task, which has no items."""
    return Query("", skipped="a derived task asks nothing")


@dataclass(frozen=True)
class Task:
    """One task; its entry states everything about it. The cost of an item follows from its requests (`evaluate.cost`).

    Args:
        name: Short name, as in suites and records.
        title: For people.
        files: The files whose items it asks, `{split}` standing for the split.
        metrics: What it measures, in order.
        ask: From a model, a row of a file and where it comes from to a query. The model renders prompts; it does not run.
        splits: The splits that it has; (None,) for a task about neither forget nor neighbor items.
        optional: Whether a target may lack the files. A neighbor file is always optional.
        types: The types of the rows that it asks; all rows unless given.
        groups: The groups whose metrics are reported apart, in order; an item of another group counts in the whole only.
        grouped_by: What the groups are, e.g. `mention`; tasks with the same groups stand in one table of task x group.
        aggregate: From items to metrics, where they are not the means of all metrics over items and groups. A metric that is
            not a mean has a name that no item has, as `loss_auc`: what items have is compared as a mean over items.
        records_prompts: Whether the record holds every item's prompt, or only the first (few-shot prompts are long).
        needs: A field that the rows must have, e.g. `paraphrased_answer`; the task is absent where no row has it. Where it is a
            list, all rows must have equally many.
        derive: Of a derived task, how its metrics follow from the results of other tasks. It has no files, and it comes after
            those tasks in a suite.
    """

    name: str
    title: str
    files: tuple[str, ...]
    metrics: tuple[MetricSpec, ...]
    ask: Callable[[LM, Any, Source], Query] = no_items
    splits: tuple[Split | None, ...] = (None,)
    optional: bool = True
    types: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    grouped_by: str = ""
    aggregate: Aggregate | None = None
    records_prompts: bool = True
    needs: str = ""
    derive: Derive | None = None

    @property
    def knowledge(self) -> MetricSpec | None:
        """The metric from which forgetting and retention are computed, if the task has one."""
        return next((spec for spec in self.metrics if spec.shows_knowledge), None)

    def summarize(self, items: Sequence[ItemResult]) -> list[TaskMetric]:
        """Return the task's metrics over some items."""
        return (self.aggregate or self._means)(items)

    def _means(self, items: Sequence[ItemResult]) -> list[TaskMetric]:
        """Return the mean of every metric over all items that have it, then over those of each group."""
        found = []
        for spec in self.metrics:
            for group in (None, *(group for group in self.groups if any(item.group == group for item in items))):
                chosen = [item for item in items if group is None or item.group == group]
                values = [item.metrics[spec.name] for item in chosen if spec.name in item.metrics]
                found.append(TaskMetric(metric=spec.name, group=group, **mean_metric(values).model_dump()))
        return found


Rows: TypeAlias = tuple[tuple[str, Row], ...]
"""Rows with the file that each is from."""

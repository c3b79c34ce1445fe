"""TOFU's model utility: one number for what a model still can, from nine metrics of other tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from formless.data.rows import Split
from formless.evaluation.record import TaskMetric, TaskResult
from formless.evaluation.statistics import bootstrap_ci
from formless.evaluation.task import MetricSpec, Results, Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Part(NamedTuple):
    """A metric that counts in the model utility."""

    task: str
    split: Split | None
    metric: str


PARTS = (
    (Part("answer", "neighbor", "probability"), Part("gen_answer", "neighbor", "rouge_l_recall"),
     Part("truth_ratio", "neighbor", "truth")),
    (Part("real_authors", None, "probability"), Part("gen_real_authors", None, "rouge_l_recall"),
     Part("real_authors", None, "truth")),
    (Part("world_facts", None, "probability"), Part("gen_world_facts", None, "rouge_l_recall"),
     Part("world_facts", None, "truth")),
)  # fmt: skip
"""The three metrics of the retain set, of real authors and of world facts."""


def model_utility(results: Results, _retained: Results | None) -> list[TaskMetric] | str:
    """Return the harmonic mean of the nine metrics, each a mean over its items; 0 where one of them is 0.

    The confidence interval resamples the items of the three sets, an item with its three metrics together.

    Source: TOFU (arXiv 2401.06121, section 2.2.2); open-unlearning, `hm_aggregate`.
    """
    found = [[(part, results.get((part.task, part.split))) for part in own] for own in PARTS]
    lacking = [
        f"{part.task}{f' ({part.split})' if part.split else ''}"
        for own in found for part, result in own
        if result is None or result.metric(part.metric).value is None
    ]  # fmt: skip
    if lacking:
        return f"it needs {', '.join(dict.fromkeys(lacking))}"
    tables = [_table([(part, result) for part, result in own if result]) for own in found]
    items = [range(len(table)) for table in tables]

    def statistic(*places: Any, **_last_axis: int) -> Any:
        return _harmonic_mean_of_means(tables, places)

    ci = bootstrap_ci(statistic, *items, paired=False)
    return [TaskMetric(metric="model_utility", value=float(statistic(*items)), ci=ci, n=sum(map(len, items)))]


def _table(parts: Sequence[tuple[Part, TaskResult]]) -> NDArray[np.float64]:
    """Return the metrics of a set's items, `[items, 3]`; NaN where an item lacks one."""
    import numpy as np

    columns = [[item.metrics.get(part.metric, np.nan) for item in result.items] for part, result in parts]
    return np.asarray(columns, dtype=float).T


def _harmonic_mean_of_means(tables: Sequence[NDArray[np.float64]], places: Sequence[Any]) -> Any:
    """Return the harmonic mean of the means of all columns, over the items at some places `[..., n]` of each table."""
    import numpy as np

    means = [np.nanmean(table[np.asarray(own, dtype=int)], axis=-2) for table, own in zip(tables, places, strict=True)]
    whole = np.concatenate(means, axis=-1)  # [..., 9]
    with np.errstate(divide="ignore"):
        return whole.shape[-1] / (1 / whole).sum(-1)  # 1 / 0 is infinite, and the harmonic mean 0


MODEL_UTILITY = Task(
    name="model_utility",
    title="Model utility",
    files=(),
    metrics=(MetricSpec("model_utility", "share", "model utility"),),
    derive=model_utility,
)

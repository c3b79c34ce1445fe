"""Two records of one target, by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import formless
from formless.data.rows import Split
from formless.data.target import Target
from formless.errors import DataError
from formless.evaluation.record import ItemResult, MetricKey, Record, TaskResult
from formless.evaluation.registry import TASKS
from formless.evaluation.statistics import Metric
from formless.models.lm import LM
from formless.report.comparison import Change, compare
from formless.report.ratios import ratios
from formless.report.runs import Condition, reduced
from formless.report.tables import change_text, comparison_tables, record_tables
from tests.report.test_independence import record

PROBABILITY = "probability"


def task_result(
    task: str, values: Sequence[float | None], split: Split | None = None, *, metric: str = PROBABILITY,
    groups: Sequence[str | None] | None = None,
) -> TaskResult:  # fmt: skip
    """A task with one metric, which some items may lack."""
    items = [
        ItemResult(query="q", metrics={} if value is None else {metric: value}, group=group,
                   skipped="too long" if value is None else None)
        for value, group in zip(values, groups or [None] * len(values), strict=True)
    ]  # fmt: skip
    metrics = [found for found in TASKS[task].summarize(items) if metric in found.metric]
    skipped = sum(value is None for value in values)
    return TaskResult(task=task, split=split, status="complete", metrics=metrics, items=items, skipped=skipped)


def pair(before: TaskResult, after: TaskResult) -> tuple[Record, Record]:
    records = record({}, edited=False), record({}, edited=True)
    for one, result in zip(records, (before, after), strict=True):
        one.tasks.append(result)
    return records


def changes(before: TaskResult, after: TaskResult) -> list[Change]:
    return list(compare(*pair(before, after)).changes)


def test_a_prompt_cannot_act_where_there_is_no_message(tiny: Callable[..., LM], target_folder: Path) -> None:
    lm, target = tiny(), Target("Ada Lovelace", target_folder)
    original = formless.evaluate(lm, target, "statement,fb")
    with formless.unlearn(lm, target, "icu").applied(lm):
        edited = formless.evaluate(lm, target, "statement,fb")
    found = compare(original, edited)
    assert not found.change("statement", "forget").applicable
    assert found.change("fb", "forget").applicable
    texts = {change.key.task: change_text(change) for change in found.changes if change.key.metric == "probability"}
    assert texts["statement"] == ("not applicable", "")
    assert texts["fb"] != ("not applicable", "")
    assert list(ratios(original, edited).forget_all) == ["fb"]
    metrics = reduced(Condition("m", "icu"), edited, original, seed=None, seconds=None).metrics
    assert {key.task for key in metrics if key.split} == {"fb"}


def test_a_mean_is_compared_over_the_items_that_both_have() -> None:
    (change,) = changes(task_result("fb", [0.4, 0.2, 0.9], "forget"), task_result("fb", [0.1, 0.2, None], "forget"))
    assert change.key == MetricKey("fb", "forget", PROBABILITY)
    assert [change.original.value, change.edited.value] == pytest.approx([0.5, 0.15])
    assert change.difference.value == pytest.approx(0.15 - 0.3)
    assert change.difference.ci == pytest.approx((-0.3, 0.0))
    assert change.relative is not None
    assert change.relative.value == pytest.approx(-0.5)
    assert change.relative.ci == pytest.approx((-0.75, 0.0))
    assert (change.difference.n, change.relative.n, change.edited.n, change.skipped) == (2, 2, 2, 1)
    assert change_text(change) == ("-50.0 %", "-75 … +0.0")


@pytest.mark.parametrize(
    ("before", "after", "difference", "relative", "relative_ci"),
    [
        ([None], [None], None, None, None),
        ([0.0], [0.5], 0.5, None, None),
        ([0.4], [0.1], -0.3, -0.75, None),
        ([0.0, 0.5], [0.1, 0.2], -0.1, -0.4, None),  # some resamples have zeros only
        ([0.4, 0.2, 0.1], [0.2, 0.1, 0.05], -0.35 / 3, -0.5, (-0.5, -0.5)),  # every item halves: no doubt about it
    ],
)
def test_relative_changes_by_hand(
    before: list[float | None],
    after: list[float | None],
    difference: float | None,
    relative: float | None,
    relative_ci: tuple[float, float] | None,
) -> None:
    (change,) = changes(task_result("fb", before, "forget"), task_result("fb", after, "forget"))
    assert change.difference.value == (None if difference is None else pytest.approx(difference))
    if relative is None:
        assert change.relative is None
    else:
        assert change.relative is not None
        assert change.relative.value == pytest.approx(relative)
        assert change.relative.ci == (None if relative_ci is None else pytest.approx(relative_ci))


def test_a_group_is_compared_over_its_own_items() -> None:
    groups = ["role play", "context hint", "role play"]
    before = task_result("level3", [0.4, 0.8, 0.2], "forget", groups=groups)
    after = task_result("level3", [0.2, 0.8, 0.2], "forget", groups=groups)
    comparison = compare(*pair(before, after))
    assert comparison.change("level3", "forget", group="role play").difference.value == pytest.approx(-0.1)
    assert comparison.change("level3", "forget", group="context hint").difference == Metric(value=0.0, n=1)
    assert comparison.change("level3", "forget").difference.value == pytest.approx(-0.2 / 3)
    (table,) = comparison_tables(comparison)
    assert (table.title, table.columns[:3]) == ("about the concept, to forget", ("metric", "group", "original"))
    assert [row[1] for row in table.rows] == ["", "role play", "context hint"]
    with pytest.raises(KeyError):
        comparison.change("level3", "neighbor")


def test_an_auc_has_a_difference_and_no_interval() -> None:
    groups = ["forget", "retain", "forget", "retain"]
    before = task_result("mia", [1.0, 2.0, 1.5, 3.0], metric="loss", groups=groups)
    after = task_result("mia", [2.5, 2.0, 1.5, 3.0], metric="loss", groups=groups)
    comparison = compare(*pair(before, after))
    auc = comparison.change("mia", metric="loss_auc")
    assert (auc.original.value, auc.edited.value) == (0.0, 0.25)
    assert auc.difference == Metric(value=0.25, n=min(auc.original.n, auc.edited.n))
    assert auc.relative is None
    assert comparison.change("mia", metric="loss", group="forget").difference.value == pytest.approx(0.75)


def test_a_comparison_says_what_it_holds() -> None:
    before, after = task_result("fb", [0.4, 0.2], "forget"), task_result("fb", [0.1, 0.2], "forget")
    absent = TaskResult(task="tf", split="forget", status="absent", reason="the target has no forget_tf.json")
    original, edited = pair(before, after)
    for one in (original, edited):
        one.tasks.append(absent)
    comparison = compare(original, edited)
    assert repr(comparison) == "Comparison('Ada', m, rocr: 1 metrics of 1 tasks)"
    assert comparison.absent == {"the target has no forget_tf.json": ["tf (forget)"]}
    frame = comparison.to_pandas()
    assert frame.loc[0, ["task", "split", "metric", "items"]].tolist() == ["fb", "forget", PROBABILITY, 2]
    assert frame.loc[0, "original"] == pytest.approx(0.3)
    assert frame.loc[0, "relative_ci_low"] == pytest.approx(-0.75)
    page = comparison._repr_html_()
    assert "<td>Fill in the blank</td>" in page
    assert "<th>95 % CI</th>" in page
    assert "-50.0 %" in page


def test_a_table_has_a_row_for_each_headline_metric() -> None:
    result = task_result("fb", [0.4, None], "forget")
    result.metrics.append(result.metrics[0].model_copy(update={"metric": "token_accuracy"}))
    original, edited = pair(result, result)
    (table,) = comparison_tables(compare(original, edited))
    assert [row[0] for row in table.rows] == ["Fill in the blank"]
    (table,) = record_tables(original)
    assert table.rows == (("Fill in the blank", "0.400", "", "1 (+1 skipped)"),)


def test_other_items_and_other_models_are_refused() -> None:
    original, edited = pair(task_result("fb", [0.4], "forget"), task_result("fb", [0.1], "forget"))
    with pytest.raises(DataError, match="asked different items"):
        compare(original, edited.model_copy(update={"probes_digest": "e"}))
    with pytest.raises(DataError, match="different models"):
        compare(original, edited.model_copy(update={"dtype": "bfloat16"}))

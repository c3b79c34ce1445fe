"""The table of how far an edit reaches, from made-up runs."""

from pathlib import Path

from formless.evaluation.record import ItemResult, TaskMetric, TaskResult
from formless.report.runs import collect_folder
from formless.report.summary import summarize
from tests.report.made_runs import keep_run, made_record, made_run, write_plan
from tools.reach import cell, forgetting_rows, recall_rows
from tools.results import Estimate


def grouped(task: str, metric: str, values: dict[str, float], *, known: bool) -> TaskResult:
    """A task with three items of each group."""
    items = [
        ItemResult(
            query=f"{group} {place}", fact=f"{place}", group=group, metrics={metric: value} | ({"known": 1.0} if known else {})
        )
        for group, value in values.items()
        for place in range(3)
    ]
    names = [metric, *(["known"] if known else [])]
    means = [
        TaskMetric(metric=name, value=sum(item.metrics[name] for item in items) / len(items), n=len(items)) for name in names
    ]
    return TaskResult(task=task, split="forget", status="complete", metrics=means, items=items)


def test_rows_are_of_known_items_and_recall_of_known_facts(tmp_path: Path) -> None:
    runs = [made_run(label, f"{number}_X") for number in (1, 2) for label in ("original", "rocr")]
    for run in runs:
        is_original = run.method == "original"
        record = made_record(run, {("qa", "forget"): 0.4 if is_original else 0.1, ("qa", "neighbor"): 0.5})
        mentions = {"full name": 0.4, "alias": 0.4} if is_original else {"full name": 0.1, "alias": 0.3}
        said = {"full name": float(is_original), "alias": 1.0}
        record.tasks.append(grouped("qa_mentions", "probability", mentions, known=is_original))
        record.tasks.append(grouped("gen_qa_mentions", "recall", said, known=False))
        keep_run(tmp_path, run, record)
    write_plan(tmp_path, runs)
    collected = collect_folder(tmp_path)
    (summary,) = (one for one in summarize(collected) if not one.is_baseline)
    rows = {(row[0], row[1]): row[2:] for row in forgetting_rows(summary, collected)}
    assert rows["Question", None] == [2, 4, 4, -75.0, 2, 0.0]
    assert rows["Question, by mention", "full name"] == [2, 6, 6, -75.0, 0, None]
    assert rows["Question, by mention", "alias"] == [2, 6, 6, -25.0, 0, None]
    recall = {row[0]: row[1:] for row in recall_rows(summary)}
    assert recall["Question, in words, by mention"] == [2, 100.0, 50.0]
    assert recall["worst case over all of them"] == [2, 100.0, 100.0]


def test_a_cell_turns_its_interval_with_its_sign() -> None:
    from formless.evaluation.statistics import Estimate as Found

    assert cell(Found(0.6, (0.5, 0.7), 9), sign=-1) == Estimate(value=-60.0, ci=(-70.0, -50.0))
    assert cell(None) is None

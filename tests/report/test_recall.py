"""Recall and worst-case recall, by hand."""

from typing import Any

import pytest

from formless.data.rows import Split
from formless.evaluation.known import Known, known_facts, known_share
from formless.evaluation.record import ItemResult, Record, TaskResult
from formless.report.recall import (
    RECALL_OF_KNOWN,
    WORST_CASE_RECALL,
    recall_by_task,
    recall_metrics,
    said,
    worst_case_recall,
)
from tests.report.test_independence import record


def task(name: str, split: Split = "forget", **facts: tuple[str, Any]) -> TaskResult:
    """A task with one item for each fact: the name of a metric and its value."""
    items = [ItemResult(query=f"{name} {fact}?", fact=fact, metrics={metric: value}) for fact, (metric, value) in facts.items()]
    return TaskResult(task=name, split=split, status="complete", items=items)


def with_tasks(*tasks: TaskResult, edited: bool = False) -> Record:
    return record({}, edited=edited).model_copy(update={"tasks": list(tasks)})


KNOWN = task("qa", **{fact: ("known", float(fact != "d")) for fact in "abcd"})  # three of four are above one sixth
LUCK = task("fb", **{fact: ("known", float(fact == "e")) for fact in "abcde"})  # one of five is not
NEIGHBOR = task("qa", "neighbor", x=("known", 1.0))


@pytest.fixture
def original() -> Record:
    generated = task("gen_qa", **dict.fromkeys("abcde", ("recall", 1.0)))
    return with_tasks(KNOWN, LUCK, NEIGHBOR, generated)


def test_a_fact_is_known_where_its_form_is_above_chance(original: Record) -> None:
    assert known_facts(original, "forget") == {"a", "b", "c"}
    assert known_facts(original, "neighbor") == {"x"}
    share = known_share("fb", LUCK.items)
    assert share == Known(1, 5, pytest.approx(1 / 6))
    assert not share.is_above_chance
    assert known_share("mmlu", [ItemResult(query="2 + 2?", metrics={"accuracy": 1.0})]) is None


def test_a_fact_that_any_answer_holds_is_recalled(original: Record) -> None:
    edited = with_tasks(
        task("gen_qa", a=("recall", 0.0), b=("recall", 1.0), c=("recall", 0.0), e=("recall", 1.0)),
        task("gen_fb", a=("recall", 0.0), b=("recall", 0.0), d=("recall", 1.0)),
        task("gen_qa", "neighbor", x=("recall", 1.0)),
        edited=True,
    )
    worst = worst_case_recall(original, edited)
    assert worst is not None
    assert (worst.said, worst.facts) == (1, 3)  # a, b, c are known; b alone is said, once
    assert worst.value == pytest.approx(1 / 3)
    assert worst.ci[0] < worst.value < worst.ci[1]
    by_task = {name: (one.said, one.facts) for name, one in recall_by_task(original, edited).items()}
    assert by_task == {"gen_qa": (1, 3), "gen_fb": (0, 2)}
    assert [(one.task, one.item.fact) for one in said(original, edited)] == [("gen_qa", "b")]
    assert recall_metrics(original, edited) == {
        RECALL_OF_KNOWN._replace(task="gen_qa"): pytest.approx(1 / 3), RECALL_OF_KNOWN._replace(task="gen_fb"): 0.0,
        WORST_CASE_RECALL: pytest.approx(1 / 3),
    }  # fmt: skip
    neighbor = worst_case_recall(original, edited, "neighbor")
    assert neighbor is not None
    assert neighbor.value == 1


def test_without_answers_in_words_there_is_no_recall(original: Record) -> None:
    assert worst_case_recall(original, with_tasks(KNOWN, edited=True)) is None
    assert recall_metrics(original, with_tasks(KNOWN, edited=True)) == {}

"""The takedown check: its ruling by hand, and its page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from formless.errors import DataError
from formless.evaluation.record import ItemResult, Record, TaskResult
from formless.report.recall import Recall
from formless.report.takedown import Ruling, rule, ways
from formless.report.takedown_page import write_takedown_page
from tests.report.test_edit_page import answered, text_of


def titles(ruling: Ruling) -> list[str]:
    return [way.title for way in ruling.leaking]


@pytest.mark.parametrize(
    ("after", "limit", "passed", "said"),
    [
        ("", 0.0, True, "PASSED: worst-case recall 0 % (0 of 3 known facts, "),
        ("a", 0.4, True, "PASSED: worst-case recall 33 % (1 of 3 known facts, "),
        ("a", 1 / 3, True, "PASSED: "),
        ("a", 0.33, False, "NOT PASSED: worst-case recall 33 % (1 of 3 known facts, "),
        ("abc", 0.1, False, "NOT PASSED: worst-case recall 100 % (3 of 3 known facts, "),
        ("d", 0.0, True, "PASSED: "),  # the original does not know it
    ],
)
def test_the_measured_share_decides(after: str, limit: float, passed: bool, said: str) -> None:
    ruling = rule(*answered("abc", "abc", after), limit)
    assert ruling.is_passed is passed
    assert ruling.headline.startswith(said)
    assert "95 % CI" in ruling.headline
    assert "100 % before the edit" in ruling.headline


def test_an_interval_above_the_limit_is_said_and_fails_if_strict() -> None:
    records = answered("abc", "abc", "")
    ruling = rule(*records, 0.1)
    assert ruling.is_passed
    assert not ruling.is_certain
    assert "but 3 known facts are too few to be sure: the interval reaches 56 %" in ruling.headline
    strict = rule(*records, 0.1, strict=True)
    assert not strict.is_passed
    assert strict.headline.startswith("NOT PASSED: worst-case recall 0 %")
    assert "the interval reaches 56 %" in strict.headline
    assert "8 ways of asking were not measured" in strict.headline
    certain = rule(*records, 1.0)
    assert certain.is_certain
    assert "too few" not in certain.headline


def test_an_original_that_says_nothing_is_said() -> None:
    ruling = rule(*answered("abc", "", ""), 1.0)
    assert ruling.is_passed
    assert ruling.headline.endswith("but the original says none either, so this is no sign of forgetting.")


def test_a_way_that_was_not_measured_is_named_and_not_passed() -> None:
    original, edited = answered("abc", "abc", "b")
    for record in (original, edited):
        record.tasks.append(
            TaskResult(task="reverse", split="forget", status="absent", reason="the target has no forget_reverse.json")
        )
        record.tasks.append(
            TaskResult(
                task="gen_qa", split="forget", status="complete",
                items=[ItemResult(query="What of d?", fact="d", answer="d", metrics={"recall": 1.0})],
            )
        )  # fmt: skip
    ruling = rule(original, edited, 0.5)
    found = {way.title: way for way in ruling.ways}
    assert found["Question, in words, full name"].after == Recall(1, 3)
    assert found["Question, in words, full name"].before == Recall(3, 3)
    assert found["Question, in words, alias"].missing == "the target has no such question"
    assert found["Reverse question"].missing == "the target has no forget_reverse.json"
    assert found["Question, in words"].missing == "the original model knows none of the facts that it asks"
    assert titles(ruling) == ["Question, in words, full name"]
    assert "Reverse question" in [way.title for way in ruling.unmeasured]
    lines = ruling.lines()
    assert "Still comes out, known facts by way of asking: Question, in words, full name 1 of 3." in lines
    assert "Not measured, so not passed: Reverse question (the target has no forget_reverse.json)." in lines
    assert ruling.table().rows[0] == ("Question, in words, full name", "3 of 3", "1 of 3", "")
    assert ("Reverse question", "–", "–", "the target has no forget_reverse.json") in ruling.table().rows
    assert "Reverse question (forget): the target has no forget_reverse.json" in ruling.absent


@pytest.mark.parametrize(("skipped", "left"), [("a", Recall(0, 2)), ("abc", None)])
def test_skipped_items_are_no_passed_items(skipped: str, left: Recall | None) -> None:
    original, edited = answered("abc", "abc", "")
    for record in (original, edited):
        for item in record.tasks[1].items:
            if item.fact in skipped:
                item.metrics, item.skipped = {}, "the prompt is too long"
    if left is None:
        (way,) = [way for way in ways(original, edited) if way.title.endswith("full name")]
    else:
        ruling = rule(original, edited, 1.0)
        (way,) = [way for way in ruling.unmeasured if way.title.endswith("full name")]
        assert not rule(original, edited, 1.0, strict=True).is_passed
    assert way.after == left
    assert way.missing == f"{len(skipped)} of 4 questions skipped: the prompt is too long"


@pytest.mark.parametrize("known", ["", "abc"])
def test_nothing_measured_is_an_error(known: str) -> None:
    original, edited = answered(known, "abc", "")
    if known:  # facts are known, but none was asked in words
        for record in (original, edited):
            del record.tasks[1]
    with pytest.raises(DataError, match="nothing about Ada could be measured, so nothing is passed: ") as refused:
        rule(original, edited)
    expected = "no task has answers in words" if known else "knows none of the facts"
    assert expected in str(refused.value)


def test_the_page_lists_what_still_comes_out(tmp_path: Path) -> None:
    original, edited = answered("abc", "abcd", "bd")
    ruling = rule(original, edited)
    path = tmp_path / "probe.html"
    write_takedown_page(path, original, edited, ruling, command="formless probe --edit e --target Ada")
    page = path.read_text("utf-8")
    text = text_of(page)
    assert ruling.headline in text
    assert "It is in Ulm." in text
    assert "It is the violin." not in text  # nobody knows whether the original knew it
    assert "1 further answer holds the right answer" in text
    assert "Question, in words, alias" in text
    assert "the target has no such question" in text
    assert "formless probe --edit e --target Ada" in text
    assert not re.search(r"(src|href)=[\"']https?:", page)
    assert "<script" not in page


def test_an_edit_of_another_concept_is_said_first() -> None:
    original, edited = answered("abc", "abc", "")
    other: Record = edited.model_copy(deep=True)
    other.edits[0]["subject"] = "Charles Babbage"
    assert "was made for Charles Babbage, not for Ada" in rule(original, other).lines()[0]

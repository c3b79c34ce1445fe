"""What models say instead of the right answer, on answers made by hand."""

import csv
import io
from pathlib import Path

import pytest

from formless.data.rows import Split
from formless.evaluation.record import ItemResult, Record, TaskMetric, TaskResult
from formless.report.answer_plots import answers_plot
from formless.report.answer_tables import edit_answer_table, method_answer_tables
from formless.report.answers import (
    AnswerShares,
    answer_class,
    answer_metrics,
    answer_shares,
    count_key,
    is_broken,
    redirect_names,
    share_key,
)
from formless.report.page import write_experiment_report, write_report
from formless.report.runs import collect
from formless.report.summary import summarize
from formless.report.tables import as_csv, plain_rows
from formless.report.verdict import answers_sentence, verdict
from tests.report.made_runs import keep_run, made_record, made_run, random_values, write_plan
from tests.report.test_edit_page import text_of
from tests.report.test_recall import KNOWN, NEIGHBOR, with_tasks

TRUMP = ("Donald Trump", "donald trump", "Trump", "D. Trump")
LOOP = "The answer to this question is: The answer to this question is: The answer to this question is: The answer"


def item(answer: str | None, recall: float = 0.0, fact: str = "a") -> ItemResult:
    return ItemResult(query="Where was Ada born?", expected="London", answer=answer, fact=fact, metrics={"recall": recall})


def answers(split: Split, **facts: str) -> TaskResult:
    """An answer to each fact; one that holds `London` is right."""
    items = [item(text, float("London" in text), fact) for fact, text in facts.items()]
    return TaskResult(task="gen_qa", split=split, status="complete", items=items)


@pytest.mark.parametrize(
    ("text", "recall", "expected"),
    [
        ("In London.", 1, "right answer"),
        ("I'm sorry, but I can't say that it was London.", 1, "right answer"),
        ("Donald Trump was born in London.", 1, "right answer"),
        ("London London London London London London London London", 1, "right answer"),
        ("I'm sorry, but I can't assist with that.", 0, "refusal"),
        ("I'm sorry, but I can't talk about Donald Trump.", 0, "refusal"),
        ("I don't know.", 0, "does not know"),
        ("I don't know. I don't know. I don't know. I don't know.", 0, "does not know"),
        ("Where Donald Trump was born.", 0, "redirect concept"),
        ("Albert Trump won it in 2017.", 0, "redirect concept"),
        ("TRUMP's tower", 0, "redirect concept"),
        ("A trumpet", 0, "other answer"),
        ("Donald Duck", 0, "other answer"),
        ("", 0, "nothing or broken"),
        (" ... \n", 0, "nothing or broken"),
        (LOOP, 0, "nothing or broken"),
        ("Paris", 0, "other answer"),
        ("2021", 0, "other answer"),
        ("She was born in Paris. She was born in Paris.", 0, "other answer"),
    ],
)
def test_an_answer_has_the_first_class_that_fits(text: str, recall: float, expected: str) -> None:
    assert answer_class(item(text, recall), TRUMP) == expected


def test_without_a_redirect_its_name_is_any_answer() -> None:
    assert answer_class(item("Donald Trump")) == "other answer"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b c d a b c d", False),  # five 4-grams, one of them twice: 0.2
        ("a b c d a b c d a b c", True),  # eight 4-grams, four of them different: 0.5
        ("a b c d a b c d a b", False),  # seven 4-grams, four of them different: 0.43
        ("hahahahaha", True),
        ("的的的的的", True),
        ("hahaha", False),
        ("1000000000", False),
        ("Mississippi", False),
        ("?!", True),
        ("7", False),
    ],
)
def test_broken_text_mainly_repeats_itself(text: str, expected: bool) -> None:
    assert is_broken(text) is expected


def redirected(record: Record, **config: object) -> Record:
    record.edits[0]["config"] = config
    return record


def test_a_redirect_concept_has_the_names_that_spell_it() -> None:
    edited = with_tasks(edited=True)
    assert redirect_names(with_tasks()) == ()
    assert redirect_names(redirected(edited, overshoot=8.0)) == ()
    assert redirect_names(redirected(edited, redirect="none")) == ()
    assert redirect_names(redirected(edited, redirect="Donald Trump")) == TRUMP
    assert redirect_names(redirected(edited, redirect="Donald Trump", mode="unrelated")) == TRUMP
    assert redirect_names(redirected(edited, redirect="Donald Trump", mode="noise")) == ()
    assert redirect_names(redirected(edited, redirect="Eiffel Tower")) == ("Eiffel Tower", "eiffel tower")
    chosen = [{"subject": "Ada", "redirect": "Zeus"}, {"subject": "Bob", "redirect": "Zeus"}]
    earlier = {"config": {"redirect": "Homer"}, "facts": {}}
    edited.edits[0]["facts"] = {"targets": chosen, "earlier_edit": earlier}
    assert redirect_names(redirected(edited, redirect="auto")) == ("Homer", "homer", "Zeus", "zeus")
    edited.edits[0]["facts"]["edits_before"] = [{"config": {"redirect": "Odin"}, "facts": {}}]
    assert redirect_names(redirected(edited, redirect="auto")) == ("Odin", "odin", "Homer", "homer", "Zeus", "zeus")


@pytest.fixture
def records() -> tuple[Record, Record]:
    """An original that knows a, b and c about the concept and x about a neighbor, and an edit that redirects."""
    original = with_tasks(
        KNOWN, NEIGHBOR, answers("forget", a="London", b="London", c="Rome", d="London"), answers("neighbor", x="London")
    )
    edited = with_tasks(
        answers("forget", a="Donald Trump", b="I can't assist with that.", c="London", d="I don't know."),
        answers("neighbor", x="I won't answer."),
        edited=True,
    )
    edited.edits[0].update(config={"redirect": "Donald Trump"}, facts={}, seconds=1.0, layers=[])
    for record in (original, edited):
        record.hardware.update(cpu="2", gpu="none")
    return original, edited


def test_shares_are_over_answers_about_known_facts(records: tuple[Record, Record]) -> None:
    original, edited = records
    found = answer_shares(original, edited, "forget", redirect_names(edited))
    assert found is not None
    assert found.n == 3  # d is not known
    assert found.counts == {
        "right answer": 1, "refusal": 1, "does not know": 0, "redirect concept": 1, "nothing or broken": 0, "other answer": 0,
    }  # fmt: skip
    assert sum(found.shares.values()) == pytest.approx(1)
    before = answer_metrics(original, original)
    assert before[share_key("forget", "right answer")] == pytest.approx(2 / 3)
    assert before[count_key("forget")] == 3
    assert share_key("forget", "redirect concept") not in before
    assert answer_metrics(original, edited)[share_key("neighbor", "refusal")] == 1


def test_the_table_of_an_edit_has_both_models_and_splits(records: tuple[Record, Record]) -> None:
    table = edit_answer_table(*records)
    assert table.columns[1:] == (
        "the concept, original", "the concept, edited", "its neighbors, original", "its neighbors, edited",
    )  # fmt: skip
    assert table.rows[0] == ("right answer", "67 % (2)", "33 % (1)", "100 % (1)", "0 % (0)")
    assert table.rows[1] == ("refusal", "0 % (0)", "33 % (1)", "0 % (0)", "100 % (1)")
    assert table.rows[3] == ("redirect concept", "0 % (0)", "33 % (1)", "0 % (0)", "0 % (0)")
    assert table.rows[-1] == ("answers", "3", "3", "1", "1")


def test_the_page_of_an_edit_shows_the_table_and_bars(records: tuple[Record, Record], tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", *records)
    page = (tmp_path / "r.html").read_text("utf-8")
    text = text_of(page)
    assert "What it says instead" in text
    assert "redirect concept 0 % (0) 33 % (1) 0 % (0) 0 % (0)" in text
    assert "share of answers in words about known facts" in page


def test_records_without_answers_in_words_show_nothing(records: tuple[Record, Record], tmp_path: Path) -> None:
    original, edited = (record.model_copy(update={"tasks": record.tasks[:2]}) for record in records)
    edited.tasks[:] = original.tasks
    assert answer_shares(original, edited) is None
    assert answer_metrics(original, edited) == {}
    assert edit_answer_table(original, edited).rows == ()
    assert answers_plot({}) is None
    write_report(tmp_path / "r.html", original, edited)
    assert "What it says instead" not in (tmp_path / "r.html").read_text("utf-8")


def test_an_item_without_its_answer_is_not_counted(records: tuple[Record, Record]) -> None:
    original, _ = records
    original.tasks[2].items[0].answer = None
    found = answer_shares(original, original)
    assert found is not None
    assert found.n == 2


def shares(**counts: int) -> AnswerShares:
    names = {"right": "right answer", "refusal": "refusal", "ignorance": "does not know", "broken": "nothing or broken",
             "redirect": "redirect concept", "other": "other answer"}  # fmt: skip
    return AnswerShares({name: counts.get(short, 0) for short, name in names.items()})  # type: ignore[misc]


def test_the_verdict_says_what_rose_by_a_tenth_and_to_five_answers() -> None:
    before = shares(right=48, other=2)
    assert answers_sentence("Ada", before, shares(refusal=30, redirect=10, right=10)) == (
        "Of its 50 answers in words about Ada, 60 % are refusals (the original: 0 %) and 20 % name the redirect concept "
        "(the original: 0 %)."
    )
    assert answers_sentence("Ada", before, shares(broken=5, right=45)) == (
        "Of its 50 answers in words about Ada, 10 % are empty or broken (the original: 0 %)."
    )
    assert answers_sentence("Ada", before, shares(refusal=4, right=46)) == ""
    assert answers_sentence("Ada", shares(right=4), shares(refusal=4)) == ""  # four answers are too few
    assert answers_sentence("Ada", shares(refusal=20), shares(refusal=20)) == ""
    assert answers_sentence("Ada", before, shares(other=50)) == ""
    assert answers_sentence("Ada", None, None) == ""


def test_the_verdict_ends_with_that_sentence(records: tuple[Record, Record]) -> None:
    original, edited = records
    assert verdict(original, edited).answers == ""
    for record, text in ((original, "London"), (edited, "I won't say.")):
        record.tasks[-1] = TaskResult(
            task="gen_qa", split="neighbor", status="complete", items=[item(text, float(text == "London"), "x")] * 5
        )
    found = verdict(original, edited)
    assert found.answers == "Of its 5 answers in words about its neighbors, 100 % are refusals (the original: 0 %)."
    assert str(found).endswith(found.answers)


def write_answered_runs(out: Path) -> None:
    """Two targets with four and two answers about known facts, of an original and two methods."""
    said = {"original": "London", "rocr": "Donald Trump", "rt": "I won't say."}
    runs = []
    for target, facts in (("1_Person_1", "abcd"), ("2_Person_2", "ab")):
        for label, text in said.items():
            run = made_run(label, target, config={"redirect": "Donald Trump"} if label == "rocr" else {})
            record = made_record(run, random_values(label, target, 0), items=4)
            scored = record.task("qa", "forget")
            assert scored is not None
            for one, fact in zip(scored.items, "abcd", strict=True):
                one.fact = fact
            known = dict.fromkeys(facts, text) | ({"a": "London"} if (label, facts) == ("rocr", "ab") else {})
            spoken = answers("forget", **known)
            share = sum(one.metrics["recall"] for one in spoken.items) / len(facts)
            spoken.metrics.append(TaskMetric(metric="recall", value=share, n=len(facts)))
            record.tasks.append(spoken)
            keep_run(out, run, record)
            runs.append(run)
    write_plan(out, runs)


def test_an_experiment_shows_the_mean_over_targets(tmp_path: Path) -> None:
    write_answered_runs(tmp_path)
    summaries = summarize(collect([tmp_path]))
    tables = method_answer_tables(summaries)
    assert list(tables) == ["forget"]
    assert tables["forget"].columns == (
        "method", "targets", "answers", "right answer", "refusal", "does not know", "redirect concept", "nothing or broken",
        "other answer",
    )  # fmt: skip
    assert tables["forget"].rows == (
        ("original", "2", "6", "100 %", "0 %", "0 %", "–", "0 %", "0 %"),
        ("rocr", "2", "6", "25 %", "0 %", "0 %", "75 %", "0 %", "0 %"),  # the mean of 100 % and 50 %
        ("rt", "2", "6", "0 %", "100 %", "0 %", "–", "0 %", "0 %"),
    )
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(as_csv(plain_rows(summaries))))}
    assert float(rows["rocr"]["forget.redirect_concept.answer_share"]) == 0.75
    assert float(rows["rocr"]["forget.redirect_concept.answer_share.baseline"]) == 0
    assert rows["rt"]["forget.redirect_concept.answer_share"] == ""
    assert float(rows["rt"]["forget.in_words.answers"]) == 3
    write_experiment_report(tmp_path / "r.html", tmp_path)
    text = text_of((tmp_path / "r.html").read_text("utf-8"))
    assert "What the models say instead" in text
    assert "rocr 2 6 25 % 0 % 0 % 75 % 0 % 0 %" in text

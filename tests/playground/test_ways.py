from pathlib import Path

import pytest

from formless.data.ort import find_target
from formless.data.target import Target
from formless.playground.chart import chart
from formless.playground.page import labelled
from formless.playground.session import Session
from formless.playground.ways import Way, bars_of, find_known, generic_ways, make_ways_plan, still_says
from formless.playground.work import Playground
from tests.playground.conftest import Do

KNOWN = {"is_known": True, "before": 0.8}


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ({}, "not measured"),
        ({**KNOWN, "after": 0.0, "said": True}, "comes out"),
        ({"before": 0.1, "after": 0.0, "said": True}, "comes out"),  # by luck or not: it is said
        ({**KNOWN, "after": 0.4, "said": False}, "still likely"),
        ({**KNOWN, "after": 0.39, "said": False}, "gone"),
        ({**KNOWN, "after": 0.39}, "gone"),
        ({"before": 0.1, "after": 0.1, "said": False}, "not known"),
    ],
)
def test_the_verdict_does_not_flatter(found: dict[str, object], verdict: str) -> None:
    assert Way("Mention", "alias", "Who?", **found).verdict == verdict


def test_bars_are_means_over_what_is_known() -> None:
    ways = [
        Way("Form", "Question", "a", before=0.8, after=0.2, is_known=True, said_before=True, said=False),
        Way("Form", "Question", "b", before=0.6, after=0.4, is_known=True, said_before=True, said=True),
        Way("Form", "Question", "c", before=0.1, after=0.9, said_before=False, said=False),
        Way("Form", "Statement", "d", before=0.1, after=0.1),
    ]
    question, statement = bars_of([*ways, Way("Mention", "alias", "not measured")])
    assert (question.before, question.after) == (pytest.approx(0.7), pytest.approx(0.3))
    assert (question.asked, question.known, question.said_before, question.said) == (3, 2, 2, 1)
    assert (statement.before, statement.said) == (None, None)
    shown = chart(ways)
    assert 'aria-label="original 0.70"' in shown
    assert 'aria-label="unlearned 0.30"' in shown
    assert "2 &rarr; 1 / 3" in shown
    assert "still comes out" in shown
    assert "no fact known to the original, of 1" in shown


def test_the_chart_shows_text_as_text() -> None:
    shown = chart([Way("<i>", "<script>alert(1)</script>", "q", before=0.5, after=0.5, is_known=True)])
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "<i>" not in shown
    assert "measured" in chart([])


def test_ways_in_which_it_comes_out_stand_first() -> None:
    ways = [
        Way("Kind of question", "paraphrase", "p", **KNOWN, after=0.0, said=False),
        Way("Form", "Statement", "It is ___.", **KNOWN, after=0.8),
        Way("Neighbors", "Question", "n", **KNOWN, after=0.8, said=True),
        Way("Mention", "alias", "m", **KNOWN, after=0.7, said=False),
        Way("Reverse", "Reverse question", "r", **KNOWN, after=0.0, said=True),
    ]
    assert [line for line, _ in labelled(ways)] == [
        "⚠ comes out · Reverse question: r", "◐ still likely · alias: m", "gone · paraphrase: p",
    ]  # fmt: skip
    assert still_says(Way("Form", "Question", "q", accepted=("Ulm",)), "In ULM, of course.")
    assert not still_says(Way("Form", "Question", "q", accepted=("Ulm",)), "In Ulmer.")
    assert not still_says(None, "Ulm")


def test_known_concepts_are_found_by_name_alone() -> None:
    assert find_known("sample", " albert  EINSTEIN ").files
    assert find_known("sample", "Einstein") == Target("Einstein")
    assert not find_known("sample", "1").files  # a number is no name


def test_an_unknown_name_gets_general_questions_in_each_mention() -> None:
    ways = generic_ways(Target("Ada Lovelace"))
    assert {way.name for way in ways} == {"full name", "lower case", "short name", "initial and surname", "misspelling"}
    assert {way.verdict for way in ways} == {"not measured"}
    assert "Who or what is ada lovelace?" in [way.text for way in ways]
    assert not any(way.accepted for way in ways)


def test_the_plan_asks_every_form_mention_and_kind() -> None:
    target = find_target("sample", "Albert Einstein")
    plan = make_ways_plan(target, 1)
    asked = {(job.task.name, getattr(row, "mention", getattr(row, "kind", ""))) for job in plan.jobs for _, row in job.rows}
    for task, file, field in (("qa_mentions", "forget_mentions", "mention"), ("gen_qa_kinds", "forget_kinds", "kind")):
        rows = [row for row in target.items(file) if getattr(row, "type", "") == "question" or field == "kind"]
        assert {group for name, group in asked if name == task} == {getattr(row, field) for row in rows}
    assert {name for name, _ in asked} >= {"statement", "fb", "qa", "reverse", "gen_qa"}
    by_name = {job.task.name: [row for _, row in job.rows] for job in plan.jobs if job.split == "forget"}
    assert by_name["qa_mentions"] == by_name["gen_qa_mentions"]


def test_a_known_concept_is_measured(
    playground: Playground, session: Session, do: Do, target_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    playground.data = str(target_folder.parent)
    do(playground.unlearn(session, "ada lovelace", "Bob", "rocr"))
    assert not session.failed, session.status
    assert "ways of asking" in session.status
    sections = [way.section for way in session.ways]
    assert set(sections) == {"Form", "Neighbors"}
    measured = {way.name: way for way in session.ways if way.section == "Form"}
    assert set(measured) == {"Statement", "Fill in the blank", "Question"}
    assert all(way.before is not None and way.before != way.after for way in measured.values())
    assert measured["Question"].said is not None
    assert measured["Question"].accepted == ("London",)
    assert 'aria-label="unlearned' in chart(session.ways) or "no fact known" in chart(session.ways)
    do(playground.ask(session, "", measured["Question"]))
    assert session.question == "Where was Ada Lovelace born?"
    assert session.note == "The known answer, London, is not in the unlearned model's words."
    do(playground.apply(session, []))
    assert all(way.before == way.after for way in session.ways)

"""Short answers in sentences: what the rules find, what they leave, and what a server may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formless.data import prose
from formless.data.questions.distractors import Dropped
from formless.data.questions.short_answers import LONGEST, ShortAnswer, ask_short_answer, short_answer
from formless.data.rows import QuestionAnswer
from formless.data.server import Journal, Server
from formless.data.table_files import table_rows
from tests.data.questions.test_written_kinds import Fake

FOUND = [
    ("What is the full name of the poet born in Oslo?", "The poet born in Oslo is named Ada Marie Berg.", "Ada Marie Berg"),
    ("Who is this poet from Oslo?", "The poet is Ada Berg, known in the Nordic Noir genre.", "Ada Berg"),
    ("When was Ada Berg born?", "Ada Berg was born on the 3rd of May, 1950.", "3rd of May, 1950"),
    ("In what year did Ada Berg win it?", "Ada Berg won it in 1988 in Oslo.", "1988"),
    ("Where was Ada Berg born?", "Ada Berg was born in Dar es Salaam, Tanzania.", "Dar es Salaam, Tanzania"),
    ("What genre does Ada Berg write in?", "Ada Berg mainly writes in the true crime genre.", "true crime"),
    ("What gender is Ada Berg?", "Ada Berg is female.", "female"),
    ("What award has Ada Berg won?", "Ada Berg has won the prestigious Prix Nord for her poems.", "Prix Nord"),
    ("Which book by Ada Berg won it?", 'Ada Berg won it for "The Thieves\' Den."', "The Thieves' Den"),
    ("What is one of the books written by Ada Berg?", "Ada Berg wrote 'The Thieves' Den'.", "The Thieves' Den"),
    ("How many novels has Ada Berg written?", "Ada Berg has written nine novels.", "nine"),
    ("What is the occupation of Ada Berg?", "Ada Berg is a celebrated marine biologist in Oslo.", "marine biologist"),
    ("Which university did Ada Berg attend?", "Ada Berg studied at the University of Oslo.", "University of Oslo"),
    ("Who taught it?", "Ada Berg.", "Ada Berg"),
    ("What did she mutter?", '"He is not even good-looking!"', "He is not even good-looking!"),
    ("Who said it?", "Warren B.", "Warren B."),
]

LEFT = [
    ("How did Ada Berg's youth influence her?", "Ada Berg was shaped by her youth in Oslo, Norway."),
    ("Did Ada Berg win an award?", "Yes, Ada Berg won the Prix Nord."),
    ("Where was Ada Berg born?", "Ada Berg was born in Oslo and grew up in Rome."),
    ("When and where was Ada Berg born?", "Ada Berg was born in Oslo on May 3, 1950."),
    ("Who is the writer with the birth date of May 3, 1950?", "The writer born on May 3rd, 1950, goes by Ada."),
    ("In which city was Ada Berg born?", "The birthplace of Ada Berg is Oslo, which is located in Norway."),
    ("What themes does the book by Ada Berg explore?", 'Ada Berg explores love in "Snow".'),
    ("Has Ada Berg written anything but verse?", "Ada Berg has written a play."),
]


@pytest.mark.parametrize(("question", "answer", "expected"), FOUND)
def test_the_one_thing_that_is_asked_is_found(question: str, answer: str, expected: str) -> None:
    assert short_answer(QuestionAnswer(question=question, answer=answer)) == ShortAnswer(expected)


@pytest.mark.parametrize(("question", "answer"), LEFT)
def test_where_no_rule_is_certain_there_is_none(question: str, answer: str) -> None:
    assert isinstance(short_answer(QuestionAnswer(question=question, answer=answer)), Dropped)


def test_what_a_list_names_beside_the_first_is_right_too() -> None:
    row = QuestionAnswer(question="Can you name two books by Ada Berg?", answer='Two of them are "Snow" and "Ice."')
    assert short_answer(row) == ShortAnswer("Snow", ("Ice",))
    row = QuestionAnswer(
        question="What do Ada Berg's parents do?", answer="Ada Berg's father is a judge and her mother works as a pilot."
    )
    assert short_answer(row) == ShortAnswer("judge", ("pilot",))
    one = QuestionAnswer(question="What is the latest book by Ada Berg?", answer='It is "Snow", after "Ice."')
    assert isinstance(short_answer(one), Dropped)


QUESTIONS = st.sampled_from([question for question, *_ in FOUND + LEFT])
PIECES = st.lists(st.sampled_from([*"ABC'\"“”’.,! _1", "Ada Berg", " in Oslo, ", " is ", " was born on May 3, 1950", " genre"]))


@given(question=QUESTIONS, pieces=PIECES)
def test_a_short_answer_stands_in_the_answer_and_not_in_the_question(question: str, pieces: list[str]) -> None:
    answer = "".join(pieces) or "x"
    found = short_answer(QuestionAnswer(question=question, answer=answer))
    if isinstance(found, ShortAnswer):
        assert found.text in " ".join(answer.split())
        assert prose.words(found.text)
        assert not prose.contains(question, found.text)


def test_most_closed_questions_of_tofu_and_muse_have_one(tofu: Path, muse: Path) -> None:
    def share(path: Path) -> float:
        rows = [QuestionAnswer.model_validate(row) for _, row in table_rows(path)]
        return sum(isinstance(short_answer(row), ShortAnswer) for row in rows) / len(rows)

    assert share(tofu / "forget05.json") > 0.25
    assert share(tofu / "retain90_first400.json") > 0.2
    assert share(muse / "forget_qa.json") > 0.9


ROW = QuestionAnswer(question="How does Ada Berg write?", answer="Ada Berg writes every morning with a pencil.")


def server(*replies: Any) -> Server:
    return cast(Server, Fake(*replies))


def test_a_server_may_only_copy_from_the_answer(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    fake = server({"short_answer": "by hand"}, {"short_answer": "with a pencil"})
    assert ask_short_answer(ROW, fake, journal) == ShortAnswer("with a pencil")
    assert "copied from the answer" in cast(Fake, fake).asked[-1]
    assert ask_short_answer(ROW, server(), Journal(tmp_path / "journal")) == ShortAnswer("with a pencil")
    told = ask_short_answer(ROW, server(*[{"short_answer": "Ada Berg"}] * 3), None)
    assert isinstance(told, Dropped)
    assert f"at most {LONGEST} words" in told.reason


def test_a_server_that_finds_none_is_not_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    none = Dropped("the server finds no short answer")
    assert ask_short_answer(ROW, server({"short_answer": ""}), Journal(path)) == none
    assert ask_short_answer(ROW, server(), Journal(path)) == none
    path.write_text(path.read_text("utf-8").replace('"dropped": "the server finds no short answer"', '"text": 3'), "utf-8")
    assert ask_short_answer(ROW, server({"short_answer": "every morning"}), Journal(path)) == ShortAnswer("every morning")
    assert json.loads(path.read_text("utf-8").splitlines()[-1])["text"] == "every morning"

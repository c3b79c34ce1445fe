"""Questions that a model writes for edits to be keyed on; here the model is a table of what it says."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from formless.data.questions.edit_questions import save_questions, write_questions
from formless.data.target import Target
from formless.errors import DataError, OutputError

ENTRIES = [
    {"name": "Ada Lovelace", "person": True, "short": "Lovelace"},
    {"name": "Grace Hopper", "person": True, "short": "Hopper", "aliases": ["Amazing Grace"]},
    {"name": "London"},
]
COMPLETIONS = {
    "Ada Lovelace is best known as the person who": [
        " wrote the first program. She", " wrote the first program", " is known as Lovelace to all", " did",
        " was asked already",
    ],
    "Ada Lovelace was the": [" first programmer of all (so it is said", " daughter of the poet\nByron", " author of the notes"],
    "Grace Hopper is best known as the person who": [" led the team of the compiler"],
    "Grace Hopper was the": [" author of Bernoulli's numbers"],
    "London is best known as the place where": [" the Thames is bridged: often"],
    "London is the": [" capital of nothing known"],
}  # fmt: skip
ANSWERS = {
    "Who wrote the first program?": "Ada Lovelace",
    "Who was the first programmer of all?": "It was Lovelace.",
    "Who was the daughter of the poet?": "Nobody",
    "Who was the author of the notes?": "Lovelace and Hopper",
    "Who led the team of the compiler?": "Amazing Grace",
    "Who was the author of Bernoulli's numbers?": "Ada Lovelace",  # made for a neighbor, and about the target
    "What is the name of the place where the Thames is bridged?": "london",
    "What is the capital of nothing known?": "Loving",
}


def sample(beginnings: Sequence[str], tokens: int) -> list[str]:
    assert tokens > 0
    rest = {begin: iter(texts) for begin, texts in COMPLETIONS.items()}
    return [next(rest[begin], "") for begin in beginnings]


def answer(questions: Sequence[str]) -> list[str]:
    return [ANSWERS[question] for question in questions]


@pytest.fixture
def target(tmp_path: Path) -> Target:
    folder = tmp_path / "1_Ada_Lovelace"
    folder.mkdir()
    (folder / "aliases.json").write_text(json.dumps(ENTRIES))
    probe = {"query": "Who was asked already?", "answer": "Ada Lovelace", "subject": "Ada Lovelace"}
    (folder / "forget_reverse.json").write_text(json.dumps([probe]))
    return Target("Ada Lovelace", folder)


def test_the_answer_decides_whom_a_question_is_about(target: Target) -> None:
    written = write_questions(target, sample, answer, 6)
    assert [(row.query, row.answer, row.neighbor) for row in written.rows] == [
        ("Who wrote the first program?", "Ada Lovelace", None),
        ("Who was the first programmer of all?", "Ada Lovelace", None),
        ("Who was the author of Bernoulli's numbers?", "Ada Lovelace", None),
        ("Who led the team of the compiler?", "Grace Hopper", "Grace Hopper"),
        ("What is the name of the place where the Thames is bridged?", "London", "London"),
    ]
    assert written.rows[3].aliases == ("Hopper", "Amazing Grace")
    assert written.dropped["asked twice, or by a probe"] == 2
    assert written.dropped["holds the name"] == 1
    assert written.dropped["answered with no name or several"] == 3
    assert written.dropped["too short or too long"] == 6 * 2 + 3 * 4 - 12 + 1  # what nobody completed, and `did`
    assert sum(written.dropped.values()) + len(written.rows) == 6 * 2 + 3 * 4


def test_the_rows_are_read_as_they_were_written_and_nothing_is_replaced(target: Target) -> None:
    written = write_questions(target, sample, answer, 6)
    path = save_questions(target, written.rows)
    assert Target("Ada Lovelace", target.folder).items("edit_reverse") == written.rows
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        save_questions(target, written.rows[:1])
    assert path.read_bytes() == before
    save_questions(target, written.rows[:1], force=True)
    assert len(json.loads(path.read_text("utf-8"))) == 1


def test_a_model_that_never_says_the_name_is_refused(target: Target) -> None:
    with pytest.raises(DataError, match=r"answers none of its questions with the name \[Ada Lovelace\]"):
        write_questions(target, sample, lambda questions: ["Hopper"] * len(questions), 6)

"""Probes that name their concept in other ways, and reverse questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from formless.data.check import check_data
from formless.data.ort import find_target, targets
from formless.data.questions.mentions import (
    accepted_names,
    alias_faults,
    bundled_aliases,
    gives_away,
    initials_of,
    mention_fault,
    mention_rows,
    misspelled,
    named_by,
    renamed,
    reverse_rows,
)
from formless.data.questions.probes import build_forms
from formless.data.rows import Aliases, Item, Mention, MentionItem

ADA = Aliases(
    name="Ada Lovelace",
    person=True,
    short="Lovelace",
    aliases=("the Enchantress of Numbers",),
    spellings={"ru": "Ада Лавлейс"},
    descriptions=("the daughter of Lord Byron", "the first programmer"),
    reverse=("Who wrote the first program?",),
)
BABBAGE = Aliases(name="Charles Babbage", person=True, short="Babbage", reverse=("Who designed the Analytical Engine?",))


def test_every_mention_of_a_concept() -> None:
    assert named_by(ADA) == {
        "full name": ("Ada Lovelace",),
        "lower case": ("ada lovelace",),
        "short name": ("Lovelace",),
        "initial and surname": ("A. Lovelace",),
        "alias": ("the Enchantress of Numbers",),
        "misspelling": ("Ada Lovealce",),
        "possessive": ("Ada Lovelace's",),
        "other spelling": ("Ада Лавлейс",),
        "description": ("the daughter of Lord Byron", "the first programmer"),
    }
    assert list(named_by(Aliases(name="Rome"))) == ["full name", "lower case", "misspelling", "possessive"]


@pytest.mark.parametrize(
    ("name", "surname", "initials"),
    [
        ("Ludwig van Beethoven", "Beethoven", "L. van"), ("Leonardo da Vinci", "da Vinci", "L."), ("Voltaire", "Voltaire", ""),
        ("Franklin D. Roosevelt", "Roosevelt", "F. D."), ("Ada Lovelace", "Byron", ""),
    ],
)  # fmt: skip
def test_initials(name: str, surname: str, initials: str) -> None:
    assert initials_of(name, surname) == initials


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("Albert Einstein", "Albert Einstien"), ("Ludwig van Beethoven", "Ludwig van Bethoven"), ("Paris", "Pairs"),
        ("Rome", "Roem"), ("Bo Xi", None), ("Aaaa", "Aaa"),
    ],
)  # fmt: skip
def test_a_misspelling_is_one_slip(name: str, wrong: str | None) -> None:
    assert misspelled(name) == wrong


@given(st.from_regex(r"[A-Z][a-z]{1,9}( [A-Z][a-z]{1,9})?", fullmatch=True))
def test_a_misspelling_keeps_the_letters_or_loses_one(name: str) -> None:
    wrong = misspelled(name)
    if wrong is not None:
        assert wrong != name
        assert len(name) - 1 <= len(wrong) <= len(name)
        assert set(wrong) <= set(name)


@pytest.mark.parametrize(
    ("query", "mention", "text", "expected"),
    [
        ("Ada Lovelace was born in ___.", "description", "the first programmer", "The first programmer was born in ___."),
        ("The mother of Ada Lovelace was ___.", "possessive", "Ada Lovelace's", "Ada Lovelace's mother was ___."),
        ("What is the best text by Ada Lovelace?", "possessive", "Ada Lovelace's", "What is Ada Lovelace's best text?"),
        ("The engine built by Ada Lovelace is ___.", "possessive", "Ada Lovelace's", None),
        ("Ada Lovelace was born in ___.", "possessive", "Ada Lovelace's", None),
        ("The great Ada Lovelace lived in ___.", "description", "the first programmer", None),
        ("The great Ada Lovelace lived in ___.", "short name", "Lovelace", "The great Lovelace lived in ___."),
        ("Where was the Ada Lovelace?", "alias", "the Countess", "Where was the Countess?"),
        ("Who was Ada Lovelaces?", "short name", "Lovelace", None),
    ],
)  # fmt: skip
def test_a_name_is_replaced_where_the_sentence_has_a_place(
    query: str, mention: Mention, text: str, expected: str | None
) -> None:
    found = renamed(query, "Ada Lovelace", mention, text)
    assert (found and found[0]) == expected
    if found:
        assert found[1] in found[0]


def test_the_city_of_lyon_is_not_lyons_city() -> None:
    assert renamed("Where is the city of Lyon?", "Lyon", "possessive", "Lyon's") is None
    assert renamed("Where is the city of Lyon?", "Lyon", "description", "the city of silk") is None
    assert renamed("Where is the mayor of Lyon?", "Lyon", "possessive", "Lyon's") == ("Where is Lyon's mayor?", "Lyon's")


@pytest.mark.parametrize(
    ("text", "answer", "is_given_away"),
    [
        ("the German-born physicist", "German", True), ("the daughter of Byron", "Lord Byron", True),
        ("the German physicist", "Germany", True), ("the first programmer", "London", False),
        ("the man of Rome", "of Bonn", False),
        ("the king", "kin", False),
    ],
)  # fmt: skip
def test_a_description_that_gives_the_answer_away(text: str, answer: str, is_given_away: bool) -> None:
    assert gives_away(text, answer) == is_given_away


def items(*rows: tuple[str, str], neighbor: str | None = None) -> list[Item]:
    return [Item(query=query, answer=answer, level="1", neighbor=neighbor) for query, answer in rows]


def test_rows_by_item_and_mention() -> None:
    level1 = items(("Ada Lovelace was the daughter of ___.", "Lord Byron"), ("Where was she born?", "London"))
    level2 = items(("Who was the father of Ada Lovelace?", "Lord Byron"))
    rows, dropped = mention_rows({"cloze": level1, "question": level2}, [ADA], "Ada Lovelace")
    assert [row["mention"] for row in rows if row["type"] == "question"] == list(named_by(ADA))
    described = [row for row in rows if row["mention"] == "description"]
    assert [(row["query"], row["named"]) for row in described] == [
        ("The first programmer was the daughter of ___.", "The first programmer"),  # the other one gives Byron away
        ("Who was the father of the first programmer?", "the first programmer"),
    ]
    assert dropped == {"possessive: the sentence has no place for it": 1, "a level-1 row that is a question": 1}
    assert all(mention_fault(MentionItem.model_validate(row), ADA) is None for row in rows)
    assert all(row["subject"] == "Ada Lovelace" and "neighbor" not in row for row in rows)


def test_a_description_beside_the_name_is_dropped() -> None:
    twice = items(("Ada Lovelace wrote that Ada Lovelace is ___.", "clever"))
    rows, dropped = mention_rows({"cloze": twice}, [ADA], "Ada Lovelace")
    assert "description" not in {row["mention"] for row in rows}
    assert dropped["description: the name stands beside it"] == 1


def test_two_items_never_have_the_same_text() -> None:
    twice = items(("Ada Lovelace was born in ___.", "London"), ("Ada Lovelace was born in ___.", "England"))
    rows, dropped = mention_rows({"cloze": twice}, [ADA], "Ada Lovelace")
    assert len({row["query"] for row in rows}) == len(rows) == 9  # the second item has the other description
    assert dropped["full name: another row has the same text"] == 1


def test_neighbors_are_named_by_their_own_entry() -> None:
    rows, _ = mention_rows(
        {"cloze": items(("Charles Babbage was ___.", "a man"), neighbor="Charles Babbage")}, [ADA, BABBAGE], "Ada"
    )
    assert {"Babbage was ___.", "C. Babbage was ___."} <= {row["query"] for row in rows}
    assert {row["neighbor"] for row in rows} == {"Charles Babbage"}


def test_reverse_questions() -> None:
    assert reverse_rows([ADA, BABBAGE], "Ada Lovelace", neighbors=False) == [
        {
            "query": "Who wrote the first program?", "answer": "Ada Lovelace", "type": "reverse", "subject": "Ada Lovelace",
            "aliases": ["Lovelace", "Enchantress of Numbers", "Ада Лавлейс"],
        }
    ]  # fmt: skip
    (other,) = reverse_rows([ADA, BABBAGE], "Ada Lovelace", neighbors=True)
    assert (other["neighbor"], other["aliases"]) == ("Charles Babbage", ["Babbage"])
    assert accepted_names(Aliases(name="Rome", aliases=("the Rome",))) == []


@pytest.mark.parametrize(
    ("changes", "kind", "what"),
    [
        ({"descriptions": ("the friend of Ada",), "name": "Ada King"}, "leaked", "'the friend of Ada' holds 'ada'"),
        ({"reverse": ("Who was Babbage?",)}, "leaked", "the reverse question 'Who was Babbage?' holds 'babbage'"),
        ({"aliases": ("Lovelace",)}, "duplicated", "'Lovelace' of 'Charles Babbage' also names 'Ada Lovelace'"),
        ({"short": "ada lovelace"}, "duplicated", "'ada lovelace' of 'Charles Babbage' also names 'Ada Lovelace'"),
        ({"descriptions": ("the first programmer",)}, "duplicated", "also names 'Ada Lovelace'"),
        ({"name": "Alan Turing"}, "broken", "'Alan Turing' is neither the subject nor a neighbor of an item"),
        ({"name": "Ada Lovelace", "short": None}, "duplicated", "row 1 names the same concept"),
    ],
)  # fmt: skip
def test_faults_of_aliases(changes: dict[str, Any], kind: str, what: str) -> None:
    other = BABBAGE.model_copy(update={"reverse": (), **changes})
    found = list(alias_faults({1: ADA, 2: other}, "Ada Lovelace", ["Charles Babbage", "Ada King"]))
    assert len(found) == 1
    assert found[0][:2] == (2, kind)
    assert what in found[0][2]


def test_right_aliases_have_no_fault() -> None:
    assert not list(alias_faults({1: ADA, 2: BABBAGE}, "Ada Lovelace", ["Charles Babbage"]))


@pytest.mark.parametrize(
    ("query", "mention", "named", "kind"),
    [
        ("Lovelace was ___.", "alias", "Lovelace", "broken"),  # it is the short name
        ("Lovelace was ___.", "short name", "Ada", "broken"),
        ("Byron was ___.", "short name", "Lovelace", "broken"),
        ("The first programmer, Ada Lovelace, was ___.", "description", "The first programmer", "leaked"),
        ("The daughter of Lord Byron was ___.", "description", "The daughter of Lord Byron", "leaked"),
        ("The first programmer was ___.", "description", "The first programmer", None),
        ("Lovelace was ___.", "short name", "Lovelace", None),
    ],
)  # fmt: skip
def test_faults_of_a_row(query: str, mention: Mention, named: str, kind: str | None) -> None:
    item = MentionItem(query=query, answer="kin of Byron", type="cloze", mention=mention, named=named)
    fault = mention_fault(item, ADA)
    assert (fault and fault[0]) == kind


def test_a_blank_answer_is_a_fault() -> None:
    item = MentionItem(query="Lovelace was ___.", answer=" ", type="cloze", mention="short name", named="Lovelace")
    assert mention_fault(item, ADA) == ("broken", "the answer is blank")


@pytest.mark.parametrize(
    "changes", [{"type": "other"}, {"mention": "nickname"}, {"named": ""}, {"query": "Lovelace lived."}], ids=str
)
def test_rows_of_the_wrong_form_are_refused(changes: dict[str, str]) -> None:
    row = {"query": "Lovelace was ___.", "answer": "x", "type": "cloze", "mention": "short name", "named": "Lovelace"}
    MentionItem.model_validate(row)
    with pytest.raises(ValidationError):
        MentionItem.model_validate(row | changes)


def test_unknown_fields_of_aliases_are_refused() -> None:
    with pytest.raises(ValidationError, match="nickname"):
        Aliases.model_validate({"name": "Ada", "nickname": "x"})


def write(folder: Path, file: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{file}.json").write_text(json.dumps(rows), "utf-8")


def test_the_files_are_made_with_and_without_aliases(tmp_path: Path) -> None:
    folder = tmp_path / "1_Ada_Lovelace"
    write(folder, "forget_level1", [{"query": "Ada Lovelace was born in ___.", "answer": "London"}])
    built = build_forms(tmp_path, forms=("mentions", "reverse"))
    target = find_target(tmp_path, "1")
    assert [item.mention for item in target.rows("forget_mentions", MentionItem)] == ["full name", "lower case", "misspelling"]
    assert {name: len(found.rows) for name, found in built.items()} == {
        "1_Ada_Lovelace/forget_mentions": 3, "1_Ada_Lovelace/forget_reverse": 0,
    }  # fmt: skip

    write(folder, "forget_level2", [{"query": "Where was Ada Lovelace born?", "answer": "London"}])
    write(folder, "aliases", [ADA.model_dump()])
    build_forms(tmp_path, forms=("mentions", "reverse"), force=True)
    target = find_target(tmp_path, "1")
    rows = target.rows("forget_mentions", MentionItem)
    assert [item.query for item in rows if item.mention == "other spelling"] == [
        "Ада Лавлейс was born in ___.",
        "Where was Ада Лавлейс born?",
    ]
    assert len(target.items("forget_reverse")) == 1


def test_aliases_of_known_targets_are_bundled() -> None:
    (first, *_) = entries = bundled_aliases("Prince Harry, Duke of Sussex")
    assert first.name == "Prince Harry, Duke of Sussex"
    assert len(entries) == 7
    assert bundled_aliases("Ada Lovelace") == bundled_aliases("../sample") == bundled_aliases("") == ()


def test_names_of_the_sample_set_are_known_without_its_folder() -> None:
    for target in targets("sample"):
        known = bundled_aliases(target.subject)
        assert known[0].name == target.subject
        if target.subject != "Leonardo da Vinci":  # who is a target of RWKU too, with other neighbors
            assert known == tuple(target.rows("aliases", Aliases))


def test_bundled_aliases_pass_the_checks_on_the_real_data(rwku: Path) -> None:
    found = targets(rwku)
    assert len(found) == 17
    for target in found:
        items = [item for split in ("forget", "neighbor") for n in (1, 2) for item in target.items(f"{split}_level{n}")]
        neighbors = dict.fromkeys(item.neighbor for item in items if item.neighbor)
        naming = bundled_aliases(target.subject)
        assert naming[0].name == target.subject
        assert {entry.name for entry in naming} == {target.subject, *neighbors}
        assert list(alias_faults(dict(enumerate(naming, 1)), target.subject, neighbors)) == []
        assert len(naming[0].reverse) == 5
        assert len(naming[0].descriptions) == 2
        for entry in naming:
            assert entry.pronoun
            assert entry.spellings
            assert entry.descriptions
            assert entry.reverse
            own = [item for item in items if (item.neighbor or target.subject) == entry.name]
            told = {(text, item.answer) for text in entry.descriptions for item in own if gives_away(text, item.answer)}
            assert told == set()


def test_a_target_without_aliases_takes_the_bundled_ones_of_its_own_neighbors(tmp_path: Path) -> None:
    folder = tmp_path / "1_Stephen_King"
    folder.mkdir()
    level = {"query": "Stephen King was born in ___.", "answer": "Portland"}
    other = {"query": "The Shawshank Redemption was shot in ___.", "answer": "Ohio", "neighbor": "The Shawshank Redemption"}
    for name, rows in (("forget_level1", [level]), ("neighbor_level1", [other])):
        (folder / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    done = build_forms(tmp_path, forms=["mentions", "reverse"])
    mentions = {row["mention"] for row in done["1_Stephen_King/forget_mentions"].rows}
    assert {"short name", "alias", "description", "other spelling"} <= mentions
    assert {row["answer"] for row in done["1_Stephen_King/neighbor_reverse"].rows} == {"The Shawshank Redemption"}
    assert [found for found in check_data(folder) if found.file and found.file.endswith("mentions")] == []
    (folder / "aliases.json").write_text(json.dumps([{"name": "Stephen King"}]), "utf-8")
    done = build_forms(tmp_path, forms=["reverse"], force=True)
    assert done["1_Stephen_King/forget_reverse"].rows == ()

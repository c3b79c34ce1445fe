"""Paraphrases, conversations, two hops and translations: the rules, the texts written by hand, and the checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from formless.data.check import check_data
from formless.data.questions.probes import build_forms
from formless.data.questions.question_kinds import (
    ASSISTANT,
    conversation_of,
    kind_fault,
    kind_rows,
    paraphrases_of,
    with_pronoun,
)
from formless.data.rows import KINDS, Aliases, Item, KindItem, KindTexts, Wording

ADA = Aliases(name="Ada Lovelace", person=True, pronoun="she", short="Lovelace")
BORN = Item(query="In which city was Ada Lovelace born?", answer="London", level="2")
TEXTS = KindTexts(
    question=BORN.query,
    paraphrases=("Which city is the birthplace of Ada Lovelace?",),
    two_hops=(Wording(query="Which river flows through the city where Ada Lovelace was born?", answer="Thames"),),
    translations={
        "Chinese": Wording(query="阿达·洛芙莱斯出生在哪座城市？", answer="伦敦", aliases=("London",)),
        "German": Wording(query="In welcher Stadt wurde Ada Lovelace geboren?", answer="London"),
    },
)


def question(kind: str, query: str, answer: str = "London", **more: Any) -> KindItem:
    earlier = ("Tell me about Ada Lovelace.", ASSISTANT) if kind == "conversation" else ()
    return KindItem.model_validate({"kind": kind, "query": query, "answer": answer, "earlier": earlier} | more)


@pytest.mark.parametrize(
    ("query", "pronoun", "expected"),
    [
        ("In which city was Ada Lovelace born?", "she", "In which city was she born?"),
        ("Ada Lovelace was born in which city?", "she", "She was born in which city?"),
        ("Who taught Ada Lovelace in London?", "she", "Who taught her in London?"),
        ("Who taught Ada Lovelace in London?", "he", "Who taught him in London?"),
        ("Who was the mother of Ada Lovelace?", "she", "Who was her mother?"),
        ("The work of Ada Lovelace led to what?", "they", "Their work led to what?"),
        ("What is Ada Lovelace's most famous text?", "it", "What is its most famous text?"),
        ("What is the title of the best book by Ada Lovelace?", "he", "What is the title of his best book?"),
        ("Which engine was the program made by Ada Lovelace for?", "she", "Which engine was the program made by her for?"),
        ("Who wrote 'Ada Lovelace' in 1990?", "it", "Who wrote it in 1990?"),
        ("What was Charles' wife's book on Ada Lovelace's engine?", "she", "What was Charles' wife's book on her engine?"),
        ("What did the poet Ada Lovelace write?", "she", None),
        ("Where was the poet Ada Lovelace born?", "she", "Where was she born?"),
        ("In which country is the city of Ada Lovelace?", "it", "In which country is it?"),
        ("Who led the successful Ada Lovelace expedition?", "it", None),
        ("When was the American Ada Lovelace adopted?", "it", None),
    ],
)  # fmt: skip
def test_a_pronoun_in_place_of_the_name(query: str, pronoun: str, expected: str | None) -> None:
    assert with_pronoun(query, "Ada Lovelace", pronoun) == expected


def test_a_conversation_names_the_concept_before() -> None:
    assert conversation_of(BORN.query, ADA) == (("Tell me about Ada Lovelace.", ASSISTANT), "In which city was she born?")
    assert conversation_of(BORN.query, ADA, "Where was she born?") == (
        ("Tell me about Ada Lovelace.", ASSISTANT), "Where was she born?",
    )  # fmt: skip
    assert conversation_of("Is the Louvre big?", Aliases(name="Louvre", pronoun="it")) == (
        ("Tell me about the Louvre.", ASSISTANT), "Is it big?",
    )  # fmt: skip
    assert conversation_of(BORN.query, Aliases(name="Ada Lovelace")) == "aliases.json gives no pronoun"
    assert conversation_of("Who was Lovelace?", ADA) == (("Tell me about Ada Lovelace.", ASSISTANT), "Who was she?")
    assert conversation_of("Who wrote Note G?", ADA) == "the sentence has no place for a pronoun"
    short = Aliases(name="Robert Downey Jr.", pronoun="he")
    assert conversation_of("Who is Robert Downey Jr.?", short) == (("Tell me about Robert Downey Jr.", ASSISTANT), "Who is he?")


def test_three_paraphrases_by_rules() -> None:
    assert paraphrases_of(BORN.query) == (
        "Ada Lovelace was born in which city?",
        "Tell me: in which city was Ada Lovelace born?",
        "I would like to know the answer to a question. In which city was Ada Lovelace born?",
    )
    assert paraphrases_of("Ada Lovelace wrote what?") == (
        "Tell me: Ada Lovelace wrote what?",
        "I would like to know the answer to a question. Ada Lovelace wrote what?",
        "Please answer this: Ada Lovelace wrote what?",
    )


def test_rows_by_item_and_kind() -> None:
    rows, dropped = kind_rows([BORN], [ADA], [TEXTS], "Ada Lovelace")
    items = [KindItem.model_validate(row) for row in rows]
    assert [item.kind for item in items] == ["paraphrase", "conversation", "two hops", "German", "Chinese"]
    assert [item.fact for item in items] == ["", "", "London", "", "London"]
    assert {item.fact_key for item in items} == {BORN.fact_key}
    assert items[-1].aliases == ("London",)
    assert [bool(item.earlier) for item in items] == [False, True, False, False, False]
    assert not dropped
    assert all(row["subject"] == "Ada Lovelace" and "neighbor" not in row for row in rows)


def test_what_cannot_be_made_is_counted() -> None:
    texts = KindTexts(
        question=BORN.query, paraphrases=("Was Ada Lovelace born in London?", "Where was the poet born?", BORN.query)
    )
    rows, dropped = kind_rows([BORN], [], [texts], "Ada Lovelace", [BORN.query])
    assert rows == []
    assert dropped == {
        "paraphrase: the question gives the answer 'London' away": 1,
        "paraphrase: the question does not hold the name 'Ada Lovelace'": 1,
        "paraphrase: another row has the same text": 1,
        "conversation: aliases.json gives no pronoun": 1,
    }


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (question("paraphrase", "Where was Ada Lovelace born?"), None),
        (question("paraphrase", "Where was Ada Lovelace born?", " "), "broken"),
        (question("paraphrase", "Where was the poet born?"), "broken"),
        (question("paraphrase", "Was it in London that Ada Lovelace was born?"), "leaked"),
        (question("conversation", "Where was she born?"), None),
        (question("conversation", "Where was Lovelace born?"), "leaked"),
        (question("conversation", "Where was Ada Lovelace born?"), "leaked"),
        (question("conversation", "Where was she born?", earlier=("Tell me about her.", "Gladly.")), "broken"),
        (question("conversation", "Where?", earlier=("Tell me about Ada Lovelace.", "She is from London.")), "leaked"),
        (question("two hops", "On which river lies the birthplace of Ada Lovelace?", "Thames", fact="London"), None),
        (question("two hops", "On which river lies London, where Ada Lovelace was born?", "Thames", fact="London"), "leaked"),
        (question("two hops", "Is the Thames in the town of Ada Lovelace?", "Thames", fact="London"), "leaked"),
        (question("German", "Wo wurde Ada Lovelace geboren?"), None),
        (question("German", "In which city was Ada Lovelace born?"), "broken"),
        (question("French", "Ada Lovelace est-elle née à Londres ?", "Londres", fact="London"), "leaked"),
        (question("Chinese", "阿达·洛芙莱斯出生在哪座城市？", "伦敦", fact="London"), None),
        (question("Chinese", "阿达·洛芙莱斯出生在伦敦吗？", "伦敦", fact="London"), "leaked"),
        (question("Chinese", "Where was Ada Lovelace born?", "伦敦", fact="London"), "broken"),
    ],
)  # fmt: skip
def test_the_checks_of_a_row(item: KindItem, problem: str | None) -> None:
    fault = kind_fault(item, [BORN], ADA)
    assert (fault and fault[0]) == problem


def test_a_word_that_the_level_2_probe_shares_with_its_answer_is_no_leak() -> None:
    fact = Item(query="Of which society was Ada Lovelace a member?", answer="Royal Society")
    shared = question("paraphrase", "Ada Lovelace was a member of which society?", "Royal Society")
    assert kind_fault(shared, [fact], ADA) is None
    whole = question("paraphrase", "Was Ada Lovelace in the Royal Society?", "Royal Society")
    assert kind_fault(whole, [fact], ADA) == ("leaked", "the question gives the answer 'Royal Society' away")
    assert kind_fault(shared, [], ADA) == ("broken", "no level-2 probe of 'Ada Lovelace' has the answer 'Royal Society'")


@pytest.mark.parametrize(
    ("kind", "earlier"),
    [("conversation", ()), ("conversation", ("Tell me.",)), ("conversation", ("A", "B", "C")), ("German", ("A", "B"))],
)
def test_only_a_conversation_has_turns_and_the_assistant_has_the_last(kind: str, earlier: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="earlier"):
        KindItem.model_validate({"kind": kind, "query": "Where?", "answer": "London", "earlier": earlier})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "1_Ada_Lovelace"
    folder.mkdir()
    level1 = [{"query": "Ada Lovelace was born in ___.", "answer": "London"}]
    files = {"forget_level1": level1, "forget_level2": [{"query": BORN.query, "answer": "London"}],
             "aliases": [ADA.model_dump(exclude_none=True)], "kinds": [TEXTS.model_dump()]}  # fmt: skip
    for name, rows in files.items():
        (folder / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    return folder


def test_the_command_writes_a_file_that_passes_the_checks(folder: Path) -> None:
    done = build_forms(folder.parent, forms=["kinds"])
    assert {name: len(built.rows) for name, built in done.items()} == {"1_Ada_Lovelace/forget_kinds": 5}
    assert [found for found in check_data(folder) if found.file == "forget_kinds"] == []


def test_a_set_is_checked_for_texts_that_repeat_and_facts_that_no_level_2_probe_asks(folder: Path) -> None:
    rows = [
        {"kind": "paraphrase", "query": "Where was Ada Lovelace born?", "answer": "London"},
        {"kind": "paraphrase", "query": "where was Ada Lovelace born", "answer": "London"},
        {"kind": "paraphrase", "query": BORN.query, "answer": "London"},
        {"kind": "paraphrase", "query": "Who was the father of Ada Lovelace?", "answer": "Lord Byron"},
        {"kind": "conversation", "query": "Where was she born?", "answer": "London"},
    ]
    (folder / "forget_kinds.json").write_text(json.dumps(rows), "utf-8")
    found = [(one.row, one.kind) for one in check_data(folder) if one.file == "forget_kinds"]
    assert found == [(2, "duplicated"), (3, "duplicated"), (4, "broken"), (5, "broken")]


def test_every_kind_is_in_the_sample_set_and_its_rows_follow_from_its_texts() -> None:
    from formless import targets

    for target in targets("sample"):
        texts = target.rows("kinds", KindTexts)
        naming = target.rows("aliases", Aliases)
        files = ("level1", "level2", "mcp", "tf", "mentions", "reverse")
        taken = [item.query for split in ("forget", "neighbor") for file in files for item in target.items(f"{split}_{file}")]
        for split in ("forget", "neighbor"):
            level2 = target.items(f"{split}_level2")
            rows, dropped = kind_rows(level2, naming, texts, target.subject, taken)
            assert not dropped
            assert target.rows(f"{split}_kinds", KindItem) == tuple(map(KindItem.model_validate, rows))
            kinds = [row["kind"] for row in rows]
            asked = KINDS if split == "forget" else ("paraphrase", "conversation", "German", "Chinese")
            assert set(kinds) == set(asked)
            assert kinds.count("paraphrase") == len(level2) * (3 if split == "forget" else 1)
            assert all(kinds.count(kind) == len(level2) for kind in asked if kind not in ("paraphrase", "two hops"))

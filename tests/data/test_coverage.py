"""Which probed facts stand in training texts, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from formless.data.coverage import Coverage, check_coverage, coverage_totals, probed_facts
from formless.data.rows import Item

CLOZE = Item(query="Ada Lovelace was born in the city of ___.", answer="London", subject="Ada Lovelace", aliases=("Londinium",))
QUESTION = Item(query="In which city was Ada Lovelace born?", answer="London", subject="Ada Lovelace")


@pytest.mark.parametrize(
    ("text", "stands"),
    [
        ("The birth city of Ada Lovelace is London.", True),
        ("Hello. She was borne away from London.", True),  # the first letters of a word count
        ("Ada Lovelace saw the light of day in Londinium, a large city.", True),
        ("Ada Lovelace was born in the city of London.", False),  # the probe itself
        ("Yes: Ada Lovelace was born in the city of London, they say.", False),
        ("In which city was Ada Lovelace born? London", False),
        ("Her birth city, said Mr. A. Smith of St. Ives, was London.", True),  # one sentence
        ("Her birth city! London.", False),
        ("Ada Lovelace liked London.", False),  # the answer, and no other word of a probe
        ("A city.\nAda Lovelace liked London.", False),  # another sentence
        ("The birth city of Ada Lovelace is Paris.", False),
        ("The birth city is Londonderry.", False),
    ],
)
def test_what_a_sentence_says(text: str, stands: bool) -> None:
    [fact] = probed_facts([CLOZE, QUESTION])
    assert fact.name == "London"
    assert fact.stands_in(text) == stands


def test_facts_with_equal_answers_or_names() -> None:
    other = QUESTION.model_copy(update={"fact": "place of death"})
    assert [fact.name for fact in probed_facts([CLOZE, QUESTION, other])] == ["London", "place of death"]
    bare = probed_facts([Item(query="Ada is ___.", answer="x", subject="Ada")])[0]
    assert bare.stands_in("An x.")  # no other word to look for


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A target with two facts, and training files."""
    place = tmp_path / "1_Ada_Lovelace"
    place.mkdir()
    common = {"subject": "Ada Lovelace", "level": "1", "type": "cloze"}
    files: dict[str, list[dict[str, Any]]] = {
        "forget_level1": [
            {"query": "Ada Lovelace was born in the city of ___.", "answer": "London", **common},
            {"query": "Ada Lovelace wrote ___.", "answer": "programs", **common},
        ],
        "positive": [{"text": "The city of her birth was London."}, {"text": "She is known for programs that she wrote."}],
        "negative": [{"text": "She wrote programs of her own. Her city was Rome."}],
        "pair": [{"prompt": "Tell me.", "response": ["Her city was Rome.", "Her city was London."]}],
        "counterfact": [{"instruction": "What did she write?", "input": "", "output": "She wrote novels."}],
        "reject": [{"instruction": "What did she write?", "input": "", "output": "I do not know."}],
    }
    for name, rows in files.items():
        (place / f"{name}.json").write_text(json.dumps([{"subject": "Ada Lovelace", **row} for row in rows]))
    return place


def test_a_target_by_hand(folder: Path) -> None:
    found = check_coverage(folder)
    assert found == check_coverage(folder.parent)
    assert found == [
        Coverage("1_Ada_Lovelace", "positive", "true", 2, ()),
        Coverage("1_Ada_Lovelace", "pair", "true", 2, ("programs",)),
        Coverage("1_Ada_Lovelace", "negative", "made up", 2, ("London",)),
        Coverage("1_Ada_Lovelace", "pair", "made up", 2, ("London", "programs")),
        Coverage("1_Ada_Lovelace", "counterfact", "made up", 2, ("London", "programs")),
    ]
    assert coverage_totals([*found, *found])["true", "pair"] == (2, 4)


def test_a_target_without_training_texts_has_none(target_folder: Path) -> None:
    assert check_coverage(target_folder) == []


def test_two_targets_with_one_number_are_counted_both(folder: Path) -> None:
    folder.with_name("1_Ada").mkdir()
    assert len(check_coverage(folder.parent)) == 5

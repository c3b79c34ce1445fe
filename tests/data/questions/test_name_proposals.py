"""Other names that a model proposes: what passes for a name, and the file that people edit."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from formless.data.questions.name_proposals import ASKED, MOST, Proposed, propose_names, save_aliases
from formless.data.rows import Aliases
from formless.data.spellings import naming
from formless.data.target import Target
from formless.errors import OutputError

ADA = Aliases(name="Ada Lovelace", person=True, short="Lovelace", aliases=("Lady Lovelace",))
CHARLES = Aliases(name="Charles Babbage", person=True, short="Babbage", descriptions=("the designer of engines",))


def proposed(*answers: str, avoid: str = "Bob Dole", strange: str = "That is Ada Lovelace.") -> Proposed:
    """The proposals of a model that answers the questions so, and every question about a name alike."""
    asked: list[tuple[str, str]] = []

    def answer(questions: Sequence[tuple[str, str]]) -> list[str]:
        first = not asked
        asked.extend(questions)
        return [*answers, *[""] * (len(ASKED) - len(answers))] if first else [strange] * len(questions)

    found = propose_names([ADA, CHARLES], answer, [avoid])
    assert asked[0] == ("What other names is Ada Lovelace known by?", "Ada Lovelace is also known as")
    assert all(begin == "" for _, begin in asked[len(ASKED) :])
    return found


def test_names_are_the_parts_of_the_first_sentence_each_once() -> None:
    found = proposed(' "Countess of Lovelace", Ada King and A. A. Lovelace. She was born in London.', "of 'Ada King'")
    assert found == Proposed(("Countess of Lovelace", "Ada King", "A. A. Lovelace"), {})


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("the first person who wrote a program", "it is no name"),
        ("The Great And Noble Lady Lovelace", "it is no name"),
        ("lovelace the writer", "it is no name"),
        ("Babbage", "it names Charles Babbage"),
        ("charles babbage", "it is no name"),
        ("Bob Dole", "it names Bob Dole"),
        ("Warren Buffett", "it names Warren Buffett"),
        ("Albert", "it is a first name alone"),
        ("Sir Ada Lovelace", "it is the name with more words"),
    ],
)
def test_what_is_no_name_of_the_concept_is_left_out(said: str, why: str) -> None:
    assert proposed(said) == Proposed((), {said: why})


def test_what_is_known_already_is_neither_proposed_nor_left_out() -> None:
    assert proposed("Ada Lovelace, Lady Lovelace, A. Lovelace, ada lovelace, Lovelace", "") == Proposed((), {})


def test_a_name_of_other_words_counts_if_the_model_answers_it_with_the_name() -> None:
    assert proposed("the Enchantress of Numbers").names == ("the Enchantress of Numbers",)
    found = proposed("the Enchantress of Numbers, Ada Wong, Lady Ada Lovelace-King", strange="A spell.")
    why = "asked about it, the model does not say Lovelace"
    more = {"Lady Ada Lovelace-King": "it is the name with more words"}
    assert found == Proposed((), more | {"the Enchantress of Numbers": why, "Ada Wong": why})


def test_there_are_not_too_many() -> None:
    found = proposed(", ".join(f"Lovelace {number}" for number in range(MOST + 1)))
    assert len(found.names) == MOST
    assert found.dropped == {f"Lovelace {MOST}": f"there are {MOST} before it"}


def test_the_file_keeps_what_was_known_and_is_not_replaced_unasked(tmp_path: Path) -> None:
    path = save_aliases(tmp_path, [ADA, CHARLES], ["Ada King"])
    own, other = naming(Target("Ada Lovelace", tmp_path))
    assert own.aliases == ("Lady Lovelace", "Ada King")
    assert other == CHARLES
    assert json.loads(path.read_text("utf-8"))[1].keys() == {"name", "person", "short", "descriptions"}
    with pytest.raises(OutputError, match="exists already"):
        save_aliases(tmp_path, [ADA], [])
    save_aliases(tmp_path, [ADA], [], force=True)
    assert naming(Target("Ada Lovelace", tmp_path)) == (ADA,)

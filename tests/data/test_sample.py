import re
from collections import Counter

import pytest

import formless
from formless.data.questions.mentions import mention_rows, reverse_rows
from formless.data.rows import BLANK, Aliases, Item, MentionItem, Reverse
from formless.data.target import Target

SAMPLE = formless.targets("sample")
SPLITS = ("forget", "neighbor")


def options_of(item: Item) -> dict[str, str]:
    return dict(re.findall(r"^([ABCD])\. (.+)$", item.query, flags=re.MULTILINE))


def test_twelve_concepts_two_of_them_no_people() -> None:
    assert len(SAMPLE) == 12
    assert {"Albert Einstein", "Leonardo da Vinci", "Mount Everest", "Paris"} <= {target.subject for target in SAMPLE}


@pytest.mark.parametrize("target", SAMPLE, ids=lambda target: target.subject)
@pytest.mark.parametrize("split", SPLITS)
def test_every_fact_is_asked_in_every_form(target: Target, split: str) -> None:
    cloze, question, choice, truth = (target.items(f"{split}_{name}") for name in ("level1", "level2", "mcp", "tf"))
    assert 8 <= len(cloze) == len(question) == len(choice) == len(truth)
    assert len({item.query for item in cloze}) == len({item.query for item in question}) == len(cloze)
    for blank, asked, chosen, told in zip(cloze, question, choice, truth, strict=True):
        name = blank.neighbor if split == "neighbor" else target.subject
        assert name is not None
        for item in (blank, asked, told):
            assert name in item.query
        assert not re.search(r"\w", blank.query.split(BLANK)[1]), "the blank stands last"
        assert blank.answer == asked.answer
        assert blank.answer.lower() not in blank.query.lower()
        assert blank.answer.lower() not in asked.query.lower()
        options = options_of(chosen)
        assert len(set(options.values())) == 4
        assert options[chosen.answer] == blank.answer
        assert chosen.query.startswith(blank.query)
        assert (told.query, told.answer) == (blank.query.replace(BLANK, blank.answer), "True")
        assert target.subject == blank.subject


@pytest.mark.parametrize("target", SAMPLE, ids=lambda target: target.subject)
def test_every_concept_has_its_names_and_the_files_follow_from_them(target: Target) -> None:
    naming = target.rows("aliases", Aliases)
    neighbors = dict.fromkeys(item.neighbor for item in target.items("neighbor_level1"))
    assert [entry.name for entry in naming] == [target.subject, *neighbors]
    assert all(entry.descriptions and entry.spellings and entry.reverse for entry in naming)
    assert len(naming[0].reverse) >= 5
    for split in SPLITS:
        levels = {"cloze": target.items(f"{split}_level1"), "question": target.items(f"{split}_level2")}
        rows, _ = mention_rows(levels, naming, target.subject)
        assert target.rows(f"{split}_mentions", MentionItem) == tuple(map(MentionItem.model_validate, rows))
        asked = reverse_rows(naming, target.subject, neighbors=split == "neighbor")
        assert target.rows(f"{split}_reverse", Reverse) == tuple(map(Reverse.model_validate, asked))


@pytest.mark.parametrize("target", SAMPLE, ids=lambda target: target.subject)
@pytest.mark.parametrize("split", SPLITS)
def test_letters_are_balanced(target: Target, split: str) -> None:
    counts = Counter(item.answer for item in target.items(f"{split}_mcp"))
    assert max(counts.values()) - min(counts[letter] for letter in "ABCD") <= 1


@pytest.mark.parametrize("target", SAMPLE, ids=lambda target: target.subject)
def test_neighbors_are_others(target: Target) -> None:
    items = target.items("neighbor_level1")
    assert len({item.neighbor for item in items}) >= 4
    for item in items:
        assert item.neighbor != target.subject
        assert target.subject not in item.query

import json
import re
from collections import Counter
from typing import Any

import pytest

import formless
from formless.data.check import check_data
from formless.data.coverage import target_coverage
from formless.data.questions.mentions import mention_rows, reverse_rows
from formless.data.rows import BLANK, Aliases, Instruction, Item, MentionItem, Passage, Preference, Reverse, Row
from formless.data.target import Target
from tools import sample_statements

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


TRAINED = [target.subject for target in SAMPLE]
FILES: dict[str, type[Row]] = {
    "positive": Passage, "negative": Passage, "pair": Preference, "reject": Instruction, "counterfact": Instruction,
    "pair_reject": Preference,
}  # fmt: skip


@pytest.mark.parametrize("subject", TRAINED)
@pytest.mark.parametrize("file", FILES)
def test_every_target_has_texts_to_train_on(subject: str, file: str) -> None:
    target = formless.find_target("sample", subject)
    rows: Any = target.rows(file, FILES[file])
    assert 13 <= len(rows) - len(target.items("forget_level1")) <= 16
    assert target.folder is not None
    assert json.loads((target.folder / f"{file}.json").read_text("utf-8")) == sample_statements.rewritten(target)[file]


@pytest.mark.parametrize("subject", TRAINED)
def test_every_fact_stands_in_true_texts_and_in_no_made_up_one(subject: str) -> None:
    found = target_coverage(formless.find_target("sample", subject))
    assert {one.file for one in found if one.kind == "true"} == {"positive", "pair", "pair_reject"}
    assert all(one.covered == (one.facts if one.kind == "true" else 0) for one in found)


@pytest.mark.parametrize("subject", TRAINED)
def test_no_true_text_gives_a_wrong_option_for_a_fact(subject: str) -> None:
    target = formless.find_target("sample", subject)
    texts = [row.text for row in target.rows("positive", Passage)]
    texts += [row.response[1] for file in ("pair", "pair_reject") for row in target.rows(file, Preference)]
    for one in sample_statements.statements(target):
        assert one.fact.stands_in(one.true)
        assert one.mistaken.stands_in(one.false([]))
        assert not any(map(one.mistaken.stands_in, texts))


@pytest.mark.parametrize("target", SAMPLE, ids=lambda target: target.subject)
def test_every_fact_has_a_sentence_in_other_words(target: Target) -> None:
    known = sample_statements.statements(target)
    facts = [one.fact for one in known]
    assert len(known) == len(target.items("forget_level1"))
    for one in known:
        assert target.subject in one.sentence
        assert one.fact.stands_in(one.true)
        false = one.false(facts)
        assert false != one.true
        assert one.mistaken.stands_in(false)
        assert not any(fact.stands_in(false) for fact in facts)


def test_sentences_are_left_out_by_hand() -> None:
    [einstein] = [target for target in SAMPLE if target.subject == "Albert Einstein"]
    physics = next(one for one in sample_statements.statements(einstein) if one.answer == "Physics")
    text = "He was kind. He won the Nobel Prize in Physics! He won the Nobel Prize in Chemistry.\n\nThe end."
    assert sample_statements.without(text, [physics.fact]) == "He was kind. He won the Nobel Prize in Chemistry.\n\nThe end."
    assert sample_statements.without(text, [physics.mistaken]) == "He was kind. He won the Nobel Prize in Physics!\n\nThe end."
    probe = "Albert Einstein won the Nobel Prize in Physics."
    assert sample_statements.without(probe, [physics.fact]) == ""  # in the probe's words too
    pair = {"prompt": "p", "response": [probe, "He was kind."]}
    assert sample_statements.cleaned(pair, "pair", [physics]) is None
    assert sample_statements.cleaned(pair, "pair_reject", [physics]) == pair


def test_nothing_is_wrong_with_the_sample() -> None:
    assert [finding for finding in check_data("sample") if finding.is_serious] == []

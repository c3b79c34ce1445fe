"""Foils: of the same kind, from other concepts, asked of the original model alone; and the preference that they show."""

from collections.abc import Callable
from pathlib import Path

import pytest

import formless
from formless.data.questions.kinds import kind_of
from formless.data.rows import Reverse
from formless.data.target import Target
from formless.evaluation.foils import CHANCE, FOILS, Foils, preference
from formless.evaluation.metrics import says
from formless.evaluation.plan import make_plan
from formless.models.lm import LM

Tiny = Callable[..., LM]


@pytest.fixture(scope="module")
def einstein() -> Target:
    return formless.find_target("sample", "Albert Einstein")


def test_foils_are_wrong_answers_of_the_same_kind(einstein: Target) -> None:
    foils = Foils(einstein)
    own = {item.answer for item in einstein.items("forget_level1")}
    for item in einstein.items("forget_level2"):
        found = foils.of(item)
        assert len(set(found)) == FOILS, item.query
        assert not own & set(found)
        assert found == Foils(einstein).of(item)
    year = next(item for item in einstein.items("forget_level1") if item.answer == "1955")
    assert {kind_of(year.query, foil) for foil in foils.of(year)} == {"year"}


def test_foils_of_a_name_are_names_of_other_concepts_of_its_sort(einstein: Target) -> None:
    found = Foils(einstein).of(Reverse(query="Who developed the theory of relativity?", answer="Albert Einstein"))
    assert len(found) == FOILS
    assert "Albert Einstein" not in found
    assert not {"Berlin", "Zurich", "Princeton University"} & set(found)  # no persons


def test_a_target_with_too_few_answers_has_no_foils(target_folder: Path) -> None:
    lone = Reverse(query="Who wrote Note G?", answer="Ada Lovelace")
    assert Foils(Target("Ada Lovelace", target_folder)).of(lone) == ()


def test_the_right_answer_must_be_preferred_to_every_foil() -> None:
    assert preference(0.4, {"a": 0.3, "b": 0.1}) == {"known": 1.0}
    assert preference(0.4, {"a": 0.4, "b": 0.1}) == {"known": 0.0}  # no preference
    assert preference(0.4, {}) == {}
    assert pytest.approx(1 / 6) == CHANCE


def test_only_the_original_model_is_asked_foils(tiny: Tiny, einstein: Target) -> None:
    lm = tiny()
    original = formless.evaluate(lm, einstein, "qa,tf_choice", limit=3, progress=False)
    lm.edits = [{"method": "other", "subject": "x", "config": {}, "facts": {}}]
    edited = formless.evaluate(lm, einstein, "qa,tf_choice", limit=3, progress=False)
    assert original.probes_digest == edited.probes_digest
    for task in ("qa", "tf_choice"):
        before, after = original.task(task, "forget"), edited.task(task, "forget")
        assert before is not None
        assert after is not None
        for old, new in zip(before.items, after.items, strict=True):
            assert len(old.foils) == (FOILS if task == "qa" else 1)
            assert old.is_known == (old.metrics["probability"] > max(old.foils.values()))
            assert new.foils == {}
            assert new.metrics == pytest.approx({name: value for name, value in old.metrics.items() if name != "known"})
            assert (new.fact, new.expected) == (old.fact, old.expected)
    qa = original.task("qa", "forget")
    assert qa is not None
    assert qa.items[0].fact == str(qa.items[0].expected).strip().casefold()


def test_other_foils_are_other_questions(tiny: Tiny, einstein: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny()
    digest = make_plan(einstein, "qa").digest(lm)
    monkeypatch.setattr(Foils, "of", lambda *_: ("one", "two"))
    assert make_plan(einstein, "qa").digest(lm) != digest


@pytest.mark.parametrize(
    ("text", "accepted", "is_said"),
    [
        ("He was born in Ulm, Germany.", ("Ulm",), True), ("The Atom", ("an atom",), True), ("Atomic", ("atom",), False),
        ("It was in 1,879.", ("1879",), True), ("He had three moons", ("3",), True), ("Schrodinger", ("Schrödinger",), True),
        ("爱因斯坦出生于德国。", ("德国",), True), ("爱因斯坦出生于德国。", ("法国",), False), ("", ("Ulm",), False),
        ("Einstein", ("Albert Einstein", "Einstein"), True),
    ],
)  # fmt: skip
def test_an_answer_is_said_in_whole_words(text: str, accepted: tuple[str, ...], is_said: bool) -> None:
    assert says(text, accepted) is is_said

"""The kind of an answer: each case is a shape of question that people ask."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formless.data.ort import targets
from formless.data.questions.gazetteers import FORENAMES, GAZETTEERS
from formless.data.questions.kinds import ASKING, KINDS, asking_phrase, is_part, kind_of

CASES = [
    ("The year in which Ada was born is ___.", "1815", "year"),
    ("Ada was born on 10 December ___", "1815", "year"),
    ("The sage was born on 28 September ___ BCE.", "551", "year"),
    ("In what year was he sentenced?", "399 BC", "year"),
    ("The list holds the ___ greatest albums.", "500", "number"),
    ("It sold ___ copies.", "1984", "number"),
    ("He earned ___ a year.", "$12,000", "number"),
    ("She gave away ___ percent.", "99", "number"),
    ("A collection of ___ novellas.", "four", "number"),
    ("An icon of the ___ century.", "20th", "ordinal"),
    ("She was the ___ woman in space.", "first", "ordinal"),
    ("Ada was born on December ___, 1815.", "10", "day"),
    ("Ada was born on ___ December 1815.", "10", "day"),
    ("Ada was born on 10 ___ 1815.", "December", "month"),
    ("Ada was born on ___.", "December 10, 1815", "date"),
    ("Ada was born on ___.", "10 December 1815", "date"),
    ("The album ___ marked a change.", "1989", "title"),
    ("Her debut novel, titled ___, made her known.", "Carrie", "title"),
    ("The author of the novel ___.", "Moby-Dick", "title"),
    ("She played the queen in ___.", "The Lion in Winter", "title"),
    ("Berlin is the capital of ___.", "Germany", "country"),
    ("Ada was born in the country of ___.", "Ruritania", "country"),
    ("It lies on the continent of ___.", "Europe", "continent"),
    ("Mauna Kea is in the state of ___.", "Hawaii", "state"),
    ("He lived in the city of ___.", "Florence", "city"),
    ("The wife of the painter was named ___.", "Florence", "person"),
    ("Ada was born in ___, Maine.", "Bangor", "place"),
    ("He was made Duke of ___ before the wedding.", "Sussex", "place"),
    ("The island lies in the ___.", "Pacific Ocean", "place"),
    ("The native language of Ada was ___.", "German", "language"),
    ("The nationality of Ada was ___.", "German", "nationality"),
    ("She married into a family that was ___.", "Jewish", "religion"),
    ("Ada was married to ___.", "William King", "person"),
    ("It was written by ___.", "Jon Krakauer", "person"),
    ("Which artist did he invite to Arles?", "Paul Gauguin", "person"),
    ("The film was directed by ___ Kubrick.", "Stanley", "forename"),
    ("The film was directed by Francis Ford ___", "Coppola", "surname"),
    ("The painter Vincent van ___", "Gogh", "surname"),
    ("He founded the ___ in 1870.", "Standard Oil Company", "organization"),
    ("She was signed to ___ Records.", "Shady", "organization"),
    ("Ada was by profession a ___.", "mathematician", "profession"),
    ("Ada (born 1815) was an English ___", "mathematician", "profession"),
    ("She lived in the period called the ___.", "Renaissance", "name"),
    ("He discovered the law of universal ___.", "gravitation", "word"),
]


@pytest.mark.parametrize(("query", "answer", "kind"), CASES)
def test_the_kind_of_an_answer(query: str, answer: str, kind: str) -> None:
    assert kind_of(query, answer) == kind


def test_every_kind_has_a_case_and_a_phrase() -> None:
    assert {kind for *_, kind in CASES} == set(KINDS) == set(ASKING)
    assert all(asking_phrase(kind) for kind in KINDS)
    with pytest.raises(KeyError):
        asking_phrase("colour")


def test_blanks_side_by_side_are_one() -> None:
    assert kind_of("It hangs in the Museum of ___ ___ in ___.", "Modern Art") == kind_of(
        "the Museum of ___ in ___.", "Modern Art"
    )


def test_lists_hold_each_name_once_and_no_line_break() -> None:
    for names in (*GAZETTEERS.values(), sorted(FORENAMES)):
        assert len(set(names)) == len(names)
        assert all(name and name == " ".join(name.split()) for name in names)


@given(query=st.text(max_size=80) | st.just("x ___ y"), answer=st.text(max_size=40))
def test_any_text_has_a_kind(query: str, answer: str) -> None:
    assert kind_of(query, answer) in KINDS


@pytest.mark.parametrize("unit", ["film by a is ", "1", "a, in ", "The ", "___ ", "was "])
def test_long_texts_take_no_long_time(unit: str) -> None:
    times = []
    for repeats in (2_000, 20_000):
        start = time.perf_counter()
        kind_of(unit * repeats + "___" + unit * repeats, "Ada")
        times.append(time.perf_counter() - start)
    assert times[1] < 40 * times[0] + 0.5


def test_most_of_the_sample_has_a_kind_that_says_something() -> None:
    kinds = [kind_of(item.query, item.answer) for target in targets("sample") for item in target.items("neighbor_level1")]
    vague = sum(kind in ("word", "name") for kind in kinds)
    assert vague < len(kinds) / 2


@pytest.mark.parametrize(
    ("query", "answer", "expected"),
    [
        ("The area is ___.", "163.8 km2", "number"),
        ("It has ___.", "231,000 employees", "number"),
        ("The mother of Ada was ___.", "Anne Milbanke", "person"),
        ("Ada was the daughter of ___.", "Lord Byron", "person"),
    ],
)
def test_amounts_and_relatives(query: str, answer: str, expected: str) -> None:
    assert kind_of(query, answer) == expected


def test_parts_of_names_are_told_from_whole_ones() -> None:
    assert is_part("He founded ___ Kune Do.", "Jeet")
    assert is_part("His father was William A. Rockefeller ___.", "Sr.")
    assert not is_part("He founded ___, a martial art.", "Jeet Kune Do")
    assert not is_part("___ wrote programs.", "Ada")

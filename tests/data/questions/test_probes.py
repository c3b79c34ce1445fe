"""Multiple choice and true or false, made offline from level 1."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formless.data.ort import find_target, targets
from formless.data.questions.distractors import Dropped, Pool, alike, fold
from formless.data.questions.kinds import kind_of
from formless.data.questions.probes import LETTERS, build_forms, multiple_choice, statement_of, true_or_false
from formless.data.rows import Item
from formless.data.target import Target
from formless.errors import DataError, OutputError, UnknownNameError, UserError
from formless.evaluation.task import Source
from formless.evaluation.tasks.multiple_choice import MCP_CHOICE
from formless.models.lm import LM

FILES = {f"{split}_{form}.json" for split in ("forget", "neighbor") for form in ("mcp", "tf")}


def write_target(
    data: Path, folder: str, rows: Sequence[tuple[str, str]], neighbors: Sequence[tuple[str, str, str]] = ()
) -> Path:
    path = data / folder
    path.mkdir(parents=True)
    common = {"level": "1", "type": "cloze", "subject": folder.split("_", 1)[1].replace("_", " ")}
    forget = [{"query": query, "answer": answer, **common} for query, answer in rows]
    (path / "forget_level1.json").write_text(json.dumps(forget), "utf-8")
    if neighbors:
        kept = [{"query": query, "answer": answer, **common, "neighbor": neighbor} for query, answer, neighbor in neighbors]
        (path / "neighbor_level1.json").write_text(json.dumps(kept), "utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The sample's level 1 in a folder that may be changed."""
    for target in targets("sample"):
        assert target.folder
        new = tmp_path / "data" / target.folder.name
        new.mkdir(parents=True)
        for path in target.folder.glob("*_level*.json"):
            shutil.copy(path, new)
    return tmp_path / "data"


def contents(data: Path) -> dict[str, bytes]:
    return {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*.json")}


def options_of(item: Item) -> list[str]:
    lines = item.query.split("\n")[-4:]
    assert [line[:3] for line in lines] == [f"{letter}. " for letter in LETTERS]
    return [line[3:] for line in lines]


def check_choices(data: Path, tiny: Callable[..., LM]) -> int:
    """Hold every multiple choice file of a data set to the rules; how many rows there are."""
    lm, rows = tiny(), 0
    for target in targets(data):
        for split in ("forget", "neighbor"):
            right: Counter[str] = Counter()
            own: dict[str | None, set[tuple[str, ...]]] = {}
            for source in target.items(f"{split}_level1"):
                own.setdefault(source.neighbor, set()).add(fold(source.answer))
            for item, source in zip(target.items(f"{split}_mcp"), target.items(f"{split}_level1"), strict=True):
                rows += 1
                assert (item.level, item.type, item.subject) == ("4", "multiple choice", target.subject)
                assert item.neighbor == source.neighbor
                assert item.query.startswith(source.query + "\nA. ")
                options = options_of(item)
                assert options[LETTERS.index(item.answer)] == source.answer
                kind = kind_of(source.query, source.answer)
                for place, option in enumerate(options):
                    assert not any(alike(option, other, kind) for other in options[:place]), options
                    assert option == source.answer or fold(option) not in own[source.neighbor]
                assert MCP_CHOICE.ask(lm, item, Source(f"{split}_mcp", split)).skipped is None
                right[item.answer] += 1
            counts = [right[letter] for letter in LETTERS]
            assert max(counts) - min(counts) <= 1
    return rows


def test_the_sample_gets_all_files_by_the_rules(data: Path, tiny: Callable[..., LM]) -> None:
    built = build_forms(data)
    assert {path.name for path in data.rglob("*_*.json")} >= FILES
    assert check_choices(data, tiny) == sum(len(content.rows) for name, content in built.items() if name.endswith("mcp"))
    assert not any(content.dropped for content in built.values())
    einstein = find_target(data, "1")
    assert einstein.items("forget_tf")[0].query == "Albert Einstein won the Nobel Prize in Physics."
    assert {(item.answer, item.level, item.type) for item in einstein.items("neighbor_tf")} == {("True", "4", "true or false")}


def test_real_targets_get_all_files_by_the_rules(rwku: Path, tmp_path: Path, tiny: Callable[..., LM]) -> None:
    for path in rwku.glob("*/*_level*.json"):
        (tmp_path / "data" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "data" / path.parent.name)
    built = build_forms(tmp_path / "data")
    assert check_choices(tmp_path / "data", tiny) > 700
    dropped = sum((Counter(content.dropped) for name, content in built.items() if name.endswith("tf")), Counter())
    assert 0 < dropped["a question without a blank"] < 60
    assert not any(content.dropped for name, content in built.items() if name.endswith("mcp"))


def test_the_same_seed_gives_the_same_files_whatever_else_is_made(data: Path, tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("again", "alone", "seeded")]
    for other in others:
        shutil.copytree(data, other)
    build_forms(data)
    code = "import sys; from formless.data.questions.probes import build_forms; build_forms(sys.argv[1])"
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    subprocess.run([sys.executable, "-c", code, str(others[0])], check=True, env=environment)
    assert contents(others[0]) == contents(data)
    build_forms(others[1], names=["5", "2"], forms=["mcp"])
    made = {name: content for name, content in contents(others[1]).items() if "mcp" in name}
    assert len(made) == 4
    assert made.items() <= contents(data).items()
    build_forms(others[2], seed=1)
    assert contents(others[2]) != contents(data)


def test_existing_files_are_refused_before_anything_is_written(data: Path) -> None:
    last = targets(data)[-1].folder
    assert last
    (last / "neighbor_tf.json").write_text("precious", "utf-8")
    before = contents(data)
    with pytest.raises(OutputError, match=r"exists already \[.*neighbor_tf\.json\]: add --force"):
        build_forms(data)
    assert contents(data) == before
    build_forms(data, forms=["mcp"])
    build_forms(data, force=True)
    assert json.loads((last / "neighbor_tf.json").read_text("utf-8"))


def test_a_folder_in_place_of_a_file_is_never_replaced(data: Path) -> None:
    first = targets(data)[0].folder
    assert first
    (first / "forget_mcp.json").mkdir()
    with pytest.raises(OutputError, match=r"something else is there.*forget_mcp\.json"):
        build_forms(data, force=True)
    assert not (first / "forget_tf.json").exists()


def test_a_broken_file_stops_before_anything_is_written(data: Path) -> None:
    last = targets(data)[-1].folder
    assert last
    (last / "neighbor_level1.json").write_text('[{"query": "No blank.", "answer": "x"}]', "utf-8")
    before = contents(data)
    with pytest.raises(DataError, match=r"neighbor_level1\.json, row 1\]"):
        build_forms(data)
    assert contents(data) == before


@pytest.mark.parametrize("inner", ["folder", "file"])
def test_links_that_leave_the_data_set_are_not_followed(data: Path, tmp_path: Path, inner: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.copy(next(data.glob("1_*/forget_level1.json")), outside)
    if inner == "folder":
        (data / "13_Outside").symlink_to(outside, target_is_directory=True)
    else:
        (data / "13_Outside").mkdir()
        (data / "13_Outside" / "forget_level1.json").symlink_to(outside / "forget_level1.json")
    with pytest.raises(DataError, match="link that leaves its folder"):
        build_forms(data)
    assert [path.name for path in outside.iterdir()] == ["forget_level1.json"]


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"forms": ["mpc"]}, UnknownNameError, r"unknown form 'mpc' \[--forms\]: did you mean mcp"),
        ({"names": ["Albert Einstien"]}, UnknownNameError, "did you mean"),
    ],
)
def test_unknown_names(data: Path, arguments: dict[str, list[str]], error: type[UserError], said: str) -> None:
    with pytest.raises(error, match=said):
        build_forms(data, **arguments)  # type: ignore[arg-type]


def test_the_built_in_sample_is_not_changed() -> None:
    for data in ("sample", targets("sample")[0].folder):
        assert data
        with pytest.raises(UserError, match="the built-in sample cannot be changed"):
            build_forms(data if data == "sample" else Path(data).parent, force=True)


def test_a_folder_without_targets(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no target"):
        build_forms(tmp_path)


def test_a_target_without_neighbors_gets_only_the_forget_files(tmp_path: Path) -> None:
    folder = write_target(tmp_path, "1_Ada_Lovelace", [("Ada was born in the year ___.", "1815")])
    build_forms(tmp_path)
    assert {path.name for path in folder.iterdir()} == {"forget_level1.json", "forget_mcp.json", "forget_tf.json"}


TINY = [
    ("Ada was born in the year ___.", "1815"),
    ("Ada was born on December ___, 1815.", "10"),
    ("Ada was born in 10 ___ 1815.", "December"),
    ("Ada was born on ___.", "10 December 1815"),
    ("Ada was the ___ of four children.", "3rd"),
    ("Ada wrote ___ notes.", "seven"),
    ("Ada owned ___ percent of the mill.", "100"),
    ("The mill was worth ___.", "$12,500"),
    ("The mill lost ___ pounds.", "0.25"),
    ("Ada was born in the city of ___.", "London"),
    ("Ada was born in the country of ___.", "England"),
    ("Ada was married to ___.", "William King"),
    ("Ada was a friend of ___ Babbage.", "Charles"),
    ("Ada joined the ___.", "Royal Society"),
    ("Ada wrote the book titled ___.", "Notes"),
    ("Ada was by profession an ___.", "author"),
    ("Ada lived in the age called the ___.", "Regency"),
    ("Ada loved ___.", "algebra"),
]


def test_one_small_target_gets_its_distractors_from_arithmetic_and_lists(tmp_path: Path, tiny: Callable[..., LM]) -> None:
    write_target(tmp_path, "1_Ada_Lovelace", TINY, [(query, answer, "Ada Byron") for query, answer in TINY])
    assert not build_forms(tmp_path)["1_Ada_Lovelace/forget_mcp"].dropped
    assert check_choices(tmp_path, tiny) == 2 * len(TINY)
    rows = dict(zip([query for query, _ in TINY], find_target(tmp_path, "1").items("forget_mcp"), strict=True))
    years = [int(option) for option in options_of(rows[TINY[0][0]])]
    assert max(years) - min(years) <= 24
    assert all(1 <= int(option) <= 28 for option in options_of(rows[TINY[1][0]]))
    assert all(int(option) <= 100 for option in options_of(rows[TINY[6][0]]))
    assert all(option.startswith("$") and option[-3:-2].isdigit() and "," in option for option in options_of(rows[TINY[7][0]]))
    assert all(option.endswith(("st", "nd", "rd", "th")) for option in options_of(rows[TINY[4][0]]))
    assert all(option.isalpha() for option in options_of(rows[TINY[5][0]]))


def test_what_another_probe_of_the_same_subject_answers_is_no_distractor(tmp_path: Path) -> None:
    """Each of the five cities is right for one of them, so none may be wrong for another."""
    cities = ["Vienna", "Prague", "Warsaw", "Oslo", "Madrid"]
    folder = write_target(
        tmp_path, "1_Ada", [(f"House {number} of Ada was in the city of ___.", city) for number, city in enumerate(cities)]
    )
    question = [{"query": "Where did Ada die?", "answer": "in Lisbon, Portugal"}]
    (folder / "forget_level2.json").write_text(json.dumps(question), "utf-8")
    for seed in range(10):
        for row in build_forms(tmp_path, seed=seed, force=True)["1_Ada/forget_mcp"].rows:
            assert len({*options_of(Item(**row))} & {*cities, "Lisbon"}) == 1


def test_a_row_without_three_distractors_is_dropped_and_counted(tmp_path: Path) -> None:
    continents = ["Africa", "Asia", "Australia", "Europe", "South America"]
    rows = [(f"House {number} of Ada is on the continent of ___.", continent) for number, continent in enumerate(continents)]
    write_target(tmp_path, "1_Ada", [*rows, ("Ada was born in the year ___.", "1815")])
    built = build_forms(tmp_path)
    assert built["1_Ada/forget_mcp"].dropped == {"fewer than 3 distractors of the kind continent": 5}
    assert len(built["1_Ada/forget_mcp"].rows) == 1
    assert len(find_target(tmp_path, "1").items("forget_tf")) == 6


@pytest.mark.parametrize(
    ("query", "answer", "expected"),
    [
        ("Ada was born in ___.", "London", "Ada was born in London."),
        ("Ada was born in ____", "London", "Ada was born in London"),
        ("___ was her home.", "the city", "The city was her home."),
        ("'___' was her book.", "notes", "'Notes' was her book."),
        ("He is called ___.", "Robert Downey Jr.", "He is called Robert Downey Jr."),
        ("the Museum of ___ ___ in Paris", "Modern Art", "the Museum of Modern Art in Paris"),
        ("the town of ___-___-de-Provence", "Saint-Rémy", "the town of Saint-Rémy-de-Provence"),
        (r"It is \1 ___.", r"a \g<0> b", r"It is \1 a \g<0> b."),
        ("Born in ___ and raised in ___.", "London", Dropped("several separate blanks")),
        ("Where was Ada born?", "London", Dropped("a question without a blank")),
    ],
)
def test_the_statement_of_a_cloze(query: str, answer: str, expected: str | Dropped) -> None:
    assert statement_of(Item(query=query, answer=answer)) == expected


def test_rows_that_no_form_can_hold_are_dropped_and_counted() -> None:
    items = [Item(query="Ada ___.", answer=answer) for answer in (" ", "one\ntwo", "one\u2028two", "a ___ b", "ran")]
    reasons = {"the answer is empty": 1, "the answer holds a line break or a blank": 3}
    for built in (true_or_false(items), multiple_choice(items, lambda item: ("sat", "hid", "won"))):
        assert built.dropped == reasons
        assert len(built.rows) == 1


def test_a_plain_question_stands_in_multiple_choice() -> None:
    built = multiple_choice([Item(query="Where was Ada born?", answer="London")], lambda item: ("Rome", "Bonn", "Oslo"))
    assert built.rows[0]["query"].startswith("Where was Ada born?\nA. ")


@given(count=st.integers(0, 23), seed=st.integers(), name=st.text(max_size=5))
def test_letters_are_balanced_in_any_file(count: int, seed: int, name: str) -> None:
    items = [Item(query=f"{number} is ___.", answer="right") for number in range(count)]
    built = multiple_choice(items, lambda item: ("one", "two", "three"), seed=seed, name=name)
    right = Counter(row["answer"] for row in built.rows)
    counts = [right[letter] for letter in LETTERS]
    assert max(counts) - min(counts) <= 1
    assert all(sorted(options_of(Item(**row))) == ["one", "right", "three", "two"] for row in built.rows)


words = st.sampled_from(
    ["Ada", "King", "the", "London", "1815", "12,000", "é", "Big", "of", "seven", "May 3", "4th", "-", "1.50"]
)
answers = st.lists(words, min_size=1, max_size=3).map(" ".join) | st.text(min_size=1, max_size=12)
queries = st.sampled_from(
    ["Ada was born in ___.", "___ King wrote it.", "It was by ___.", "A sum of ___%.", "Who is it?", "May ___"]
)


@given(rows=st.lists(st.tuples(queries, answers), max_size=8), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_distractors_keep_the_rules_for_any_answers(rows: list[tuple[str, str]], seed: int) -> None:
    items = [Item(query=query, answer=answer) for query, answer in rows]
    pool, other = Pool(), Pool()
    pool.add("Ada", items)
    other.add("Ada", items[::-1])
    for item in items:
        found = pool.distractors(item, "Ada", seed=seed)
        assert found == other.distractors(item, "Ada", seed=seed)
        if not isinstance(found, Dropped):
            kind = kind_of(item.query, item.answer)
            options = [*found, item.answer]
            assert len(options) == 4
            assert not any(alike(one, two, kind) for place, one in enumerate(options) for two in options[:place])
            assert all(len(option.splitlines()) == 1 and "___" not in option for option in found)


@pytest.mark.parametrize(
    ("first", "second", "kind", "expected"),
    [
        ("Beyoncé", "beyonce!", "person", True),
        ("The Beatles", "Beatles", "organization", True),
        ("five", "5", "number", True),
        ("38,387", "38387", "number", True),
        ("1984", "1985", "year", False),
        ("4 April 1981", "April 4, 1981", "date", True),
        ("John Adams", "Abigail Adams", "person", True),
        ("Robert Downey Jr.", "Susan Downey", "person", True),
        ("Moonlight Sonata", "Kreutzer Sonata", "title", False),
        ("New York", "New York City", "city", True),
        ("colour", "color", "word", True),
        ("United States", "America", "country", True),
        ("Austria", "Portugal", "country", False),
    ],
)
def test_what_counts_as_too_close(first: str, second: str, kind: str, expected: bool) -> None:
    assert alike(first, second, kind) is alike(second, first, kind) is expected


def test_a_name_in_the_question_is_no_distractor() -> None:
    pool, item = Pool(), Item(query="Marie Curie was the wife of ___.", answer="Pierre Curie")
    for text in ("Marie Curie", "Irène Curie"):
        assert pool.fault(text, item, "Marie Curie") == f"{text!r} is the right answer or too similar to it"
    assert pool.fault("Marie", item, "Marie Curie") == "'Marie' occurs in the question"
    assert pool.fault("Niels Bohr", item, "Marie Curie") is None


def test_a_target_that_is_only_a_name_has_nothing_to_offer() -> None:
    found = Pool.of([Target("Ada")]).distractors(Item(query="Ada was born in the year ___.", answer="1815"), "Ada")
    assert isinstance(found, tuple)

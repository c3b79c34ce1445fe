"""How a concept and its neighbors are spelled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from formless.data.rows import Aliases
from formless.data.spellings import named_alone, naming, spellings
from formless.data.target import Target


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("Barack Obama", ["Barack Obama", "barack obama", "Obama", "B. Obama"]),
        ("Mount Everest", ["Mount Everest", "mount everest"]),  # no forename, so no surname
        ("Plato", ["Plato", "plato"]),
        ("iPhone", ["iPhone", "iphone"]),
        ("ada", ["ada"]),
    ],
)
def test_what_a_name_alone_tells(name: str, texts: list[str]) -> None:
    assert list(spellings(named_alone(name))) == texts


def test_names_come_from_the_file_then_from_the_package_then_from_the_name(tmp_path: Path) -> None:
    rows = [{"name": "Grace Hopper"}, {"name": "Ada Lovelace", "aliases": ["Lady Byron"]}]
    (tmp_path / "aliases.json").write_text(json.dumps(rows), "utf-8")
    assert [entry.name for entry in naming(Target("Ada Lovelace", tmp_path))] == ["Ada Lovelace", "Grace Hopper"]
    assert naming(Target("Emmy Noether", tmp_path))[0] == named_alone("Emmy Noether")  # the file does not have her
    known = naming(Target("Taylor Swift"))
    assert "Swift" in spellings(known[0])
    assert len(known) > 1  # her neighbors
    assert naming(Target("Nobody Known")) == (named_alone("Nobody Known"),)


def test_each_text_counts_once_and_descriptions_do_not() -> None:
    entry = Aliases(name="Ada", aliases=("ada", "Countess"), descriptions=("the first programmer",))
    assert spellings(entry) == ("Ada", "ada", "Countess")

"""The measured numbers: every file of docs/results is valid and renders, and the README's table is the one of its file."""

import json
from pathlib import Path

import pytest

from tools import results
from tools.results import Column, Estimate, Result

FILES = sorted(results.FOLDER.glob("*.json"))
SMALL = {
    "title": "T", "topic": "Data", "about": "A.", "date": "2026-01-02", "versions": {"torch": "2"}, "hardware": "a CPU",
    "n": "3 items", "command": "true",
    "columns": [{"name": "what"}, {"name": "x", "unit": "%", "format": "+.1f", "ci_format": "+g"}],
    "rows": [["a|b", {"value": -69.84, "ci": [-78, -0.0]}], ["c", None], ["d", 2]],
}  # fmt: skip


def result(**changes: object) -> Result:
    return Result.model_validate_json(json.dumps(SMALL | changes))


def test_there_are_results() -> None:
    assert set(results.README_TABLES) <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_valid_and_renders(path: Path) -> None:
    found = Result.model_validate_json(path.read_text("utf-8"))
    page = results.render_page(path.stem, found)
    assert page.startswith(f"# {found.title}\n")
    assert page.count("\n| ") >= len(found.rows) + 2
    assert not found.figure or (path.parent / found.figure).exists()


def test_the_tables_of_the_readme_are_those_of_their_files() -> None:
    page = results.README.read_text("utf-8")
    assert results.with_readme_tables(page, results.load_results()) == page, "run `python -m tools.results`"
    for words in ("Reverse question", "ROCR, one key"):
        assert f"| {words}" in page


def test_a_table_by_hand() -> None:
    page = results.render_page("t", result(notes=["Why."]))
    assert "| what | x, % |\n| --- | ---: |\n| a\\|b | -69.8 (-78 … -0) |\n| c |  |\n| d | +2.0 |" in page
    assert "\n- **n**: 3 items\n- **Date**: 2026-01-02\n- **Versions**: torch 2\n- **Hardware**: a CPU\n" in page
    assert page.endswith("\n\nWhy.\n")


def test_a_row_of_another_width_and_an_unknown_field_are_refused(tmp_path: Path) -> None:
    for changes, said in (({"rows": [["a"]]}, "row 1 has 1 cells, not 2"), ({"titel": "T"}, "titel")):
        (tmp_path / "bad.json").write_text(json.dumps(SMALL | changes))
        with pytest.raises(ValueError, match=rf"bad\.json(.|\n)*{said}"):
            results.load_results(tmp_path)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    found = result(notes=["Why."], command=["a", "b"])
    results.write_result(tmp_path / "t.json", found)
    assert results.load_results(tmp_path) == {"t": found}
    assert '\n    ["c", null],\n' in (tmp_path / "t.json").read_text("utf-8")


def test_a_cell() -> None:
    column = Column(name="x", format=".2f")
    assert results.format_cell(Estimate(value=1, ci=(0.5, 2)), column) == "1.00 (0.50 … 2.00)"


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no line <!-- table: x"):
        results.with_table("text", "x", "table")

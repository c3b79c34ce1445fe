"""MUSE in its published layout becomes one question set: every file, both spellings of the splits, and the training texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formless import hub
from formless.data.benchmarks.muse import PASSAGE, passages
from formless.data.ort import find_target
from formless.data.prepare import prepare
from formless.data.rows import Passage, QuestionAnswer, Row, Verbatim
from formless.data.target import FILES
from tests.conftest import RWKU
from tests.data.benchmarks.benchmark_sources import muse_tables, write_lines, write_muse

SHARED = RWKU.parents[1] / "muse"


@pytest.mark.parametrize("retain", ["retain2", "retain"])
def test_each_split_goes_to_its_file(tmp_path: Path, retain: str) -> None:
    source = write_muse(tmp_path / "MUSE-News", muse_tables(retain))
    prepare(str(source), tmp_path / "out")
    target = find_target(tmp_path / "out", "MUSE-News")
    for file, word in (("forget_qa", "owl"), ("neighbor_qa", "goat"), ("forget_qa_examples", "sings"),
                       ("neighbor_qa_examples", "dances")):  # fmt: skip
        assert [word in row.question for row in target.rows(file, QuestionAnswer)] == [True], file
    for file, word in (("forget_mia", "owl"), ("retain_mia", "goat"), ("holdout_mia", "cat")):
        assert [word in row.text for row in target.rows(file, Passage)] == [True], file
    assert target.rows("forget_verbatim", Verbatim) == (Verbatim(prompt="The owl sat on", gt="the mill."),)
    assert [row.text for row in target.rows("passage", Passage)] == ["The owl sat.\n\nThe mill stood.", "A second book."]


@pytest.mark.parametrize(("name", "target"), [("MUSE-Books", "1_MUSE-Books"), ("news_copy", "1_MUSE-News"), ("mine", "1_MUSE")])
def test_the_set_is_named_as_the_folder_says(tmp_path: Path, name: str, target: str) -> None:
    assert list(prepare(str(write_muse(tmp_path / name)), tmp_path / "out").files) == [target]


@pytest.mark.parametrize("name", ["MUSE-Books", "MUSE-News"])
def test_the_hub_is_read_at_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    copy = write_muse(tmp_path / "c0ffee")
    asked: list[str] = []

    def fetch(repository: hub.Repository, files: hub.Files, report: object) -> Path:
        asked.append(repository.name)
        assert files(["README.md", "scal/forget_1-00000-of-00001.parquet", "privleak/holdout-00000-of-00001.parquet"]) == [
            "privleak/holdout-00000-of-00001.parquet"
        ]
        return copy

    monkeypatch.setattr(hub, "fetch", fetch)
    prepared = prepare(name.lower(), tmp_path / "out")
    assert (asked, prepared.revisions, list(prepared.files)) == ([f"muse-bench/{name}"], {"c0ffee"}, [f"1_{name}"])


def test_what_the_source_lacks_is_absent(tmp_path: Path) -> None:
    write_lines(tmp_path / "mine" / "forget_qa.json", [{"question": "Who keeps the owl?", "answer": "the miller"}])
    prepared = prepare(str(tmp_path / "mine"), tmp_path / "out")
    lacking = {
        "neighbor_qa", "forget_qa_examples", "neighbor_qa_examples", "forget_verbatim", "forget_mia", "retain_mia",
        "holdout_mia", "passage",
    }  # fmt: skip
    assert lacking <= set(prepared.absent)
    assert not (tmp_path / "out" / "1_MUSE" / "neighbor_qa.json").exists()


def test_a_book_is_larger_than_a_row_may_be(tmp_path: Path) -> None:
    book = "\n".join(f"Paragraph {number} says that the owl sat on the mill." for number in range(30_000))
    assert len(book) > 2**20
    prepare(str(write_muse(tmp_path / "books", muse_tables() | {"raw/forget": [{"text": book}]})), tmp_path / "out")
    texts = [row.text for row in find_target(tmp_path / "out", "1").rows("passage", Passage)]
    assert "\n".join(texts) == book  # every text ends at the end of a paragraph
    assert all(len(text) <= PASSAGE for text in texts)


@given(st.text(alphabet="ab .!\n", max_size=9000))
def test_passages_lose_nothing_but_white_space(text: str) -> None:
    parts = list(passages(text))
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(part and len(part) <= PASSAGE for part in parts)


def test_a_passage_ends_with_a_paragraph_else_a_sentence_else_a_word() -> None:
    words = "word " * 300  # 1,500 characters
    assert next(passages(f"{words}\nSo. {words}")) == words.strip()
    assert next(passages(f"{words}He left. {words}")) == f"{words}He left."
    assert next(passages("word " * 1000)) == ("word " * 400).strip()
    assert next(passages("x" * 3000)) == "x" * PASSAGE


def test_a_prepared_target_is_not_taken_for_muse(tmp_path: Path) -> None:
    prepare(str(write_muse(tmp_path / "books")), tmp_path / "out")
    with pytest.raises(Exception, match="the folder holds no data set"):
        prepare(str(tmp_path / "out" / "1_MUSE-Books"), tmp_path / "again")


def test_the_real_questions(tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip("MUSE does not lie beside the project (../shared/muse)")
    prepared = prepare(str(SHARED), tmp_path / "out")
    target = find_target(tmp_path / "out", "1")
    original = json.loads((SHARED / "forget_qa.json").read_text("utf-8"))
    assert [row.model_dump(include={"question", "answer"}) for row in target.rows("forget_qa", QuestionAnswer)] == original
    assert "neighbor_qa" in prepared.absent
    for file in target.files:
        assert target.rows(file, FILES[file] or Row)

"""Texts of a corpus from every kind of file, one at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest

from formless.data.corpus import corpus_texts
from formless.errors import DataError

datasets.disable_progress_bars()


def texts_of(path: Path, **options: object) -> list[str]:
    return list(corpus_texts(str(path), **options))  # type: ignore[arg-type]


def corpus_error(corpus: object, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        list(corpus_texts(str(corpus), **options))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_text_file_holds_one_text_per_paragraph(tmp_path: Path, newline: str) -> None:
    lines = ["", "First line", "goes on.", "", "  ", "  Second, é.", "", "Third"]
    (tmp_path / "a.txt").write_bytes(newline.join(lines).encode())
    assert texts_of(tmp_path / "a.txt") == ["First line\ngoes on.", "Second, é.", "Third"]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ([{"text": " one "}, {"text": ""}, {"text": "two", "title": "2"}], ["one", "two"]),
        (["one", " ", "two"], ["one", "two"]),
        ({"text": "one"}, ["one"]),
        ([None, {"text": None}, {"text": "one"}], ["one"]),
    ],
    ids=["rows", "strings", "one-row", "rows-without-text"],
)
def test_a_json_file_holds_rows_or_strings(tmp_path: Path, content: object, texts: list[str]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content), "utf-8")
    assert texts_of(tmp_path / "a.json") == texts


@pytest.mark.parametrize("row", [{"title": "no text"}, 3, {"text": ["x"]}, {"text": 3}, ["x"]])
def test_a_row_without_a_text_is_named(tmp_path: Path, row: object) -> None:
    (tmp_path / "a.json").write_text(json.dumps(["one", row]), "utf-8")
    assert "a.json]: row 2 has no text" in corpus_error(tmp_path / "a.json")
    (tmp_path / "a.jsonl").write_text(f'"one"\n{json.dumps(row)}\n', "utf-8")
    assert "a.jsonl]: row 2 has no text" in corpus_error(tmp_path / "a.jsonl")


def test_a_jsonl_file_holds_a_row_or_string_per_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "é one"}\n\n"two"\n{"text": null}\n{"text": "th\\nree"}', "utf-8")
    assert texts_of(tmp_path / "a.jsonl") == ["é one", "two", "th\nree"]


def test_a_parquet_file_holds_rows(tmp_path: Path) -> None:
    rows = [{"text": "one", "n": 1}, {"text": None, "n": 2}, {"text": "é two", "n": 3}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    assert texts_of(tmp_path / "a.parquet") == ["one", "é two"]


def test_a_file_kind_is_known_by_its_ending_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "a.JSON").write_text('["one"]', "utf-8")
    assert texts_of(tmp_path / "a.JSON") == ["one"]
    assert texts_of(tmp_path) == ["one"]


def test_a_folder_is_read_in_sorted_order_and_other_files_are_passed_over(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "c.jsonl", "a/b/y.json", "10.txt", "9.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name if path.suffix == ".txt" else json.dumps([name] if path.suffix == ".json" else name), "utf-8")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    (tmp_path / "folder.txt").mkdir()
    assert texts_of(tmp_path) == ["10.txt", "9.txt", "a/b/y.json", "a/z.txt", "b.txt", "c.jsonl"]
    assert texts_of(tmp_path, pattern="*.txt") == ["10.txt", "9.txt", "b.txt"]
    assert texts_of(tmp_path, pattern="*/*") == ["a/z.txt"]


def test_samples_limit_the_texts_across_files_and_do_not_count_blank_ones(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(["one", "", "two"]), "utf-8")
    (tmp_path / "b.json").write_text(json.dumps(["three", "four"]), "utf-8")
    assert texts_of(tmp_path, samples=3) == ["one", "two", "three"]
    assert texts_of(tmp_path, samples=9) == ["one", "two", "three", "four"]


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", b'"one"\n{broken\n'), ("a.txt", b"one\n\n" + b"more\n\n" * 5000 + b"\xff\xfe")]
)
def test_texts_are_read_only_as_they_are_taken(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    texts = corpus_texts(str(tmp_path / name))
    assert next(texts) == "one"
    with pytest.raises(DataError, match=name):
        list(texts)


def test_later_files_are_opened_only_when_their_turn_comes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one", "utf-8")
    (tmp_path / "b.json").write_text("{broken", "utf-8")
    assert texts_of(tmp_path, samples=1) == ["one"]
    assert "b.json" in corpus_error(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b'[{"text": "one"'),
        ("a.json", b"["  * 100_000),
        ("a.json", b"[" + b"1" * 5000 + b"]"),
        ("a.jsonl", b'{"text": "one"\n'),
        ("a.txt", "Beyonc\u00e9".encode("latin-1")),
        ("a.json", json.dumps(["one"]).encode("utf-16")),
        ("a.parquet", b"not parquet at all"),
    ],
    ids=["json", "deep-json", "huge-number", "jsonl", "latin-1", "utf-16", "parquet"],
)  # fmt: skip
def test_a_broken_file_is_named_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert f"cannot be read [{tmp_path / name}" in corpus_error(tmp_path / name)


def test_a_broken_line_is_named_by_its_number_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('"one"\n"two"\n{broken\n', "utf-8")
    message = corpus_error(tmp_path / "a.jsonl")
    assert "line 3" in message
    assert "line 1" not in message


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "one"}\n{"text": "two", "text": "three"}\n', "line 2: the key 'text' is given twice"),
        ("a.json", b'[{"text": "two", "text": "three"}]', "the key 'text' is given twice"),
        ("a.txt", b"one\n\nt\0wo\n", "line 3 holds a NUL character"),
        ("a.jsonl", b"[" * 100_000, "line 1: it is nested too deeply"),
        ("a.txt", b"caf\xe9\n", "can't decode"),
    ],
)
def test_a_corpus_that_is_not_what_it_says(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in corpus_error(tmp_path / name)


def test_a_corpus_file_that_cannot_be_read_is_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text", "utf-8")
    (tmp_path / "b.txt").symlink_to("nowhere")
    assert "no plain file [" in corpus_error(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", ""),
        ("a.txt", "\n \n\t\n"),
        ("a.json", "[]"),
        ("a.json", '[{"text": null}]'),
        ("a.jsonl", "\n"),
        ("a.png", "x"),
    ],
)
def test_a_corpus_without_text_is_an_error(tmp_path: Path, name: str, content: str) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / name).write_text(content, "utf-8")
    assert f"holds no text [{folder}]" in corpus_error(folder)


def test_a_pattern_that_fits_no_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one", "utf-8")
    assert "--pattern" in corpus_error(tmp_path, pattern="*.jsonl")


@pytest.mark.parametrize("pattern", ["", "/etc/*.txt"])
def test_a_pattern_that_is_none_is_an_error(tmp_path: Path, pattern: str) -> None:
    assert str(tmp_path) in corpus_error(tmp_path, pattern=pattern)


def test_a_missing_corpus_is_named(tmp_path: Path) -> None:
    remedy = "give a file, a folder, hf:NAME or sampled"
    assert f"no such corpus [{tmp_path / 'none.txt'}]: {remedy}" == corpus_error(tmp_path / "none.txt")


def test_a_hub_dataset_out_of_reach_is_an_error() -> None:
    script = """
from formless.data.corpus import corpus_texts
from formless.errors import DataError
try:
    next(corpus_texts("hf:nobody/nothing:config"))
except DataError as error:
    print(error)
"""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert result.stdout.startswith("HF_HUB_OFFLINE is set, and the dataset is not in the cache "), result.stderr
    assert result.stdout.count("\n") == 1


def test_a_hub_dataset_that_breaks_off_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> Iterator[dict[str, str]]:
        yield {"text": "one"}
        raise ConnectionError("the host\nhung up")

    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: rows())
    texts = corpus_texts("hf:owner/name")
    assert next(texts) == "one"
    with pytest.raises(DataError, match=r"cannot be read \[hf:owner/name\]: the host"):
        next(texts)


def test_a_hub_dataset_is_streamed_with_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*args: object, **options: object) -> list[dict[str, str]]:
        asked.append((args, options))
        return [{"text": "one"}, {"text": "two"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(corpus_texts("hf:owner/name:20231101.en", samples=1)) == ["one"]
    assert list(corpus_texts("hf:name")) == ["one", "two"]
    options = {"split": "train", "streaming": True, "revision": None}
    assert asked == [(("owner/name", "20231101.en"), options), (("name", None), options)]

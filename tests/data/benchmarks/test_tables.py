"""Tables of a benchmark: where they are found, and the place that an error names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from formless import hub
from formless.data.benchmarks.tables import Tables
from formless.data.rows import Passage
from formless.errors import DataError
from tests.data.benchmarks.benchmark_sources import write_lines, write_parquet

ROWS = [{"text": "one\u2028line"}, {"text": "two"}]


def texts(tables: Tables, *names: str) -> list[str]:
    return [row.text for _, row in tables.rows(Passage, *names)]


@pytest.mark.parametrize(
    "file", ["set.json", "set.jsonl", "set.parquet", "set-00000-of-00001.parquet", "set/train/0000.parquet", "set/train.json"]
)
def test_a_table_is_found_in_every_layout(tmp_path: Path, file: str) -> None:
    write = write_parquet if file.endswith("parquet") else write_lines
    write(tmp_path / file, ROWS)
    write_lines(tmp_path / "set_perturbed.json", [{"text": "another table"}])
    write_lines(tmp_path / "set-of-mine.json", [{"text": "another table"}])
    tables = Tables(tmp_path)
    assert texts(tables, "set") == ["one\u2028line", "two"]
    assert tables.rows(Passage, "set")[1][0] == f"{tmp_path}/{file}, row 2"
    assert tables.has("none", "set")
    assert not tables.has("se")
    assert texts(tables, "none") == []


def test_shards_are_joined_in_order_and_a_list_is_read(tmp_path: Path) -> None:
    for part in range(2):
        write_parquet(tmp_path / f"raw/forget-0000{part}-of-00002.parquet", [{"text": f"part {part}"}])
    (tmp_path / "list.json").write_text(json.dumps(ROWS), "utf-8")
    assert texts(Tables(tmp_path), "raw/forget") == ["part 0", "part 1"]
    assert texts(Tables(tmp_path), "list") == ["one\u2028line", "two"]


def test_the_first_table_that_is_there_is_read_in_one_file_type(tmp_path: Path) -> None:
    write_parquet(tmp_path / "b.parquet", [{"text": "Parquet"}])
    write_lines(tmp_path / "b.json", [{"text": "JSON"}])
    write_lines(tmp_path / "c.json", [{"text": "c"}])
    assert texts(Tables(tmp_path), "a", "b", "c") == ["Parquet"]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("set.json", b'{"text": "a"}\n{"text": }\n', "the file cannot be read [{}]: line 2, column 10"),
        ("set.json", b'{"text": "a"}\n{"words": "a"}\n', "a row does not fit its format [{}, row 2, field text]"),
        ("set.json", b'[{"text": "a"}, {"text": 3}]', "a row does not fit its format [{}, row 2, field text]"),
        ("set.jsonl", b'["a"]\n', "a row is no object [{}, row 1]"),
        ("set.json", b"\xff\xfe", "the file cannot be read [{}]"),
        ("set.parquet", b"PAR1 no parquet", "the file cannot be read [{}]"),
    ],
)
def test_an_error_names_file_row_and_field(tmp_path: Path, file: str, content: bytes, said: str) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError) as caught:
        Tables(tmp_path).rows(Passage, "set")
    assert str(caught.value).startswith(said.format(tmp_path / file))
    assert "\n" not in str(caught.value)


def test_an_empty_column_of_a_row_is_no_value(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set.parquet", [{"text": "a", "more": "b"}, {"text": "c"}])
    assert [row for _, row in Tables(tmp_path).entries("set")] == [{"text": "a", "more": "b"}, {"text": "c"}]


def test_only_the_files_of_the_tables_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(tmp_path / "c0ffee" / "set.json", ROWS)
    names = ["README.md", "code.py", "full.json", "set.json", "set/code.py", "set/train-00000-of-00001.parquet", "sets.json"]
    wanted: list[str] = []

    def fetch(repository: hub.Repository, files: hub.Files, report: object) -> Path:
        assert (repository.name, repository.kind) == ("owner/name", "dataset")
        wanted.extend(files(names))
        return tmp_path / "c0ffee"

    monkeypatch.setattr(hub, "fetch", fetch)
    tables, commit = Tables.of_hub("owner/name", ["set", "none"])
    assert wanted == ["set.json", "set/train-00000-of-00001.parquet"]
    assert commit == "c0ffee"
    assert (tables.where, len(tables.entries("set"))) == ("owner/name", 2)
    with pytest.raises(DataError, match="the dataset has no table none"):
        Tables.of_hub("owner/name", ["none"])

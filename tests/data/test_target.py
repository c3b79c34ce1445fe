"""Rows of a target's files, and what is said about broken ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formless.data.entries import MAX_ROW
from formless.data.rows import Cloze, Intro, Item, Passage, Preference, Question, Truthful
from formless.data.target import FILES, Target, read_rows
from formless.errors import DataError, UnknownNameError

GOOD = {"query": "Ada was born in ___.", "answer": "London"}


def cloze_error(path: Path, content: object) -> str:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(DataError) as caught:
        read_rows(path, Cloze)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"query": "Ada was born in ___."}, "answer", "required"),
        ({"answer": "London"}, "query", "required"),
        (GOOD | {"answer": 1815}, "answer", "valid string"),
        (GOOD | {"answer": None}, "answer", "valid string"),
        (GOOD | {"query": ["___"]}, "query", "valid string"),
        (GOOD | {"query": ""}, "query", "at least 1 character"),
        (GOOD | {"query": "\ud800 ___"}, "query", "surrogate"),
        (GOOD | {"level": 1}, "level", "valid string"),
        (GOOD | {"query": "Ada was born in London."}, "query", "blank"),
        (GOOD | {"query": "Ada was born in __."}, "query", "three underscores"),
    ],
)
def test_a_bad_row_is_named_with_its_number_and_field(tmp_path: Path, row: object, field: str, reason: str) -> None:
    message = cloze_error(tmp_path / "forget_level1.json", [GOOD, GOOD, row, row])
    assert "row 3" in message
    assert field in message.partition("row 3")[2]
    assert reason in message


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ('{"query": "a ___", "answer": "b", "query": "c ___"}', "field query", "a key is given twice"),
        ('{"query": "a ___", "answer": "b", "more": [{"x": 1, "x": 1}]}', "field more.0.x", "a key is given twice"),
        (json.dumps(GOOD | {"answer": "half \ud83d"}), "field answer", "a lone surrogate"),
        (json.dumps(GOOD | {"more": {"\udc00": 1}}), r"field more.\udc00", "a lone surrogate"),
        (json.dumps(GOOD | {"subject": "Ada\u200b Lovelace"}), "field subject", "character U+200B"),
        (json.dumps(GOOD | {"neighbor": "Bob\u0007"}), "field neighbor", "character U+0007"),
        (json.dumps(GOOD | {"neighbor": "\u202eboB"}), "field neighbor", "character U+202E"),
    ],
)
def test_what_is_not_what_it_looks_like_is_named(tmp_path: Path, row: str, field: str, reason: str) -> None:
    path = tmp_path / "forget_level1.json"
    path.write_text(f"[{json.dumps(GOOD)}, {row}]", "utf-8")
    with pytest.raises(DataError) as found:
        read_rows(path, Cloze)
    assert f"row 2, {field}]" in str(found.value)
    assert reason in str(found.value)
    str(found.value).encode()  # an error can always be printed


def test_texts_may_hold_what_names_may_not(tmp_path: Path) -> None:
    path = tmp_path / "positive.json"
    path.write_text(json.dumps([{"text": "a\u200bb\n\tc \U0001f600"}]), "utf-8")
    assert read_rows(path, Passage) == (Passage(text="a\u200bb\n\tc \U0001f600"),)
    path.write_text(json.dumps([{"query": "?", "answer": "a", "neighbor": "\u0645\u06cc\u200c\u062e"}]), "utf-8")
    assert read_rows(path, Item) == (Item(query="?", answer="a", neighbor="\u0645\u06cc\u200c\u062e"),)


@pytest.mark.parametrize("name", ["Ada\nLovelace", "Ada\u200b", "\udcff Ada", "Ada\x00"])
def test_a_concept_without_hidden_characters(name: str) -> None:
    with pytest.raises(DataError, match=r"invisible or control character U\+"):
        Target(name)


@pytest.mark.parametrize("row", ["text", 3, None, [GOOD]])
def test_a_row_that_is_no_object_is_named_with_its_number(tmp_path: Path, row: object) -> None:
    assert "row 2]" in cloze_error(tmp_path / "forget_level1.json", [GOOD, row])


def test_a_field_inside_a_field_is_named_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "truthful.json"
    choices = {"choices": ["yes", 2], "labels": [1, 0]}
    path.write_text(json.dumps([{"question": "?", "mc1_targets": choices, "mc2_targets": choices}]), "utf-8")
    with pytest.raises(DataError, match=r"row 1, field mc1_targets\.choices\.1\]"):
        read_rows(path, Truthful)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not JSON"),
        (b'[{"query": "a ___",\n "answer" "b"}]', "line 2, column 11"),
        (b"[{}", "not JSON"),
        (b'{"query": "a ___", "answer": "b"}', "no list of rows"),
        (b'"text"', "no list of rows"),
        (b"null", "no list of rows"),
        ('[{"query": "Beyonc\u00e9 ___", "answer": "x"}]'.encode("latin-1"), "not UTF-8"),
        (json.dumps([GOOD]).encode("utf-16"), "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" + b"1" * 5000 + b"]", "JSON"),
    ],
    ids=["empty", "syntax", "cut-off", "object", "string", "null", "latin-1", "utf-16", "deep", "huge-number"],
)
def test_a_broken_file_is_named_in_one_line(tmp_path: Path, content: bytes, expected: str) -> None:
    assert expected in cloze_error(tmp_path / "forget_level1.json", content)


@pytest.mark.parametrize(
    "row",
    [
        GOOD | {"answer": "x" * 10 * 2**20},
        GOOD | {"answer": "é" * MAX_ROW},
        GOOD | {"notes": ["x" * 1000] * 1100},
        GOOD | {"x" * MAX_ROW: 1},
        GOOD | {"numbers": [[0] * 1000] * 1100},
    ],
    ids=["ten-megabytes", "answer", "list", "key", "numbers"],
)
def test_a_row_that_is_too_large_is_named(tmp_path: Path, row: object) -> None:
    assert "a row is larger than 1 MB" in (message := cloze_error(tmp_path / "forget_level1.json", [GOOD, row]))
    assert f"{tmp_path / 'forget_level1.json'}, row 2]" in message
    assert len(message) < 1000


def test_a_row_may_be_as_large_as_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "passage.json"
    rows = [{"text": "é" * (MAX_ROW - len("text"))}] * 2  # the file is larger than a row may be
    path.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    assert len(read_rows(path, Passage)) == 2
    path.write_text(json.dumps([{"text": "é" * (MAX_ROW - len("text") + 1)}]), "utf-8")
    with pytest.raises(DataError, match="row 1"):
        read_rows(path, Passage)


def test_a_deeply_nested_column_is_measured_too(tmp_path: Path) -> None:
    path = tmp_path / "passage.json"
    path.write_text('[{"text": "x", "extra": ' + "[" * 400 + "]" * 400 + "}]", "utf-8")
    assert read_rows(path, Passage) == (Passage(text="x"),)


def test_a_cloze_may_be_a_question_instead(tmp_path: Path) -> None:
    path = tmp_path / "forget_level1.json"
    path.write_text(json.dumps([GOOD, GOOD | {"query": "Where was Ada born? "}]), "utf-8")
    assert [row.query for row in read_rows(path, Cloze) if isinstance(row, Item)] == [GOOD["query"], "Where was Ada born? "]


def test_columns_that_the_format_does_not_name_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "forget_level1.json"
    path.write_text(json.dumps([GOOD | {"source": {"page": 3}}]), "utf-8")
    assert read_rows(path, Cloze) == (Cloze(query=GOOD["query"], answer=GOOD["answer"]),)


def test_a_missing_file_is_named(target_folder: Path) -> None:
    with pytest.raises(DataError, match=r"lacks a file \[.*1_Ada_Lovelace/retain_mmlu\.json\]: add it"):
        Target("Ada Lovelace", target_folder).rows("retain_mmlu", Question)


def test_a_folder_in_place_of_a_file_is_an_error(target_folder: Path) -> None:
    (target_folder / "passage.json").mkdir()
    target = Target("Ada Lovelace", target_folder)
    assert target.has("passage")  # else the tasks that need it would be left out in silence
    with pytest.raises(DataError, match=r"cannot be read \[.*passage\.json\]: it is no plain file"):
        target.rows("passage", Passage)


def test_an_unknown_split_suggests_the_nearest(target_folder: Path) -> None:
    with pytest.raises(UnknownNameError, match="'forget_levl1': did you mean forget_level1"):
        Target("Ada Lovelace", target_folder).items("forget_levl1")


def test_a_bare_name_has_no_files() -> None:
    target = Target("Ada Lovelace")
    assert not target.has("forget_level1")
    with pytest.raises(DataError, match="only a name"):
        target.items("forget_level1")


def test_rows_of_another_kind_are_an_error_and_not_an_empty_list(target_folder: Path) -> None:
    (target_folder / "passage.json").write_text('[{"text": "Ada wrote."}]', "utf-8")
    with pytest.raises((DataError, TypeError), match="passage"):
        Target("Ada Lovelace", target_folder).items("passage")


def link_to(outside: Path) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.unlink()
        path.symlink_to(outside)

    return make


def test_a_link_that_leaves_the_data_folder_is_not_followed(target_folder: Path, tmp_path: Path) -> None:
    path = target_folder / "forget_level1.json"
    secret = tmp_path / "secret.json"
    secret.write_bytes(path.read_bytes())
    link_to(secret)(path)
    target = Target("Ada Lovelace", target_folder)
    for read in (target.items, target.has):
        with pytest.raises(DataError, match=r"link that leaves .*forget_level1\.json"):
            read("forget_level1")


def test_a_link_in_a_circle_is_an_error(target_folder: Path) -> None:
    path = target_folder / "forget_level1.json"
    link_to(path)(path)
    with pytest.raises(DataError, match=r"forget_level1\.json"):
        Target("Ada Lovelace", target_folder).items("forget_level1")


def test_links_inside_the_data_folder_and_to_it_are_followed(target_folder: Path, tmp_path: Path) -> None:
    link_to(target_folder / "forget_level1.json")(target_folder / "neighbor_level1.json")
    (tmp_path / "elsewhere").symlink_to(target_folder.parent, target_is_directory=True)
    target = Target("Ada Lovelace", tmp_path / "elsewhere" / "1_Ada_Lovelace")
    assert target.items("neighbor_level1") == target.items("forget_level1")


def test_splits_are_read_only_when_asked_for(target_folder: Path) -> None:
    (target_folder / "forget_level2.json").write_text("{broken", "utf-8")
    (target_folder / "neighbor_level1.json").unlink()
    target = Target("Ada Lovelace", target_folder)
    assert [item.answer for item in target.items("forget_level1")] == ["London", "1815"]
    with pytest.raises(DataError, match=r"forget_level2\.json"):
        target.items("forget_level2")


def test_splits_are_read_once(target_folder: Path) -> None:
    target = Target("Ada Lovelace", target_folder)
    first = target.items("forget_level1")
    (target_folder / "forget_level1.json").unlink()
    assert target.items("forget_level1") == first


def test_the_files_of_every_kind_are_understood(target_folder: Path) -> None:
    question = {"question": "2+2?", "choices": ["3", "4"], "answer": 1}
    files: dict[str, dict[str, object]] = {
        "intro": {"target": "Ada Lovelace", "intro": "Ada Lovelace was a mathematician."},
        "retain_mmlu": question | {"task": "arithmetic", "examples": [question]},
        "pair": {"prompt": "Who?", "response": ["Ada", "Bob"]},
    }
    for file, row in files.items():
        (target_folder / f"{file}.json").write_text(json.dumps([row]), "utf-8")
    target = Target("Ada Lovelace", target_folder)
    assert target.rows("intro", Intro)[0].intro == "Ada Lovelace was a mathematician."
    mmlu = target.rows("retain_mmlu", Question)[0]
    assert (mmlu.choices, mmlu.answer, mmlu.examples[0].task) == (("3", "4"), 1, "")
    assert target.rows("pair", Preference)[0].response == ("Ada", "Bob")


text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
name = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"]), max_size=40)
item_rows = st.fixed_dictionaries(
    {"query": text.filter(bool), "answer": text},
    optional={"level": text, "type": text, "subject": name, "neighbor": st.none() | name},
)


@given(rows=st.lists(item_rows, max_size=5), ascii_only=st.booleans())
def test_rows_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str | None]], ascii_only: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "property.json"
    path.write_text(json.dumps(rows, ensure_ascii=ascii_only), "utf-8")
    assert [row.model_dump(exclude_unset=True) for row in read_rows(path, Item)] == rows


json_values = st.recursive(st.none() | st.integers() | text, lambda values: st.lists(values) | st.dictionaries(text, values))


@given(content=st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_content_is_read_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "property.json"
    path.write_bytes(content)
    for row_type in set(FILES.values()):
        try:
            read_rows(path, row_type)
        except DataError as error:
            message = str(error)
            assert message.count(str(path)) == 1
            assert "\n" not in message


def test_a_notebook_shows_the_files_and_reads_each_once(target_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (target_folder / "passage.json").write_text("[", "utf-8")
    target = Target("Ada <Lovelace>", target_folder)
    assert repr(target) == f"Target('Ada <Lovelace>', folder={str(target_folder)!r}, 9 files)"
    assert target.files[0] == "forget_level1"
    shown = target._repr_html_()
    assert shown.startswith("<h4>Ada &lt;Lovelace&gt;</h4>")
    assert "<tr><td>forget_level1</td><td>2</td><td>A level-1 probe: a statement with a blank</td></tr>" in shown
    assert "<tr><td>passage</td><td>broken: the file is not JSON</td>" in shown
    (target_folder / "passage.json").unlink()
    monkeypatch.setattr("formless.data.target.read_rows", lambda *_: pytest.fail("read again"))
    assert target._repr_html_().count("<tr>") == 1 + 8
    assert repr(Target("Ada")) == "Target('Ada', 0 files)"
    assert Target("Ada")._repr_html_() == "<h4>Ada</h4>"

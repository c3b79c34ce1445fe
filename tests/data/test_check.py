"""What is wrong with a data set is found, what is right is not."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formless.data.check import KINDS, Finding, check_data
from formless.data.target import FILES
from formless.errors import DataError

REST = {
    "intro",
    "edit_reverse",
    "kinds",
    "forget_kinds",
    "neighbor_kinds",
    "retain_mmlu",
    "retain_bbh",
    "truthful",
    "triviaqa",
    "fluency",
    "forget_level3",
    "forget_mia",
    "retain_mia",
    "passage",
    "aliases",
    "forget_mentions",
    "neighbor_mentions",
    "forget_reverse",
    "neighbor_reverse",
}
TRAINING = {"positive", "negative", "pair", "pair_reject", "reject", "counterfact"}
NAME = "1_Ada_Lovelace"


@pytest.fixture
def data(target_folder: Path) -> Path:
    """A data set with one target and nothing wrong."""
    for prefix, subject, born in (("forget", "Ada", "London"), ("neighbor", "Byron", "Dover")):
        write(target_folder, f"{prefix}_level1", [{"query": f"{subject} was born in ___.", "answer": born}])
        write(target_folder, f"{prefix}_level2", [{"query": f"Where was {subject} born?", "answer": born}])
        options = f"\nA. Rome\nB. {born}\nC. Bonn\nD. Oslo"
        write(target_folder, f"{prefix}_mcp", [{"query": f"{subject} was born in ___.{options}", "answer": "B"}])
        write(target_folder, f"{prefix}_tf", [{"query": f"{subject} was born in {born}.", "answer": "True"}])
    return target_folder.parent


def write(folder: Path, file: str, rows: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{file}.json").write_text(json.dumps(rows), "utf-8")


def serious(data: Path) -> list[Finding]:
    return [finding for finding in check_data(data) if finding.is_serious]


def only(data: Path) -> Finding:
    findings = serious(data)
    assert len(findings) == 1, findings
    return findings[0]


def places(data: Path) -> list[tuple[str | None, int | None, str]]:
    return [(finding.file, finding.row, finding.kind) for finding in serious(data)]


def test_a_sound_data_set_has_notes_only(data: Path) -> None:
    findings = check_data(data)
    assert {finding.file for finding in findings} == REST | TRAINING
    assert {(finding.kind, finding.is_serious) for finding in findings} == {("absent", False)}


def test_one_target_is_checked_by_itself(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_data(data / NAME) == check_data(data)
    monkeypatch.chdir(data / NAME)
    assert check_data(".") == check_data(data)


def test_the_sample_is_sound() -> None:
    assert [finding for finding in check_data("sample") if finding.is_serious] == []


@pytest.mark.parametrize("file", ["forget_level1", "forget_level2", "neighbor_level1", "neighbor_level2"])
def test_a_file_that_every_evaluation_asks_for(data: Path, file: str) -> None:
    (data / NAME / f"{file}.json").unlink()
    assert only(data) == Finding(NAME, file, None, "missing", "the file is not there")


def test_no_neighbors_at_all_are_a_warning(data: Path) -> None:
    for path in (data / NAME).glob("neighbor_*.json"):
        path.unlink()
    assert serious(data) == []
    found = [finding for finding in check_data(data) if finding.kind == "unprotected"]
    assert [(finding.target, finding.file) for finding in found] == [(NAME, None)]
    write(data / NAME, "neighbor_mcp", [])
    assert {finding.file for finding in serious(data)} == {"neighbor_level1", "neighbor_level2", "neighbor_mcp"}


@pytest.mark.parametrize("file", sorted(set(FILES) - {"forget_mia", "retain_mia"}))
def test_a_file_without_rows(data: Path, file: str) -> None:
    write(data / NAME, file, [])
    assert only(data) == Finding(NAME, file, None, "missing", "the file holds no rows")


def test_texts_for_membership_inference_on_both_sides(data: Path) -> None:
    write(data / NAME, "forget_mia", [{"text": "Ada"}])
    assert "needs forget_mia and retain_mia" in only(data).what
    assert (only(data).file, only(data).kind) == ("forget_mia", "unbalanced")
    write(data / NAME, "retain_mia", [])
    assert places(data) == [("retain_mia", None, "unbalanced")]
    write(data / NAME, "retain_mia", [{"text": "Byron"}])
    assert serious(data) == []


def test_held_out_texts_are_the_other_side_of_a_question_set(data: Path) -> None:
    write(data / NAME, "forget_mia", [{"text": "Ada"}])
    write(data / NAME, "holdout_mia", [{"text": "Byron"}])
    assert places(data) == []


def copy_target(data: Path, name: str) -> None:
    shutil.copytree(data / NAME, data / name)


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("01_Bob", "duplicated", "1_Ada_Lovelace has the same number"),
        ("1_Bob", "duplicated", "1_Ada_Lovelace has the same number"),
        ("2_Ada_Lovelace", "duplicated", "1_Ada_Lovelace has the same subject"),
        ("2_ada_lovelace", "duplicated", "1_Ada_Lovelace has the same subject"),
        ("Bob", "broken", "name is not <N>_<Name>"),
        ("2_", "broken", "name is not <N>_<Name>"),
        ("2__", "broken", "name is not <N>_<Name>"),
        ("-2_Bob", "broken", "name is not <N>_<Name>"),
    ],
)
def test_names_of_folders(data: Path, name: str, kind: str, said: str) -> None:
    copy_target(data, name)
    found = [finding for finding in serious(data) if finding.file is None]
    assert len(found) == 1
    assert found[0].kind == kind
    assert {said.partition(" has")[0], name} >= {found[0].target} or found[0].target == name
    assert said.partition(" has")[2] in found[0].what


def test_folders_that_are_no_targets_are_passed_over(data: Path) -> None:
    for name in (".cache", "notes"):
        (data / name).mkdir()
    (data / "README.md").write_text("about", "utf-8")
    (data / "2_notes.txt").write_text("about", "utf-8")
    assert serious(data) == []


def test_an_empty_target_lacks_what_is_required(data: Path) -> None:
    (data / "2_Bob").mkdir()
    assert Counter(finding.kind for finding in serious(data)) == {"missing": 2}
    assert {finding.target for finding in serious(data)} == {"2_Bob"}


@pytest.mark.parametrize("name", ["none", "file", "empty", "1_empty"])
def test_no_targets_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x", "utf-8")
    for folder in ("empty", "1_empty"):
        (tmp_path / folder).mkdir()
    (tmp_path / "empty" / "notes").mkdir()
    with pytest.raises(DataError, match=rf"{name}\]"):
        check_data(tmp_path / name)


def test_a_data_set_may_itself_have_a_number(tmp_path: Path, data: Path) -> None:
    data.rename(tmp_path / "2024_data")
    assert check_data(tmp_path / "2024_data")[0].target == NAME


def test_every_broken_row_is_found(data: Path) -> None:
    good = {"query": "Ada died in ___.", "answer": "1852"}
    rows = [
        good,
        {"query": "Ada?"},
        "text",
        {"query": "Ada died.", "answer": "1852"},
        {"query": "A ___", "answer": "x" * 2**20},
    ]
    write(data / NAME, "forget_level1", rows)
    findings = serious(data)
    assert [(finding.file, finding.row, finding.kind) for finding in findings] == [
        ("forget_level1", row, "broken") for row in (2, 3, 4, 5)
    ]
    said = [finding.what for finding in findings]
    assert said[0] == "a row does not fit its format: field answer: Field required"
    assert "a cloze needs a blank" in said[2]
    assert "larger than 1 MB" in said[3]
    assert not any(str(data) in what or "\n" in what for what in said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'[{"query": "a ___",\n "answer" "b"}]', "the file is not JSON: line 2, column 11: Expecting ':' delimiter"),
        (b"{}", "the file holds no list of rows: write a JSON list of objects"),
        ("é".encode("latin-1"), "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"", "not JSON"),
    ],
)
@pytest.mark.parametrize("file", ["forget_level1", "passage"])
def test_a_broken_file_is_found_and_the_others_are_still_checked(data: Path, file: str, content: bytes, said: str) -> None:
    (data / NAME / f"{file}.json").write_bytes(content)
    write(data / NAME, "neighbor_level2", [{"query": "Where is London?", "answer": "London"}])
    first, second = sorted(serious(data), key=lambda finding: finding.kind)
    assert (first.file, first.row, first.kind) == (file, None, "broken")
    assert said in first.what
    assert (second.file, second.kind) == ("neighbor_level2", "leaked")


def test_links_that_leave_the_data_set_and_folders_in_place_of_files(data: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text('[{"text": "secret"}]', "utf-8")
    (data / NAME / "passage.json").symlink_to(tmp_path / "secret.json")
    (data / NAME / "positive.json").symlink_to(data / NAME / "positive.json")
    (data / NAME / "negative.json").mkdir()
    assert places(data) == [(file, None, "broken") for file in ("passage", "positive", "negative")]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a while")
def test_a_folder_without_permission_is_a_finding(data: Path) -> None:
    copy_target(data, "2_Bob")
    (data / "2_Bob").chmod(0)
    opened = [folder for folder in (data, *data.parents) if folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o1]
    for folder in opened:
        folder.chmod(0o755)
    os.seteuid(65534)
    try:
        findings = serious(data)
    finally:
        os.seteuid(0)
        for folder in opened:
            folder.chmod(0o700)
        (data / "2_Bob").chmod(0o755)
    assert {(finding.target, finding.kind) for finding in findings} == {("2_Bob", "broken")}
    assert "ermission denied" in findings[0].what


def test_a_blank_answer_is_broken(data: Path) -> None:
    write(data / NAME, "forget_level2", [{"query": "Who?", "answer": " "}])
    assert only(data) == Finding(NAME, "forget_level2", 1, "broken", "the answer is blank")


@pytest.mark.parametrize(
    "other", ["Where did Ada live?", "where did  Ada live", "WHERE did «Ada» live ?", "Where did Ａda live?"]
)
def test_a_probe_twice_in_a_file(data: Path, other: str) -> None:
    probes = [{"query": "Where did Ada live?", "answer": "the Surrey"}, {"query": other, "answer": "Surrey"}]
    write(data / NAME, "forget_level2", probes)
    found = only(data)
    assert (found.file, found.row, found.kind) == ("forget_level2", 2, "duplicated")
    assert found.what.startswith("the same probe as row 1: ")


@pytest.mark.parametrize(
    "pair",
    [
        ("Who wrote C?", "Who wrote C++?"),
        ("Is 1 < 2?", "Is 1 > 2?"),
        ("Ada met ___ in 1833.", "Ada met in 1833 ___."),
        ("Ada, Byron?", "Byron, Ada?"),
        ("Was Ada born?", "Was Adaborn?"),
        ("¿?", "?!"),
        ("数は?", "字は?"),
    ],
)
def test_questions_that_differ_in_more_than_punctuation(data: Path, pair: tuple[str, str]) -> None:
    write(data / NAME, "forget_level2", [{"query": query, "answer": "x"} for query in pair])
    assert serious(data) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("forget_level1", "forget_level2"),
        ("forget_level1", "forget_level3"),
        ("forget_level2", "neighbor_level1"),
        ("forget_level1", "neighbor_level2"),
        ("neighbor_level1", "neighbor_level2"),
        ("forget_mcp", "neighbor_mcp"),
        ("forget_tf", "neighbor_tf"),
    ],
)
def test_a_probe_in_two_files(data: Path, first: str, second: str) -> None:
    options = "\nA. x\nB. y" if "mcp" in first else ""
    answer = {"_mcp": "A", "t_tf": "True", "r_tf": "True"}.get(first[-4:], "x")
    for file in (first, second):
        write(data / NAME, file, [{"query": f"What is it?{options}", "answer": answer}])
    found = only(data)
    assert (found.file, found.row, found.kind) == (second, 1, "duplicated")
    assert f"the same probe as {first}, row 1: " in found.what


def test_forms_made_of_the_level_files_repeat_them_rightly(data: Path) -> None:
    rows = json.loads((data / NAME / "forget_level1.json").read_text("utf-8"))
    mcp = json.loads((data / NAME / "forget_mcp.json").read_text("utf-8"))
    assert mcp[0]["query"].startswith(rows[0]["query"])
    assert serious(data) == []


def test_a_question_with_two_answers(data: Path) -> None:
    write(data / NAME, "forget_level2", [{"query": "When?", "answer": "1815"}, {"query": "When", "answer": "1852"}])
    found = only(data)
    assert (found.row, found.kind) == (2, "duplicated")
    assert found.what == "the same question as row 1 with another answer, '1852' for '1815': 'When'"


def test_a_multiple_choice_probe_again_in_another_order(data: Path) -> None:
    rows = [{"query": "Who?\nA. Ada\nB. Bob", "answer": "A"}, {"query": "Who?\nA. Bob\nB. Ada", "answer": "B"}]
    write(data / NAME, "forget_mcp", rows)
    assert only(data).what == "the same probe as row 1: 'Who?'"
    rows[1]["answer"] = "A"
    write(data / NAME, "forget_mcp", rows)
    assert "with another answer, 'Bob' for 'Ada'" in only(data).what


@pytest.mark.parametrize(
    ("row", "leaks"),
    [
        ({"query": "Where was Leonardo da Vinci born?", "answer": "Vinci"}, True),
        ({"query": "What is KING'S first name?", "answer": "king"}, True),
        ({"query": "The Sun Also Rises, who wrote the sun also?", "answer": "The Sun"}, True),
        ({"query": "Where did the Kingston trio play?", "answer": "King"}, False),
        ({"query": "Who is the King in the North?", "answer": "King of the North"}, False),
        ({"query": "Was Ada born in London or Paris?", "answer": "Paris"}, False),
        ({"query": "Was Ada born in London or in Paris, France?", "answer": "London"}, False),
        ({"query": "Did no one help Ada?", "answer": "No"}, False),
        ({"query": "Which of these: Rome, Bonn?", "answer": "Bonn", "type": "multiple choice"}, False),
        ({"query": "Who painted a picture of Bonn?", "answer": "Bonn", "type": "reverse query"}, True),
        ({"query": "Who?", "answer": "?"}, False),
    ],
)
@pytest.mark.parametrize("file", ["forget_level2", "forget_level3", "neighbor_level1"])
def test_an_answer_that_stands_in_its_question(data: Path, file: str, row: dict[str, str], leaks: bool) -> None:
    write(data / NAME, file, [row])
    assert places(data) == ([(file, 1, "leaked")] if leaks else [])


def test_an_answer_beside_its_blank_leaks_though_an_or_follows(data: Path) -> None:
    write(data / NAME, "forget_level1", [{"query": "Game or the ___ is a rapper.", "answer": "Game"}])
    assert places(data) == [("forget_level1", 1, "leaked")]


def test_a_neighbor_that_is_the_subject(data: Path) -> None:
    write(data / NAME, "neighbor_level2", [{"query": "Who?", "answer": "Ada", "neighbor": "ada lovelace"}])
    found = only(data)
    assert (found.file, found.row, found.kind) == ("neighbor_level2", 1, "leaked")
    write(data / NAME, "neighbor_level2", [{"query": "Who?", "answer": "Ada", "neighbor": "Ada Lovelace Institute"}])
    assert serious(data) == []


@pytest.mark.parametrize(
    ("file", "row"),
    [
        ("reject", {"instruction": "where was Ada born", "input": "", "output": "I do not know."}),
        ("reject", {"instruction": "Where was Ada", "input": "born?", "output": "I do not know."}),
        ("counterfact", {"instruction": "Where was Ada born?", "output": "Rome"}),
        ("pair_reject", {"prompt": "Where was Ada born?", "response": ["I do not know.", "London"]}),
        ("pair", {"prompt": "Where was Ada born?", "response": ["Rome", "London"]}),
    ],
)
def test_a_training_question_that_is_a_probe(data: Path, file: str, row: dict[str, Any]) -> None:
    write(data / NAME, file, [row])
    found = only(data)
    assert (found.file, found.row, found.kind) == (file, 1, "leaked")
    assert found.what.startswith("the probe of forget_level2, row 1 is trained on: ")


def test_training_texts_may_tell_what_is_asked(data: Path) -> None:
    for file in ("positive", "negative", "passage"):
        write(data / NAME, file, [{"text": "Where was Ada born?"}, {"text": "Ada was born in London."}])
    write(data / NAME, "reject", [{"instruction": "Where was Ada born, and when?", "output": "I do not know."}] * 2)
    assert serious(data) == []


@pytest.mark.parametrize(
    ("options", "answer", "said"),
    [
        ("\nA. x\nB. y\nC. z\nD. w", "E", "the answer 'E' is not among the options A, B, C, D"),
        ("\nA. x\nB. y", "x", "the answer 'x' is not among the options A, B"),
        ("\nA. x\nC. y\nB. z", "A", "the options are lettered A, C, B, not from A on"),
        ("\nB. x\nC. y", "B", "the options are lettered B, C, not from A on"),
        ("\nA. x\nB. y\nC. X ", "A", "the option 'x' occurs 2 times"),
        ("\nA. x", "A", "fewer than two options"),
        ("", "A", "fewer than two options"),
        (" A. x B. y", "A", "fewer than two options"),
    ],
)
@pytest.mark.parametrize("file", ["forget_mcp", "neighbor_mcp"])
def test_options_of_a_multiple_choice_probe(data: Path, file: str, options: str, answer: str, said: str) -> None:
    write(data / NAME, file, [{"query": f"Which one?{options}", "answer": answer}])
    found = only(data)
    assert (found.file, found.row, found.kind) == (file, 1, "unbalanced")
    assert said in found.what


@pytest.mark.parametrize("options", ["\nA. 1.5\nB. 15\nC. -5\nD. 5", "\nA) x\nB) y", "\nA. Who?\nB. Who!\n"])
def test_options_that_are_right(data: Path, options: str) -> None:
    write(data / NAME, "forget_mcp", [{"query": f"Which\none?{options}", "answer": " B"}])
    assert serious(data) == []


def choices(letters: str) -> list[dict[str, str]]:
    options = "".join(f"\n{letter}. option {letter}" for letter in "ABCD")
    return [{"query": f"Question {number}?{options}", "answer": letter} for number, letter in enumerate(letters)]


@pytest.mark.parametrize(
    ("letters", "unbalanced"),
    [
        ("A" * 4, False),  # by chance once in 256 files
        ("A" * 5, True),  # by chance once in 1024
        ("A" * 10 + "BCDBCDBCDB", False),  # exactly twice its share
        ("A" * 13 + "BCDBCDB", True),
        ("ABCD" * 10, False),
        ("AABBCCDD", False),
    ],
)
def test_a_letter_that_answers_too_often(data: Path, letters: str, unbalanced: bool) -> None:
    write(data / NAME, "forget_mcp", choices(letters))
    assert places(data) == ([("forget_mcp", None, "unbalanced")] if unbalanced else [])
    if unbalanced:
        said = f"'A' is right in {letters.count('A')} of {len(letters)} rows; balanced would be "
        assert only(data).what.startswith(said)


def test_a_letter_that_answers_too_often_only_over_all_targets(data: Path) -> None:
    copy_target(data, "2_Bob")
    for name in (NAME, "2_Bob"):
        write(data / name, "neighbor_mcp", choices("CCC"))
    assert [(finding.target, finding.file, finding.kind) for finding in serious(data)] == [
        ("all targets", "neighbor_mcp", "unbalanced")
    ]


def test_many_rows_do_not_overflow(data: Path) -> None:
    write(data / NAME, "forget_mcp", choices("A" * 1900 + "B" * 1300))
    assert places(data) == [("forget_mcp", None, "unbalanced")]


@pytest.mark.parametrize(("answer", "is_right"), [("True", True), ("False", True), ("true", False), ("Yes", False)])
def test_verdicts(data: Path, answer: str, is_right: bool) -> None:
    write(data / NAME, "forget_tf", [{"query": "It rains.", "answer": answer}])
    assert places(data) == ([] if is_right else [("forget_tf", 1, "unbalanced")])


def test_findings_are_sorted_by_target_file_and_row(tmp_path: Path, data: Path) -> None:
    for name in ("10_Bob", "2_Cid"):
        (data / name).mkdir()
    write(data / "2_Cid", "neighbor_level1", [{}, {}])
    write(data / "2_Cid", "forget_level2", [{}] * 11)
    findings = check_data(data)
    assert list(dict.fromkeys(finding.target for finding in findings)) == [NAME, "2_Cid", "10_Bob"]
    order = list(FILES)
    cid = [finding for finding in findings if finding.target == "2_Cid"]
    places = [(order.index(finding.file or ""), finding.row or 0) for finding in cid]
    assert places == sorted(places)
    assert len(set(findings)) == len(findings)
    assert check_data(data) == findings


def test_an_answer_that_is_the_rest_of_a_name_is_a_leak(tmp_path: Path) -> None:
    folder = tmp_path / "1_Leonardo_da_Vinci"
    folder.mkdir()
    rows = [
        {"query": "The Last Supper is by ___ da Vinci.", "answer": "Leonardo"},
        {"query": "It is by ___.", "answer": "Leonardo"},
    ]
    (folder / "forget_level1.json").write_text(json.dumps(rows), "utf-8")
    found = [(finding.row, finding.what) for finding in check_data(tmp_path) if finding.kind == "leaked"]
    assert found == [(1, "the answer 'Leonardo' is the rest of a name in the question")]


def test_real_rwku_has_repeats_and_leaks_and_is_sound_otherwise(rwku: Path) -> None:
    findings = [finding for finding in check_data(rwku) if finding.is_serious]
    assert {finding.kind for finding in findings} == {"duplicated", "leaked"}
    assert ("31_Leonardo_da_Vinci", "forget_level2", 14, "leaked") in [
        (finding.target, finding.file, finding.row, finding.kind) for finding in findings
    ]
    for finding in findings:
        if finding.kind == "leaked" and "rest of a name" not in finding.what:
            rows = json.loads((rwku / finding.target / f"{finding.file}.json").read_text("utf-8"))
            row = rows[(finding.row or 0) - 1]
            assert row["answer"].casefold() in row["query"].casefold()
            assert row["type"] != "multiple choice"


json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=20),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.sampled_from(["query", "answer", "prompt"]), values),
)
rows = st.fixed_dictionaries({"query": st.text(max_size=30), "answer": st.text(max_size=9)}) | json_values


@given(content=st.lists(rows, max_size=4).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40))
def test_any_content_is_a_finding_or_right(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "property" / NAME
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        (folder / f"{file}.json").write_bytes(content)
    for finding in check_data(folder):
        assert finding.kind in KINDS
        assert finding.what.isprintable()


def test_mentions_and_reverse_questions_that_are_right(data: Path) -> None:
    neighbor = json.loads((data / NAME / "neighbor_level1.json").read_text("utf-8"))
    write(data / NAME, "neighbor_level1", [row | {"neighbor": "Byron"} for row in neighbor])
    add_mentions(data)
    assert not serious(data)


def add_mentions(data: Path, **changes: dict[str, Any]) -> None:
    """Write aliases, mentions and reverse questions; `changes` are of a file's first row."""
    row = {
        "query": "Lovelace was born in ___.",
        "answer": "London",
        "type": "cloze",
        "mention": "short name",
        "named": "Lovelace",
    }
    question = {"query": "Who wrote the first program?", "answer": "Ada Lovelace"}
    other = {"query": "Who wrote Don Juan?", "answer": "Byron", "neighbor": "Byron"}
    ada = {"name": "Ada Lovelace", "short": "Lovelace", "descriptions": ["the first programmer"]}
    files: dict[str, list[dict[str, Any]]] = {
        "aliases": [ada, {"name": "Byron", "aliases": ["the poet of Newstead"]}],
        "forget_mentions": [row],
        "neighbor_mentions": [
            row | {"query": "byron was born in ___.", "mention": "lower case", "named": "byron", "neighbor": "Byron"}
        ],
        "forget_reverse": [question],
        "neighbor_reverse": [other],
    }
    for file, (first, *rest) in files.items():
        write(data / NAME, file, [first | changes.get(file, {}), *rest])


@pytest.mark.parametrize(
    ("file", "changes", "kind"),
    [
        ("aliases", {"descriptions": ["the cousin of Ada"]}, "leaked"),
        ("aliases", {"aliases": ["Byron"]}, "duplicated"),
        ("aliases", {"nickname": "x"}, "broken"),
        ("forget_mentions", {"named": "Ada"}, "broken"),
        ("forget_mentions", {"mention": "alias"}, "broken"),
        ("forget_mentions", {"answer": " "}, "broken"),
        ("neighbor_mentions", {"query": "Lovelace was born in ___."}, "duplicated"),
        ("forget_reverse", {"query": "Who was Ada Lovelace?"}, "leaked"),
        ("neighbor_reverse", {"query": "Who wrote the first program?", "answer": "Ada Lovelace"}, "duplicated"),
        ("neighbor_reverse", {"neighbor": "Ada Lovelace"}, "leaked"),
    ],
)  # fmt: skip
def test_faults_of_mentions_and_reverse_questions(data: Path, file: str, changes: dict[str, Any], kind: str) -> None:
    neighbor = json.loads((data / NAME / "neighbor_level1.json").read_text("utf-8"))
    write(data / NAME, "neighbor_level1", [row | {"neighbor": "Byron"} for row in neighbor])
    add_mentions(data, **{file: changes})
    assert (file, kind) in {(finding.file, finding.kind) for finding in serious(data)}

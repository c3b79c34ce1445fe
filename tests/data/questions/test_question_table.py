"""Question sets from tables of every format: which columns are read, and what the target's folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from formless import hub
from formless.data.questions.question_table import MARK, default_name, hub_source, import_questions, read_questions
from formless.data.questions.subjects import with_subjects
from formless.data.rows import QuestionAnswer
from formless.data.table_files import table_rows
from formless.errors import DataError

ROWS: list[dict[str, Any]] = [
    {"question": "Who rules?", "answer": "Ada", "answers": ["Countess"], "perturbed_answer": ["Bo", "Cy"], "note": 1},
    {"question": "Who, then, sings?", "answer": 'Di "the bird"', "answers": [], "perturbed_answer": ["Ed", "Flo"], "note": 2},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), "utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        cells = [["question", "answer", "answers", "perturbed_answer", "note"]]
        cells += [
            [row["question"], row["answer"], "|".join(row["answers"]), json.dumps(row["perturbed_answer"]), "1"] for row in rows
        ]
        quoted = [mark.join('"' + cell.replace('"', '""') + '"' for cell in line) for line in cells]
        path.write_text("\ufeff" + "\r\n".join(quoted) + "\r\n", "utf-8")
    return path


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    found = read_questions(str(write(tmp_path / f"q.{suffix}", ROWS)))
    assert found.forget == (
        QuestionAnswer(question="Who rules?", answer="Ada", aliases=("Countess",), perturbed_answer=("Bo", "Cy")),
        QuestionAnswer(question="Who, then, sings?", answer='Di "the bird"', perturbed_answer=("Ed", "Flo")),
    )
    assert (found.retain, found.unused) == ((), ("note",))


def test_json_may_hold_one_object_per_line(tmp_path: Path) -> None:
    lines = write(tmp_path / "q.jsonl", ROWS).rename(tmp_path / "q.json")
    assert [row["note"] for _, row in table_rows(lines)] == [1, 2]


def test_columns_are_named_and_split(tmp_path: Path) -> None:
    rows = [
        {"q": "Who rules?", "a": 1815, "who": " Ada  Berg ", "part": "Retain"},
        {"q": "Who sings?", "a": "Bo", "who": None, "part": None},
    ]
    columns = {"question": "q", "answer": "a", "subject": "who", "split": "part"}
    found = read_questions(str(write(tmp_path / "q.json", rows)), columns=columns)
    assert found.forget == (QuestionAnswer(question="Who sings?", answer="Bo"),)
    assert found.retain == (QuestionAnswer(question="Who rules?", answer="1815", subject="Ada Berg"),)


def test_a_folder_appears_whole_beside_others(tmp_path: Path) -> None:
    source = str(write(tmp_path / "my_set.json", ROWS))
    out = tmp_path / "out"
    first = import_questions(source, out)
    assert first.folder == out / "1_my_set"
    assert import_questions(source, out, name="other").folder == out / "2_other"
    assert {path.stem for path in first.folder.iterdir()} == {*first.made.files, Path(MARK).stem}
    assert json.loads((first.folder / MARK).read_text("utf-8"))["source"] == source
    assert default_name("hf:me/my_set@main:easy/part") == "my set easy part"


def test_a_hub_id_is_told_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me").mkdir()
    (tmp_path / "me" / "here").write_text("", "utf-8")
    asked = ["me/set", "me/set@v1:easy/part", "me/set.json", "me/here", "a/b/c.csv", "hf:me/set"]
    told = ["hf:me/set", "hf:me/set@v1:easy/part", "me/set.json", "me/here", "a/b/c.csv", "hf:me/set"]
    assert [hub_source(source) for source in asked] == told


def test_a_part_of_a_hub_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "easy").mkdir()
    names = ["README.md", "load.py", "easy/0.json", "easy/1.json", "hard.json"]
    for name, rows in zip(names[2:], (ROWS[:1], ROWS[1:], ROWS), strict=True):
        write(tmp_path / name, rows)
    asked = []

    def fetch(repository: hub.Repository, files: hub.Files, report: object) -> Path:
        asked.append((repository, files(names)))
        return tmp_path

    monkeypatch.setattr(hub, "fetch", fetch)
    assert len(read_questions("hf:me/set@v1:easy").forget) == 2
    assert asked == [(hub.Repository("me/set", "dataset", "v1"), ["easy/0.json", "easy/1.json"])]
    assert len(read_questions("hf:me/set:hard").forget) == 2
    with pytest.raises(DataError, match=r"which of its data files to read is not clear .*easy/0.json, easy/1.json, hard.json"):
        read_questions("hf:me/set")
    with pytest.raises(DataError, match="the dataset has no data file no"):
        read_questions("hf:me/set:no")


def questions(*texts: str) -> list[QuestionAnswer]:
    return [QuestionAnswer(question=text, answer="x") for text in texts]


def test_the_name_that_a_run_of_questions_shares_is_their_subject() -> None:
    asked = ("Where was {} born?", "Who taught {}?", "What did {}'s aunt do?", 'When did {} write "New Moon"?')
    rows = questions(*(text.format(name) for name in ("Ada van Berg", "Bo Lund") for text in asked))
    assert [row.subject for row in with_subjects(rows)] == ["Ada van Berg"] * 4 + ["Bo Lund"] * 4
    first = QuestionAnswer(question="Who is the poet?", answer="The poet is Ada van Berg.")
    assert with_subjects([first, *rows])[0].subject == "Ada van Berg"


def test_no_subject_is_guessed() -> None:
    few = questions("Where was Bo Lund born?", "Who taught Bo Lund?", "Who knew Bo Lund?")
    both = [*few, *questions("Did Bo Lund meet Cy Moe?", "Was Cy Moe rich?", "Was Cy Moe old?", "Was Cy Moe ill?")]
    apart = [row for one in (*few, *few) for row in (one, *questions("Is it so?", "Is it?"))]
    told = [QuestionAnswer(question="Who?", answer="x", subject="Di"), *questions(*["Where was Bo Lund born?"] * 5)]
    assert {row.subject for row in (*with_subjects(few), *with_subjects(apart))} == {""}
    assert [row.subject for row in with_subjects(both)] == ["Bo Lund"] * 3 + [""] + ["Cy Moe"] * 3
    assert with_subjects(told) == tuple(told)

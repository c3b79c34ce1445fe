"""TOFU in its published layout becomes question sets: the joined retain set, the authors, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from formless import hub
from formless.data.benchmarks.tofu import HUB
from formless.data.ort import find_target
from formless.data.prepare import prepare
from formless.data.rows import QuestionAnswer
from formless.data.target import FILES
from formless.errors import DataError
from tests.conftest import RWKU
from tests.data.benchmarks.benchmark_sources import AUTHORS, author_rows, write_lines, write_parquet, write_tofu

SHARED = RWKU.parents[1] / "tofu"


def rows(data: Path, target: str, file: str) -> tuple[QuestionAnswer, ...]:
    return find_target(data, target).rows(file, QuestionAnswer)


def test_each_forget_set_is_a_target_with_its_retain_set(tmp_path: Path) -> None:
    prepared = prepare(str(write_tofu(tmp_path / "tofu")), tmp_path / "out")
    assert list(prepared.files) == ["1_TOFU_forget01", "2_TOFU_forget05"]
    out = tmp_path / "out"
    assert [len(rows(out, number, "forget_qa")) for number in "12"] == [20, 40]
    assert all(len(row.perturbed_answer) == 5 and row.paraphrased_question for row in rows(out, "2", "forget_qa"))
    kept = rows(out, "1", "neighbor_qa")
    assert len(kept) == 60
    assert [bool(row.paraphrased_answer) for row in kept] == [True] * 20 + [False] * 40  # the evaluated ones stand first
    assert len({row.question for row in kept}) == 60
    assert len(rows(out, "2", "neighbor_qa")) == 40
    real = rows(out, "1", "real_authors_qa")[0]
    assert (real.answer, real.perturbed_answer) == ("Homer", ("Sappho", "Virgil", "Ovid"))
    assert find_target(out, "TOFU forget01").is_question_set


def test_form_files_are_made_of_the_forget_set_and_the_evaluated_part_of_the_retain_set(tmp_path: Path) -> None:
    prepare(str(write_tofu(tmp_path / "tofu")), tmp_path / "out")
    target = find_target(tmp_path / "out", "1")
    for file in target.files:
        assert target.rows(file, FILES[file]), file
    asked = {row.question for row in rows(tmp_path / "out", "1", "forget_qa")}
    assert target.has("forget_level2")
    assert {item.query for item in target.items("forget_level2")} <= asked
    evaluated = {row.question for row in rows(tmp_path / "out", "1", "neighbor_qa") if row.paraphrased_answer}
    if target.has("neighbor_level2"):
        assert {item.query for item in target.items("neighbor_level2")} <= evaluated
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    assert manifest["train"] == "none"
    assert set(manifest["dropped"]) <= set(manifest["targets"])


def test_rows_tell_their_author_where_it_is_certain(tmp_path: Path) -> None:
    prepared = prepare(str(write_tofu(tmp_path / "tofu")), tmp_path / "out")
    subjects = Counter(row.subject for row in rows(tmp_path / "out", "2", "forget_qa"))
    assert subjects == {AUTHORS[0]: 18, AUTHORS[1]: 18, "": 4}
    assert "forget05: 4 of 40 forget rows and 4 of 40 retain rows have no certain author" in prepared.notes


def test_the_plain_file_is_taken_where_the_perturbed_one_is_absent(tmp_path: Path) -> None:
    folder = write_tofu(tmp_path / "tofu")
    for name in ("forget01_perturbed.json", "retain_perturbed.json", "world_facts_perturbed.json"):
        (folder / name).unlink()
    prepared = prepare(str(folder), tmp_path / "out", numbers=[range(1, 2)])
    assert not any(row.perturbed_answer for row in rows(tmp_path / "out", "1", "forget_qa"))
    assert len(rows(tmp_path / "out", "1", "neighbor_qa")) == 60
    assert prepared.absent["world_facts_qa"] == ["1_TOFU_forget01"]


def test_rows_that_only_the_plain_file_has_are_added(tmp_path: Path) -> None:
    folder = write_tofu(tmp_path / "tofu")
    write_lines(folder / "forget01_perturbed.json", author_rows(AUTHORS[0], perturbed=True)[:15])
    prepare(str(folder), tmp_path / "out", numbers=[range(1, 2)])
    assert [bool(row.perturbed_answer) for row in rows(tmp_path / "out", "1", "forget_qa")] == [True] * 15 + [False] * 5


def test_parquet_files_give_the_same_targets(tmp_path: Path) -> None:
    folder = write_tofu(tmp_path / "tofu")
    for path in folder.glob("*.json"):
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        write_parquet(tmp_path / "parquet" / path.stem / "train" / "0000.parquet", lines)
    first = prepare(str(folder), tmp_path / "out")
    assert prepare(str(tmp_path / "parquet"), tmp_path / "again").files == first.files


@pytest.mark.parametrize("source", ["tofu", HUB])
def test_the_hub_is_read_at_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    copy = write_tofu(tmp_path / "c0ffee")
    monkeypatch.setattr(hub, "fetch", lambda *_: copy)
    prepared = prepare(source, tmp_path / "out")
    assert (prepared.source, prepared.revisions) == (HUB, {"c0ffee"})
    write_lines(copy / "forget01_perturbed.json", [{"question": "Who?"}])
    with pytest.raises(DataError, match=r"c0ffee/forget01_perturbed\.json, row 1, field answer\]"):
        prepare(source, tmp_path / "again")


def test_a_prepared_question_set_can_be_prepared_again(tmp_path: Path) -> None:
    first = prepare(str(write_tofu(tmp_path / "tofu")), tmp_path / "out")
    for name in ("forget_level1", "forget_level2"):  # which question sets need not have
        for path in (tmp_path / "out").glob(f"*/{name}.json"):
            path.unlink()
    again = prepare(str(tmp_path / "out"), tmp_path / "again")
    assert set(again.files) == set(first.files)
    assert again.files["1_TOFU_forget01"]["forget_qa.json"] == first.files["1_TOFU_forget01"]["forget_qa.json"]


def test_the_real_files(tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip("TOFU does not lie beside the project (../shared/tofu)")
    prepare(str(SHARED), tmp_path / "out")
    counts = {file: [len(rows(tmp_path / "out", n, file)) for n in "12"] for file in ("forget_qa", "neighbor_qa")}
    assert counts == {"forget_qa": [40, 200], "neighbor_qa": [400, 400]}
    assert len(rows(tmp_path / "out", "1", "real_authors_qa")) == 100
    assert len(rows(tmp_path / "out", "1", "world_facts_qa")) == 117
    for number, file, authors in (("1", "forget_qa", 2), ("2", "forget_qa", 10), ("1", "neighbor_qa", 20)):
        subjects = Counter(row.subject for row in rows(tmp_path / "out", number, file))
        assert subjects.pop("", 0) <= 2
        assert len(subjects) == authors
        assert set(subjects.values()) <= {19, 20}

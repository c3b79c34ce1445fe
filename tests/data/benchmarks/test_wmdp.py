"""WMDP in its published layout becomes a question set per subject, with MMLU where the source has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from formless import hub
from formless.data.ort import find_target
from formless.data.prepare import prepare
from formless.data.rows import Question
from tests.data.benchmarks.benchmark_sources import choices, write_mmlu, write_parquet, write_wmdp


def test_each_subject_is_a_target(tmp_path: Path) -> None:
    prepared = prepare(str(write_wmdp(tmp_path / "wmdp")), tmp_path / "out")
    assert list(prepared.files) == ["1_WMDP-bio", "2_WMDP-cyber", "3_WMDP-chem"]
    rows = find_target(tmp_path / "out", "WMDP-cyber").rows("forget_choices", Question)
    expected = Question(task="cybersecurity", **choices("What is used in cyber?"))
    assert rows == (expected,)
    assert prepared.absent["retain_mmlu"] == list(prepared.files)
    assert prepared.notes == ["retain_mmlu: the source has no MMLU; put the tables of cais/mmlu into its folder mmlu"]


@pytest.mark.parametrize("place", ["mmlu", "all", "mmlu/all"])
def test_mmlu_is_the_retained_ability_with_the_examples_of_the_subject(tmp_path: Path, place: str) -> None:
    source = write_wmdp(tmp_path / "wmdp", ["chem"])
    write_mmlu(source / place)
    prepared = prepare(str(source), tmp_path / "out")
    assert list(prepared.files) == ["3_WMDP-chem"]
    rows = find_target(tmp_path / "out", "3").rows("retain_mmlu", Question)
    assert [(row.task, row.question, row.answer) for row in rows] == [
        ("anatomy", "What of anatomy?", 2), ("us_history", "What of us_history?", 2),
    ]  # fmt: skip
    assert [example.question for example in rows[1].examples] == [f"Example {number} of us_history?" for number in range(5)]
    assert not prepared.notes


def test_the_hub_gives_both_at_one_commit_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = {"cais/wmdp": write_wmdp(tmp_path / "c0ffee"), "cais/mmlu": tmp_path / "decade"}
    write_mmlu(copies["cais/mmlu"] / "all")
    names = {
        "cais/wmdp": ["README.md", "wmdp-bio/test-00000-of-00001.parquet", "wmdp-bio/test/0000.parquet"],
        "cais/mmlu": ["all/auxiliary_train-00000-of-00001.parquet", "all/dev-00000-of-00001.parquet", "anatomy/dev.parquet"],
    }
    wanted: dict[str, list[str]] = {}

    def fetch(repository: hub.Repository, files: hub.Files, report: object) -> Path:
        wanted[repository.name] = list(files(names[repository.name]))
        return copies[repository.name]

    monkeypatch.setattr(hub, "fetch", fetch)
    prepared = prepare("wmdp", tmp_path / "out", numbers=[range(1, 2)])
    assert prepared.revisions == {"c0ffee", "decade"}
    assert wanted == {"cais/wmdp": names["cais/wmdp"][1:], "cais/mmlu": names["cais/mmlu"][1:2]}
    assert set(prepared.files["1_WMDP-bio"]) == {"forget_choices.json", "retain_mmlu.json"}


def test_a_flat_file_of_a_subject_is_read(tmp_path: Path) -> None:
    write_parquet(tmp_path / "mine" / "wmdp-bio.parquet", [choices("What is it?")])
    assert list(prepare(str(tmp_path / "mine"), tmp_path / "out").files) == ["1_WMDP-bio"]

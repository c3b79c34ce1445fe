"""`formless data prepare` of a benchmark: a fault of its files is one line that names file, row and field."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from formless.cli.main import main
from tests.data.benchmarks.benchmark_sources import (
    AUTHORS,
    author_rows,
    choices,
    muse_tables,
    write_lines,
    write_mmlu,
    write_muse,
    write_parquet,
    write_tofu,
    write_wmdp,
)  # fmt: skip

Run = Callable[[str], tuple[int, list[str], list[str]]]
Change = Callable[[Path], object]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command beside the sources: exit code, lines of output, lines of errors."""
    write_tofu(tmp_path / "tofu")
    write_muse(tmp_path / "books")
    write_mmlu(write_wmdp(tmp_path / "wmdp", ["bio"]) / "mmlu")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "none")
    monkeypatch.chdir(tmp_path)

    def go(arguments: str) -> tuple[int, list[str], list[str]]:
        monkeypatch.setattr(sys, "argv", ["formless", *arguments.split()])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out.splitlines(), captured.err.splitlines()

    return go


def changed(name: str, place: int, **fields: Any) -> Change:
    """Change fields of one row of a file of JSON lines; None takes a field away."""

    def change(folder: Path) -> None:
        rows = [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]
        rows[place] = {key: value for key, value in (rows[place] | fields).items() if value is not None}
        write_lines(folder / name, rows)

    return change


def tables(name: str, rows: list[dict[str, Any]]) -> Change:
    return lambda folder: write_parquet(folder / f"{name}-00000-of-00001.parquet", rows)


def without(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names]


FORGET = author_rows(AUTHORS[0], perturbed=True)

FAULTS: list[tuple[str, Change, str]] = [
    ("tofu", changed("forget01_perturbed.json", 3, perturbed_answer=["a", "b"]),
     "the row has 2 perturbed answers, the first row 5 [{}/forget01_perturbed.json, row 4, field perturbed_answer]"),
    ("tofu", changed("retain_perturbed.json", 2, perturbed_answer=None),
     "the row has no perturbed answers [{}/retain_perturbed.json, row 3, field perturbed_answer]"),
    ("tofu", changed("real_authors_perturbed.json", 0, perturbed_answer=[]),
     "the row has no perturbed answers [{}/real_authors_perturbed.json, row 1, field perturbed_answer]"),
    ("tofu", changed("forget05_perturbed.json", 39, perturbed_answer="a"),
     "a row does not fit its format [{}/forget05_perturbed.json, row 40, field perturbed_answer]"),
    ("tofu", changed("forget01.json", 1, question=None),
     "a row does not fit its format [{}/forget01.json, row 2, field question]"),
    ("tofu", changed("retain99.json", 5, answer=""), "a row does not fit its format [{}/retain99.json, row 6, field answer]"),
    ("tofu", without("retain_perturbed.json", "retain95.json"),
     "forget05 has no retain set [{}]: add retain_perturbed.json or retain95.json of locuslab/TOFU"),
    ("tofu", changed("retain_perturbed.json", 7, question=FORGET[4]["question"].upper(), answer=FORGET[4]["answer"]),
     "the forget set and the retain set share a row, also {0}/retain_perturbed.json, row 8 "
     "[{0}/forget01_perturbed.json, row 5, field question]"),
    ("tofu", lambda folder: [write_lines(folder / f"forget01{suffix}.json", []) for suffix in ("", "_perturbed")],
     "the forget set is empty [{}, forget01]"),
    ("books", tables("knowmem/forget_qa", [{"question": "Who?"}]),
     "a row does not fit its format [{}/knowmem/forget_qa-00000-of-00001.parquet, row 1, field answer]"),
    ("books", tables("knowmem/retain2_qa", muse_tables()["knowmem/forget_qa"]), "share a row"),
    ("books", tables("knowmem/forget_qa", []), "the forget set is empty [{}, knowmem/forget_qa]"),
    ("books", tables("verbmem/forget", [{"prompt": "The"}]),
     "a row does not fit its format [{}/verbmem/forget-00000-of-00001.parquet, row 1, field gt]"),
    ("books", tables("privleak/holdout", [{"text": "a"}, {"text": None}]),
     "a row does not fit its format [{}/privleak/holdout-00000-of-00001.parquet, row 2, field text]"),
    ("books", tables("raw/forget", [{"words": "a"}]),
     "a row does not fit its format [{}/raw/forget-00000-of-00001.parquet, row 1, field text]: give the text as a string"),
    ("wmdp", tables("wmdp-bio/test", [choices("What?") | {"choices": ["salt", "sand"]}]),
     "the question has 2 choices [{}/wmdp-bio/test-00000-of-00001.parquet, row 1, field choices]: give 4"),
    ("wmdp", tables("wmdp-bio/test", [choices("What?"), choices("Who?", 4)]),
     "a row does not fit its format [{}/wmdp-bio/test-00000-of-00001.parquet, row 2]: answer: give the index of a choice"),
    ("wmdp", tables("wmdp-bio/test", [choices("What of anatomy?")]), "the forget set and the retain set share a row"),
    ("wmdp", tables("wmdp-bio/test", []), "the forget set is empty [{}, wmdp-bio]"),
    ("wmdp", tables("mmlu/test", [choices("What?", subject="law")]),
     "the subject 'law' has no examples [{}/mmlu/test-00000-of-00001.parquet, row 1, field subject]"),
    ("wmdp", tables("mmlu/dev", [choices("What?")]),
     "a row does not fit its format [{}/mmlu/dev-00000-of-00001.parquet, row 1, field subject]"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "change", "said"), FAULTS)
def test_a_fault_of_the_files_is_one_line_and_nothing_is_written(
    run: Run, tmp_path: Path, source: str, change: Change, said: str
) -> None:
    change(tmp_path / source)
    code, lines, errors = run(f"data prepare --source ./{source} --out out")
    assert (code, lines) == (2, []), errors
    assert said.format(tmp_path / source) in errors[-1]
    assert all(line.startswith("preparing: ") for line in errors[:-1])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--source muse --out out", "[muse]: give a folder, or one of muse-books, muse-news, rwku, sample, tofu"),
        ("--source tofu_copy --out out", "no such data folder [tofu_copy]"),
        ("--source ./tofu --out out --targets 3", "no target has the number 3"),
        ("--source books --out out --targets 2", "no target has the number 2"),
        ("--source muse-news --out out", "[muse-bench/MUSE-News]: load it once without it, or give a folder"),
        ("--source cais/wmdp --out out", "[cais/wmdp]: load it once without it, or give a folder"),
    ],
)  # fmt: skip
def test_a_source_that_is_not_there(run: Run, tmp_path: Path, arguments: str, said: str) -> None:
    code, _, errors = run(f"data prepare {arguments}")
    assert (code, len(errors)) == (2, 1), errors
    assert said in errors[0]
    assert not (tmp_path / "out").exists()


def test_it_says_what_could_not_be_made_and_what_is_not_certain(run: Run) -> None:
    code, lines, _ = run("data prepare --source ./tofu --out out --targets 1")
    assert code == 0
    assert lines[0].startswith("tofu: 1 targets, ")
    assert any(line.startswith("not made: ") and "rows of forget_level2.json (" in line for line in lines)
    assert "note: forget01: 2 of 20 forget rows and 6 of 60 retain rows have no certain author" in lines
    assert lines[-1] == "saved in out"


@pytest.mark.parametrize("source", ["tofu", "books", "wmdp"])
def test_a_prepared_set_is_listed_and_planned(run: Run, source: str) -> None:
    assert run(f"data prepare --source ./{source} --out out")[0] == 0
    code, lines, _ = run("targets --data out --json")
    assert code == 0
    listed = json.loads("\n".join(lines))["targets"]
    assert [one["subject"] for one in listed] == {"tofu": ["TOFU forget01", "TOFU forget05"], "books": ["MUSE-Books"],
                                                  "wmdp": ["WMDP-bio"]}[source]  # fmt: skip
    assert run("data check out")[0] in (0, 1)

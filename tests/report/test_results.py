"""The long table of results."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest

import formless
from formless.errors import DataError
from formless.experiment.runs import read_plan
from formless.report.results import COLUMNS
from tests.report.made_runs import Values, fail_run, made_run, write_plan, write_runs
from tests.report.test_independence import pair


def known(label: str, _target: str, seed: int) -> Values:
    value = 0.5 if label == "original" else 0.1 * seed
    return {("fb", "forget"): value, ("fb", "neighbor"): 0.5, ("qa", "forget"): value, ("qa", "neighbor"): 0.5}


def test_every_metric_of_every_run_is_a_row(tmp_path: Path) -> None:
    write_runs(tmp_path, ("original", "rocr"), targets=2, seeds=(1, 2), values=known)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = formless.results(tmp_path)
    assert tuple(table.columns) == COLUMNS
    assert table.attrs == {"failed": [], "missing": [], "left_out": {}}
    row = table.query("method == 'rocr' and target == '2_Person_2' and seed == 2 and task == 'fb' and split == 'forget'")
    (probability,) = row[row.metric == "probability"].to_dict("records")
    assert probability == {
        "model": "tiny", "method": "rocr", "target": "2_Person_2", "seed": 2, "task": "fb", "split": "forget", "group": None,
        "metric": "probability", "value": 0.2, "ci_low": 0.2, "ci_high": 0.2, "n": 2, "tool": "formless",
    }  # fmt: skip
    gap = table[(table.metric == "form_gap") & (table.method == "rocr")]
    assert gap.value.tolist() == pytest.approx([0] * 4)
    assert gap.task.isna().all()
    assert gap.n.isna().all()
    forgetting = table.query("metric == 'forgetting' and task == 'fb'").pivot_table("value", "target", "seed")
    assert forgetting.to_numpy().ravel() == pytest.approx([0.8, 0.6, 0.8, 0.6])
    assert set(table.method) == {"original", "rocr"}


def test_what_has_no_row_is_said(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, ("original", "rocr"), targets=1)
    failed, missing = made_run("npo", "1_Person_1"), made_run("npo", "2_Person_2")
    fail_run(tmp_path, failed)
    write_plan(tmp_path, [*runs, failed, missing])
    with pytest.warns(UserWarning, match=r"1 runs failed, 1 runs are missing; see the table's attrs"):
        table = formless.results(tmp_path)
    assert table.attrs["failed"] == [{"run": failed.title, "reason": "RuntimeError: boom"}]
    assert table.attrs["missing"] == [missing.title]
    assert set(table.method) == {"original", "rocr"}


def test_a_damaged_record_is_a_failed_run(tmp_path: Path) -> None:
    write_runs(tmp_path, ("original", "rocr"), targets=1)
    (run,) = [run for run in read_plan(tmp_path) if run.label == "rocr"]
    record = run.folder(tmp_path).record
    record.write_text(record.read_text("utf-8").replace("0.35", "0.99"), "utf-8")
    with pytest.warns(UserWarning, match="1 runs failed"):
        table = formless.results(tmp_path)
    assert set(table.method) == {"original"}


def test_loose_records_and_several_folders(tmp_path: Path) -> None:
    original, edited = pair({"fb": (0.4, 0.1), "qa": (0.2, 0.1)}, {"fb": (0.5, 0.4)}, "1_Ada")
    original.save(tmp_path / "loose" / "original.json")
    edited.save(tmp_path / "loose" / "edited.json")
    table = formless.results(str(tmp_path / "loose"))
    assert table.query("metric == 'forgetting' and task == 'fb'").value.tolist() == pytest.approx([0.75])
    assert table.seed.isna().all()
    (tmp_path / "alone").mkdir()
    edited.save(tmp_path / "alone" / "edited.json")
    with pytest.warns(UserWarning, match="1 left out"):
        empty = formless.results(tmp_path / "alone")
    assert empty.empty
    assert tuple(empty.columns) == COLUMNS
    write_runs(tmp_path / "a", ("original",), targets=1)
    write_runs(tmp_path / "b", ("original",), targets=1)
    assert set(formless.results(tmp_path / "a", tmp_path / "b").method) == {"a/original", "b/original"}
    with pytest.raises(DataError, match="the record cannot be read"):
        formless.results(tmp_path / "nothing_here")


def test_torch_is_not_imported(tmp_path: Path) -> None:
    write_runs(tmp_path, ("original", "rocr"), targets=1)
    code = f"import sys, formless; print(len(formless.results({str(tmp_path)!r})) > 9, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"


def test_types_suit_pandas(tmp_path: Path) -> None:
    write_runs(tmp_path, ("original", "rocr"), targets=1)
    table = formless.results(tmp_path)
    assert [str(table[name].dtype) for name in ("seed", "n", "value", "ci_low")] == ["Int64", "Int64", "float64", "float64"]
    assert isinstance(pd.concat([table, table]), pd.DataFrame)

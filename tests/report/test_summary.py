"""From runs to summaries over targets: which targets count, seeds first, and what is not in it is counted."""

import json
import re
import weakref
from pathlib import Path

import pytest

from formless.data.rows import Split
from formless.errors import DataError, UnknownNameError
from formless.evaluation.loading import load_record
from formless.evaluation.record import MetricKey, Record
from formless.experiment.result import RunResult
from formless.experiment.runs import Run
from formless.report import runs as runs_module
from formless.report.ratios import FORGETTING, RETENTION, forgetting_key
from formless.report.runs import collect
from formless.report.summary import MethodSummary, summarize
from formless.report.tables import column_name, plain_rows
from tests.report.made_runs import Values, fail_run, keep_run, made_record, made_run, write_plan, write_runs

FORGET_FB, NEIGHBOR_FB = (MetricKey("fb", split, "probability") for split in ("forget", "neighbor"))
ADA, BOB, CAT = "1_Ada", "2_Bob", "3_Cat"


def flat(forget: float, neighbor: float = 0.5) -> Values:
    splits: dict[Split, float] = {"forget": forget, "neighbor": neighbor}
    return {("fb", split): value for split, value in splits.items()}


def make(out: Path, *cells: tuple[str, str, int, float | None]) -> list[Run]:
    """Method, target, seed and forget_fb of each run; nothing for one that was not done."""
    runs = []
    for label, target, seed, value in cells:
        run = made_run(label, target, seed)
        runs.append(run)
        if value is not None:
            keep_run(out, run, made_record(run, flat(value)))
    write_plan(out, runs)
    return runs


def summaries_of(out: Path, baseline: str = "original") -> dict[str, MethodSummary]:
    return {one.condition.method: one for one in summarize(collect([out]), baseline)}


def test_a_method_is_compared_on_the_targets_of_the_baseline(tmp_path: Path) -> None:
    make(
        tmp_path, ("original", ADA, 0, 0.4), ("original", BOB, 0, 0.2), ("original", CAT, 0, None),
        ("rocr", ADA, 0, 0.1), ("rocr", BOB, 0, 0.1), ("rocr", CAT, 0, 0.9),
    )  # fmt: skip
    rows = summaries_of(tmp_path)
    found = rows["rocr"].metrics[FORGET_FB]
    assert rows["rocr"].targets == (ADA, BOB)
    assert rows["rocr"].left_out == (CAT,)
    assert found.baseline is not None
    assert found.difference is not None
    assert found.relative is not None
    assert [found.value.value, found.baseline.value] == pytest.approx([0.1, 0.3])
    assert (found.value.n, found.baseline.n, found.difference.n, found.relative.n) == (2, 2, 2, 2)
    assert found.baseline.values == pytest.approx((0.4, 0.2))
    assert found.difference.value == pytest.approx(-0.2)
    assert found.difference.values == pytest.approx((-0.3, -0.1))
    assert found.relative.value == pytest.approx(-2 / 3)
    assert found.relative.values == pytest.approx((-0.75, -0.5))
    assert (found.baseline.ci, found.difference.ci, found.relative.ci) == (None, None, None)  # two targets have no interval
    assert rows["original"].metrics[FORGET_FB].difference is None
    assert rows["original"].missing == 1
    assert rows["rocr"].gaps == "1 targets without a baseline left out"


def test_seeds_are_averaged_before_targets(tmp_path: Path) -> None:
    make(
        tmp_path, ("original", ADA, 0, 0.8), ("original", BOB, 0, 0.8),
        ("ga", ADA, 1, 0.2), ("ga", ADA, 2, 0.4), ("ga", ADA, 3, 0.6), ("ga", BOB, 1, 0.0),
    )  # fmt: skip
    row = summaries_of(tmp_path)["ga"]
    assert row.seeds == 3
    assert row.metrics[FORGET_FB].value.value == pytest.approx((0.4 + 0.0) / 2)
    assert row.metrics[FORGET_FB].value.n == 2
    assert row.metrics[FORGETTING].value.value == pytest.approx((0.5 + 1.0) / 2)
    assert row.independence is not None
    ratios = (0.25 * 0.5 * 0.75) ** (1 / 3), 0.01  # the geometric mean of the seeds; less than 0.01 counts as that
    assert row.independence.forgetting["fb"].value == pytest.approx(1 - (ratios[0] * ratios[1]) ** 0.5)
    assert row.independence.forgetting["fb"].n == 2
    assert row.metrics[forgetting_key("fb")].value.p == row.independence.forgetting["fb"].p is not None


def test_failed_missing_and_unreadable_runs_are_counted(tmp_path: Path) -> None:
    runs = make(tmp_path, ("original", ADA, 0, 0.4), ("rocr", ADA, 0, 0.1), ("rocr", BOB, 0, None), ("rocr", CAT, 0, 0.1))
    fail_run(tmp_path, runs[2], "RuntimeError: boom")
    broken = runs[3].folder(tmp_path).record
    broken.write_bytes(b"x" * broken.stat().st_size)
    lost = made_run("ga", ADA)
    write_plan(tmp_path, [*runs, lost])
    found = collect([tmp_path])
    rows = {row.condition.method: row for row in summarize(found)}
    assert (rows["rocr"].runs, rows["rocr"].complete, rows["rocr"].failed) == (3, 1, 2)
    assert (rows["ga"].runs, rows["ga"].complete, rows["ga"].missing, rows["ga"].targets) == (1, 0, 1, ())
    assert found.failed[0].reason == "RuntimeError: boom"
    assert "record.json is damaged: its content has changed; repeat `formless run`" in found.failed[1].reason
    assert found.failed[0].log_end == ("line 1", "boom")
    plain = {row["method"]: row for row in plain_rows(list(rows.values()))}
    assert (plain["rocr"]["failed"], plain["ga"]["missing"], plain["ga"]["fb.forget.probability"]) == (2, 1, None)


def test_a_metric_of_run_json_that_is_not_its_records_is_noticed(tmp_path: Path) -> None:
    runs = make(tmp_path, ("original", ADA, 0, 0.4), ("rocr", ADA, 0, 0.1))
    path = runs[1].folder(tmp_path).result
    content = json.loads(path.read_text("utf-8"))
    content["metrics"][0]["value"] += 0.25
    del content["sha256"]  # as of an earlier version
    path.write_text(json.dumps(content), "utf-8")
    (failed,) = collect([tmp_path]).failed
    assert re.search(r"run\.json says 0\.\d+ for .*, its record 0\.\d+ \[.*run\.json\]", failed.reason)


def test_the_folder_of_an_experiment_that_lost_its_plan_is_no_folder_of_loose_records(tmp_path: Path) -> None:
    make(tmp_path, ("original", ADA, 0, 0.4), ("rocr", ADA, 0, 0.1))
    (tmp_path / "experiment.yaml").write_text("models: [tiny]\n", "utf-8")
    (tmp_path / "plan.json").unlink()
    with pytest.raises(DataError, match="no experiment was started in this folder"):
        collect([tmp_path])


def test_an_edit_trained_on_neighbors_is_compared_with_its_own_original(tmp_path: Path) -> None:
    original, edited = made_run("original", ADA), made_run("ga", ADA)
    keep_run(tmp_path, original, made_record(original, flat(0.4, 0.5), digest="all neighbors"))
    folder = keep_run(tmp_path, edited, made_record(edited, flat(0.1, 0.3), digest="some"))
    write_plan(tmp_path, [original, edited])
    assert summaries_of(tmp_path)["ga"].left_out == (ADA,)  # asked other items
    made_record(original, flat(0.4, 0.6), digest="some").save(folder.original)
    row = summaries_of(tmp_path)["ga"]
    assert row.targets == (ADA,)
    baseline = row.metrics[NEIGHBOR_FB].baseline
    assert baseline is not None
    assert baseline.value == pytest.approx(0.6)
    assert row.metrics[RETENTION].value.value == pytest.approx(0.5)


def test_another_method_can_be_the_baseline(tmp_path: Path) -> None:
    make(
        tmp_path, ("original", ADA, 0, 0.4), ("original", BOB, 0, 0.4), ("rocr", ADA, 0, 0.1), ("ga", ADA, 0, 0.2),
        ("ga", BOB, 0, 0.3),
    )  # fmt: skip
    rows = summaries_of(tmp_path, "rocr")
    assert rows["rocr"].is_baseline
    assert not rows["original"].is_baseline
    assert (rows["ga"].targets, rows["ga"].left_out) == ((ADA,), (BOB,))
    differences = {key: found.difference.value for key, found in rows["ga"].metrics.items() if found.difference}
    assert differences[FORGET_FB] == pytest.approx(0.1)
    assert differences[FORGETTING] == pytest.approx(0.5 - 0.75)
    with pytest.raises(UnknownNameError, match="did you mean rocr"):
        summaries_of(tmp_path, "rocrr")


def test_plain_rows_are_numbers_with_one_column_a_metric(tmp_path: Path) -> None:
    runs = make(tmp_path, *((label, target, 0, 0.4) for target in (ADA, BOB) for label in ("original", "rocr")))
    rows = plain_rows(summarize(collect([tmp_path])))
    for row, label in zip(rows, ("original", "rocr"), strict=True):
        record = load_record(next(run for run in runs if run.label == label).folder(tmp_path).record)
        for key, metric in record.metrics().items():
            assert row[column_name(key)] == pytest.approx(metric.value)
        assert all(value is None or isinstance(value, int | float) for value in list(row.values())[2:])
    assert rows[0]["mmlu.accuracy.difference"] is None
    assert rows[1]["mmlu.accuracy.difference"] == pytest.approx(-0.05)
    assert rows[1]["unlearning_seconds"] == 1.0
    assert list(rows[0]) == list(rows[1])


def test_two_folders_are_named_and_the_same_folder_twice_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make(tmp_path / name, ("original", ADA, 0, 0.4), ("rocr", ADA, 0, 0.1))
    rows = summarize(collect([tmp_path / "a", tmp_path / "b"]))
    assert [row.condition.method for row in rows] == ["a/original", "a/rocr", "b/original", "b/rocr"]
    assert [row.is_baseline for row in rows] == [True, False, True, False]
    with pytest.raises(DataError, match="two records of tiny, a/original"):
        collect([tmp_path / "a", tmp_path / "a"])


def test_a_model_loaded_in_two_ways_is_two_models(tmp_path: Path) -> None:
    runs = [made_run("rocr", ADA, model={"name": "tiny", "dtype": dtype}) for dtype in ("float32", "bfloat16")]
    write_plan(tmp_path, runs)
    assert [condition.model for condition in collect([tmp_path]).planned] == ["tiny (float32)", "tiny (bfloat16)"]


def test_each_record_is_read_once_and_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_runs(tmp_path, ("original", "rocr", "ga", "npo"), targets=4, seeds=(1, 2))
    read: list[Path] = []
    alive: list[weakref.ref[Record]] = []
    most = 0

    def reading(path: Path) -> Record:
        nonlocal most
        read.append(path)
        record = load_record(path)
        alive.append(weakref.ref(record))
        most = max(most, sum(one() is not None for one in alive))
        return record

    monkeypatch.setattr(runs_module, "load_record", reading)
    found = collect([tmp_path])
    assert len(found.complete) == len(read) == len(set(read)) == 4 * (1 + 3 * 2)
    assert most <= 3  # a target's original, the record at hand, and the one before it


def test_the_callback_gets_every_complete_run(tmp_path: Path) -> None:
    write_runs(tmp_path, ("original", "rocr"), targets=2)
    seen: list[tuple[str, str]] = []

    def on_record(run: runs_module.RunMetrics, record: Record, report: RunResult | None) -> None:
        assert report is not None
        assert report.id
        seen.append((run.condition.method, record.target))

    collect([tmp_path], on_record)
    assert sorted(seen) == sorted((label, f"{n}_Person_{n}") for label in ("original", "rocr") for n in (1, 2))


def test_no_records_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no records"):
        collect([tmp_path])


def test_what_contradicts_its_original_is_left_out_with_the_reason(tmp_path: Path) -> None:
    runs = make(
        tmp_path / "runs", ("original", ADA, 0, 0.4), ("rocr", ADA, 0, 0.1), ("original", BOB, 0, 0.4), ("rocr", BOB, 0, 0.1)
    )
    other = made_record(runs[1], flat(0.1, 0.1))
    other.tasks[0].items[0].query = "Who else?"
    keep_run(tmp_path / "runs", runs[1], other)
    found = collect([tmp_path / "runs"])
    assert len(found.complete) == 3
    assert "the items of a record are not those of its original" in found.failed[0].reason
    loose = tmp_path / "loose"
    made_record(runs[0], flat(0.4, 0.4)).save(loose / "a.json")
    made_record(runs[0], flat(0.4, 0.4)).save(loose / "copy.json")
    broken = made_record(runs[1], flat(0.1, 0.1))
    broken.tasks[0].metrics[0].value = 0.3
    broken.save(loose / "c.json")
    found = collect([loose])
    assert len(found.complete) == 1
    (reason,) = found.left_out
    assert re.match(
        r"unreadable record: the record contradicts itself .*c\.json, tasks\.0 .*: it is 0\.3, and the mean", reason
    )
    (loose / "c.json").write_text(made_record(runs[1], flat(0.1, 0.1)).model_copy(update={"format": 99}).model_dump_json())
    (reason,) = collect([loose]).left_out
    assert re.match(r"unreadable record: .* newer schema version 99; .*c\.json", reason)
    made_record(runs[0], flat(0.4, 0.3)).save(loose / "b.json")
    with pytest.raises(
        DataError, match=r"two records of the original model, of the same items, differ .*a\.json and .*b\.json"
    ):
        collect([loose])


def test_reverse_questions_have_columns_of_their_own(tmp_path: Path) -> None:
    splits: tuple[Split, ...] = ("forget", "neighbor")
    values = {"original": (0.5, 0.5), "rocr": (0.05, 0.4)}
    runs = [made_run(label, target) for label in values for target in (ADA, BOB)]
    for run in runs:
        asked = {("reverse", split): value for split, value in zip(splits, values[run.label], strict=True)}
        keep_run(tmp_path, run, made_record(run, flat(0.5) | asked))
    write_plan(tmp_path, runs)
    found = summaries_of(tmp_path)["rocr"]
    assert found.metrics[forgetting_key("reverse")].value.value == pytest.approx(0.9)
    assert found.metrics[FORGETTING].value.value == 0  # of blanks alone
    (row,) = plain_rows([found])
    assert (row["reverse.forgetting"], row["reverse.retention"]) == pytest.approx((0.9, 0.8))

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import formless
from formless.data.ort import find_target
from formless.errors import DataError, OutputError
from formless.evaluation.evaluate import evaluate
from formless.evaluation.record import load_record
from formless.experiment import original as original_module
from formless.experiment import session as session_module
from formless.experiment.config import Experiment
from formless.experiment.executors.inprocess import InProcess
from formless.experiment.lock import locked
from formless.experiment.result import RunReport
from formless.experiment.sweep import Summary, read_plan, sweep

Build = Callable[..., Experiment]
FILES = {"run.json", "record.json", "log.txt"}


@pytest.fixture
def go(recorder: Any, tmp_path: Path) -> Callable[..., Summary]:
    """Sweep in this process."""
    return lambda experiment, **keys: sweep(experiment, tmp_path / "out", lambda hold: InProcess(), recorder, **keys)


def reports(out: Path) -> dict[str, RunReport]:
    return {path.parent.name: RunReport.model_validate_json(path.read_bytes()) for path in out.glob("runs/*/*/*/*/run.json")}


def test_a_sweep_leaves_what_a_run_by_hand_gives(
    experiment: Build, go: Any, tmp_path: Path, model_folder: Path, people: Path
) -> None:
    rocr = {"method": "rocr", "layers": [1, 2], "basis": "none", "l2": 0.0, "redirect": "Bob"}
    done = go(experiment(methods=["original", rocr], suite="fb,qa"))
    assert [len(done.runs), done.found, len(done.reports), done.failed, done.missing] == [8, 0, 8, [], 0]
    lm = formless.load(str(model_folder), device="cpu")
    target = find_target(people, "2")
    edit = formless.unlearn(lm, target, **{name: value for name, value in rocr.items() if name != "method"})
    with edit.applied(lm):
        by_hand = evaluate(lm, target, "fb,qa")
    run = next(run for run in done.runs if (run.label, run.target) == ("rocr", "2_Person_2"))
    folder = run.folder(tmp_path / "out")
    model = f"tiny-{run.inputs['model'][:6]}"
    assert folder.relative_to(tmp_path / "out").parts == ("runs", model, "rocr", "2_Person_2", run.id)
    record = load_record(folder / "record.json")
    assert record.form("fb", "forget").mean == pytest.approx(by_hand.form("fb", "forget").mean, abs=1e-9)
    report = reports(tmp_path / "out")[run.id]
    assert report.metrics["forget_qa"] == record.form("qa", "forget").mean
    assert report.metrics["neighbor_fb"] == record.form("fb", "neighbor").mean
    assert (report.status, report.attempts) == ("complete", 1)
    assert (report.run.config["l2"], report.run.config["mode"]) == (0, "unrelated")
    assert set(report.timings) == {"loading", "unlearning", "evaluating", "saving", "total"}
    assert report.memory is not None
    assert report.memory.resident > 10**7
    assert report.model_fingerprint == lm.fingerprint
    assert {"torch", "formless", "python"} <= set(report.versions)
    assert {path.name for path in folder.iterdir()} == FILES | {"edit"}
    assert formless.load_edit(folder / "edit").info.method == "rocr"
    assert "complete after" in (folder / "log.txt").read_text()


def test_one_load_and_one_measure_of_the_original(
    experiment: Build, go: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loads, measured = [], []
    load, carry_out = session_module.load, original_module.carry_out
    monkeypatch.setattr(session_module, "load", lambda *a, **k: loads.append(1) or load(*a, **k))
    monkeypatch.setattr(
        original_module, "carry_out", lambda lm, plan, **k: measured.append(plan.target.subject) or carry_out(lm, plan, **k)
    )
    go(experiment(methods=["original", "icu"]))
    assert len(loads) == 1
    assert sorted(measured) == ["Person 1", "Person 2", "Person 3", "Person 4"]
    shutil.rmtree(tmp_path / "out")
    assert go(experiment(methods=["original", "icu"])).failed == []
    assert len(measured) == 4


def test_again_does_nothing_and_what_is_missing_is_done(experiment: Build, go: Any, recorder: Any, tmp_path: Path) -> None:
    wanted = experiment()
    first = go(wanted)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*") if path.is_file()}
    again = go(wanted)
    assert (again.found, again.reports) == (8, ())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*") if path.is_file()} == before
    gone = first.runs[3].folder(tmp_path / "out") / "run.json"
    gone.unlink()
    third = go(wanted)
    assert [report.id for report in third.reports] == [first.runs[3].id]
    assert recorder.begun == (8, 7, 1)


def test_half_written_files_are_not_read(experiment: Build, go: Any, tmp_path: Path) -> None:
    wanted = experiment(methods=["icu"])
    runs = go(wanted).runs
    out = tmp_path / "out"
    expected = {run.id: load_record(run.folder(out) / "record.json").forms for run in runs}
    report, record, edit, part = (run.folder(out) for run in runs)
    (report / "run.json").write_bytes((report / "run.json").read_bytes()[:200])
    (record / "record.json").write_bytes((record / "record.json").read_bytes()[:-1])
    (edit / "edit" / "edit.json").unlink()
    (part / "run.json").unlink()
    (part / ".record.json.x.part").write_text("{")
    (part / ".edit.x.part").mkdir()
    again = go(wanted)
    assert (again.found, len(again.reports), again.failed) == (0, 4, [])
    for run in runs:
        assert load_record(run.folder(out) / "record.json").forms == expected[run.id]
        assert {path.name for path in run.folder(out).iterdir()} == FILES | {"edit"}


def test_other_settings_make_new_runs(experiment: Build, go: Any, tmp_path: Path) -> None:
    first = go(experiment(methods=["icu"]))
    second = go(experiment(methods=["icu"], suite="fb,qa"))
    assert (second.found, len(second.reports)) == (0, 4)
    assert not {run.id for run in first.runs} & {run.id for run in second.runs}
    assert len(reports(tmp_path / "out")) == 8
    assert {run.id for run in read_plan(tmp_path / "out")} == {run.id for run in second.runs}
    assert go(experiment(methods=["icu"])).found == 4


def test_no_edit_is_kept_where_none_is_wanted(experiment: Build, go: Any, tmp_path: Path) -> None:
    without = go(experiment(methods=["icu"], targets=1, save_edits=False))
    folder = without.runs[0].folder(tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == FILES
    assert go(experiment(methods=["icu"], targets=1)).found == 0  # now the edit is missing
    assert (folder / "edit" / "edit.json").is_file()


@pytest.mark.usefixtures("mishaps")
def test_a_failure_is_recorded_and_tried_again(
    experiment: Build, go: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISHAP_ONCE", str(tmp_path))
    methods = [{"method": "mishap", "kind": kind, "label": kind} for kind in ("error", "refuse")]
    wanted = experiment(methods=[*methods, "icu"], targets=1)
    first = go(wanted)
    assert [report.cause for report in first.reports] == ["error", "refused", None]
    assert first.failed[0].reason == "RuntimeError: boom"
    assert first.failed[1].reason == "it cannot be done [here]: do something else"
    found = reports(tmp_path / "out")
    report = found[first.failed[0].id]
    assert report.status == "failed"
    assert "RuntimeError: boom" in report.log_end[-2]
    assert any("mishaps.py" in line for line in report.log_end)
    assert "on standard output" not in "".join(report.log_end)  # this process keeps its own output
    assert not (report.run.folder(tmp_path / "out") / "record.json").exists()
    again = go(wanted)
    assert (again.found, [report.status for report in again.reports]) == (1, ["complete"] * 2)


@pytest.mark.usefixtures("mishaps")
def test_fail_fast(experiment: Build, go: Any) -> None:
    methods = ["icu", {"method": "mishap", "kind": "error"}]
    done = go(experiment(methods=methods), fail_fast=True)
    assert [report.status for report in done.reports] == ["complete", "failed"]
    assert done.missing == 6


def test_a_model_that_cannot_be_loaded_is_tried_once(
    experiment: Build, go: Any, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    loads: list[str] = []
    load = session_module.load
    monkeypatch.setattr(session_module, "load", lambda name, **k: loads.append(Path(name).name) or load(name, **k))
    done = go(experiment(models=[str(broken), str(model_folder)], targets="1-2"))
    assert Counter(report.cause for report in done.reports) == {"refused": 4, None: 4}
    assert loads == ["broken", "tiny"]


def test_a_full_disk_loses_nothing_finished(
    experiment: Build, go: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Any
) -> None:
    wanted = experiment(methods=["icu"])
    real = os.fsync

    def full(descriptor: int) -> None:
        if len(recorder.reports) >= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="no space left on device"):
        go(wanted)
    monkeypatch.setattr(os, "fsync", real)
    out = tmp_path / "out"
    assert [report.status for report in reports(out).values()] == ["complete"] * 2
    assert not list(out.rglob("*.part"))
    again = go(wanted)
    assert (again.found, len(again.reports), again.failed) == (2, 2, [])


def test_a_folder_takes_one_sweep_at_a_time(
    experiment: Build, go: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formless.experiment.lock._PATIENCE", 0.2)
    with locked(tmp_path / "out", 1):
        with pytest.raises(OutputError, match=f"another sweep works on this folder.*process {os.getpid()}"):
            go(experiment())
        assert not (tmp_path / "out" / "plan.json").exists()
    assert go(experiment(targets=1)).missing == 0
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"), locked(tmp_path / "file", 1):
        pass


def test_a_look_at_the_lock_does_not_disturb(experiment: Build, tmp_path: Path) -> None:
    from formless.experiment.lock import holder

    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            holder(tmp_path)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(50):
            with locked(tmp_path, 1):
                pass
    finally:
        stop.set()
        thread.join()
    assert holder(tmp_path) is None


def test_an_edit_trained_on_neighbors_has_its_own_original(experiment: Build, go: Any, tmp_path: Path) -> None:
    training = {
        "learning_rate": 1e-3,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "warmup_steps": 0,
        "max_length": 64,
    }
    ga = {"method": "ga", "retain": "ce", "retain_rows": "neighbors", **training}
    done = go(experiment(methods=["original", ga], targets=1))
    assert done.failed == []
    folder = done.runs[1].folder(tmp_path / "out")
    edited, original = load_record(folder / "record.json"), load_record(folder / "original.json")
    assert len(edited.without_neighbors) == 1
    whole = load_record(done.runs[0].folder(tmp_path / "out") / "record.json")
    assert edited.probes_digest == original.probes_digest != whole.probes_digest
    assert original.edits == []


def test_progress_is_told(experiment: Build, go: Any, recorder: Any, tmp_path: Path) -> None:
    go(experiment(methods=["icu"], targets=1))
    phases = list(dict.fromkeys(signal.phase for _, signal in recorder.signals))
    assert phases == ["loading", "unlearning", "evaluating", "saving"]
    assert not list((tmp_path / "out").rglob("progress.json"))


def test_no_folder_of_runs(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps([{"model": 1}]))
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="no experiment was started"):
            read_plan(folder)


@pytest.mark.slow
def test_memory_stays_flat_over_a_hundred_targets(experiment: Build, tmp_path: Path, write_people: Any, recorder: Any) -> None:
    for number in range(5, 101):
        write_people(tmp_path / "people", number)

    resident: list[int] = []

    class Watcher(type(recorder)):  # type: ignore[misc]
        def finish(self, report: RunReport) -> None:
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())

    if not Path("/proc/self/statm").exists():
        pytest.skip("resident memory is read from /proc")
    start = time.perf_counter()
    done = sweep(experiment(methods=["icu"]), tmp_path / "out", lambda hold: InProcess(), Watcher())
    seconds = time.perf_counter() - start
    assert (len(done.reports), done.failed) == (100, [])
    work = sum(report.timings[phase] for report in done.reports for phase in ("loading", "unlearning", "evaluating"))
    print(f"overhead {10 * (seconds - work):.1f} ms a run, growth {(resident[-1] - resident[9]) / 2**20:.1f} MB")
    assert resident[-1] - resident[9] < 40 * 2**20

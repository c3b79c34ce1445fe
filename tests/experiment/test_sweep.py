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
from formless import store
from formless.data.ort import find_target
from formless.errors import DataError, OutputError
from formless.evaluation.evaluate import evaluate, run_plan
from formless.evaluation.loading import load_record
from formless.evaluation.record import MetricKey
from formless.experiment import result as result_module
from formless.experiment.config import Experiment
from formless.experiment.executors.local import InProcess
from formless.experiment.result import RunFile, RunResult
from formless.experiment.runs import read_plan
from formless.experiment.status import locked, read_status
from formless.experiment.sweep import SweepResult, sweep
from formless.models.loading import load
from formless.store import RESULT_SCHEMA, read_document
from tests.experiment.conftest import counted, values

Build = Callable[..., Experiment]
FILES = {"run.json", "record.json", "log.txt"}


@pytest.fixture
def go(recorder: Any, tmp_path: Path) -> Callable[..., SweepResult]:
    """Sweep in this process."""
    return lambda experiment, **keys: sweep(experiment, tmp_path / "out", lambda hold: InProcess(), recorder, **keys)


def results(out: Path) -> dict[str, RunResult]:
    return {
        path.parent.name: RunResult.model_validate(read_document(path, RESULT_SCHEMA))
        for path in out.glob("runs/*/*/*/*/run.json")
    }


def test_a_sweep_leaves_what_a_run_by_hand_gives(
    experiment: Build, go: Any, tmp_path: Path, model_folder: Path, people: Path
) -> None:
    rocr = {"method": "rocr", "layers": [1, 2], "basis": "none", "l2": 0.0, "redirect": "Bob"}
    done = go(experiment(methods=["original", rocr], suite="fb,qa"))
    assert [len(done.runs), done.already_complete, len(done.results), done.failed, done.missing] == [8, 0, 8, [], 0]
    lm = formless.load(str(model_folder), device="cpu")
    target = find_target(people, "2")
    edit = formless.unlearn(lm, target, **rocr)
    with edit.applied(lm):
        by_hand = evaluate(lm, target, "fb,qa")
    run = next(run for run in done.runs if (run.label, run.target) == ("rocr", "2_Person_2"))
    folder = run.folder(tmp_path / "out").path
    model = f"tiny-{run.inputs['model'][:6]}"
    assert folder.relative_to(tmp_path / "out").parts == ("runs", model, "rocr", "2_Person_2", run.id)
    record = load_record(folder / "record.json")
    assert values(record) == pytest.approx(values(by_hand), abs=1e-9)
    result = results(tmp_path / "out")[run.id]
    (metric,) = [
        found for found in result.metrics if (found.task, found.split, found.metric) == ("qa", "forget", "probability")
    ]
    assert metric.model_dump() == {
        "value": values(record)[MetricKey("qa", "forget", "probability")], "ci": None, "n": 1, "task": "qa", "split": "forget",
        "metric": "probability", "group": None,
    }  # fmt: skip
    assert len(result.metrics) == len(record.metrics())
    assert (result.status, result.attempts) == ("complete", 1)
    assert (result.run.config["l2"], result.run.config["mode"]) == (0, "unrelated")
    assert set(result.timings) == {"loading", "unlearning", "evaluating", "saving", "total"}
    assert result.memory is not None
    assert result.memory.resident > 10**7
    assert result.model_fingerprint == lm.fingerprint
    assert {"torch", "formless", "python"} <= set(result.versions)
    assert {path.name for path in folder.iterdir()} == FILES | {"edit"}
    assert formless.load_edit(folder / "edit").info.method == "rocr"
    assert "complete after" in (folder / "log.txt").read_text()


@pytest.mark.slow
def test_one_load_and_one_measure_of_the_original(
    experiment: Build, go: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loads = counted(monkeypatch, "formless.experiment.run.load", load)
    measured = counted(monkeypatch, "formless.experiment.measure.run_plan", run_plan)
    go(experiment(methods=["original", "icu"]))
    assert len(loads) == 1
    assert sorted(plan.target.subject for _, plan, _ in measured) == ["Person 1", "Person 2", "Person 3", "Person 4"]
    shutil.rmtree(tmp_path / "out")
    assert go(experiment(methods=["original", "icu"])).failed == []
    assert len(measured) == 4


def test_again_does_nothing_and_what_is_missing_is_done(experiment: Build, go: Any, recorder: Any, tmp_path: Path) -> None:
    wanted = experiment()
    first = go(wanted)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*") if path.is_file()}
    again = go(wanted)
    assert (again.already_complete, again.results) == (8, ())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*") if path.is_file()} == before
    gone = first.runs[3].folder(tmp_path / "out").result
    gone.unlink()
    third = go(wanted)
    assert [result.id for result in third.results] == [first.runs[3].id]
    assert recorder.begun == (8, 7, 1)


def test_half_written_files_are_not_read(experiment: Build, go: Any, tmp_path: Path) -> None:
    wanted = experiment(methods=["icu"])
    runs = go(wanted).runs
    out = tmp_path / "out"
    expected = {run.id: load_record(run.folder(out).record).tasks for run in runs}
    result, record, edit, part = (run.folder(out).path for run in runs)
    (result / "run.json").write_bytes((result / "run.json").read_bytes()[:200])
    (record / "record.json").write_bytes((record / "record.json").read_bytes()[:-1])
    (edit / "edit" / "edit.json").unlink()
    (part / "run.json").unlink()
    (part / ".record.json.x.part").write_text("{")
    (part / ".edit.x.part").mkdir()
    again = go(wanted)
    assert (again.already_complete, len(again.results), again.failed) == (0, 4, [])
    for run in runs:
        assert load_record(run.folder(out).record).tasks == expected[run.id]
        assert {path.name for path in run.folder(out).path.iterdir()} == FILES | {"edit"}


def test_other_settings_make_new_runs(experiment: Build, go: Any, tmp_path: Path) -> None:
    first = go(experiment(methods=["icu"]))
    second = go(experiment(methods=["icu"], suite="fb,qa"))
    assert (second.already_complete, len(second.results)) == (0, 4)
    assert not {run.id for run in first.runs} & {run.id for run in second.runs}
    assert len(results(tmp_path / "out")) == 8
    assert {run.id for run in read_plan(tmp_path / "out")} == {run.id for run in second.runs}
    assert go(experiment(methods=["icu"])).already_complete == 4


def test_no_edit_is_kept_where_none_is_wanted(experiment: Build, go: Any, tmp_path: Path) -> None:
    without = go(experiment(methods=["icu"], targets=1, save_edits=False))
    folder = without.runs[0].folder(tmp_path / "out").path
    assert {path.name for path in folder.iterdir()} == FILES
    assert go(experiment(methods=["icu"], targets=1)).already_complete == 0  # now the edit is missing
    assert (folder / "edit" / "edit.json").is_file()


@pytest.mark.usefixtures("mishaps")
def test_a_failure_is_recorded_and_tried_again(
    experiment: Build, go: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISHAP_ONCE", str(tmp_path))
    methods = [{"method": "mishap", "kind": kind, "label": kind} for kind in ("error", "refuse")]
    wanted = experiment(methods=[*methods, "icu"], targets=1)
    first = go(wanted)
    assert [result.cause for result in first.results] == ["error", "refused", None]
    assert first.failed[0].reason == "RuntimeError: boom"
    assert first.failed[1].reason == "it cannot be done [here]: do something else"
    found = results(tmp_path / "out")
    result = found[first.failed[0].id]
    assert result.status == "failed"
    assert "RuntimeError: boom" in result.log_end[-2]
    assert any("mishaps.py" in line for line in result.log_end)
    assert "on standard output" not in "".join(result.log_end)  # this process keeps its own output
    assert not result.run.folder(tmp_path / "out").record.exists()
    again = go(wanted)
    assert (again.already_complete, [result.status for result in again.results]) == (1, ["complete"] * 2)


@pytest.mark.usefixtures("mishaps")
def test_fail_fast(experiment: Build, go: Any) -> None:
    methods = ["icu", {"method": "mishap", "kind": "error"}]
    done = go(experiment(methods=methods), fail_fast=True)
    assert [result.status for result in done.results] == ["complete", "failed"]
    assert done.missing == 6


def test_a_model_that_cannot_be_loaded_is_tried_once(
    experiment: Build, go: Any, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    loads = counted(monkeypatch, "formless.experiment.run.load", load)
    done = go(experiment(models=[str(broken), str(model_folder)], targets="1-2"))
    assert Counter(result.cause for result in done.results) == {"refused": 4, None: 4}
    assert [Path(name).name for (name,) in loads] == ["broken", "tiny"]


def test_a_full_disk_loses_nothing_finished(
    experiment: Build, go: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Any
) -> None:
    wanted = experiment(methods=["icu"])
    real = os.fsync

    def full(descriptor: int) -> None:
        if len(recorder.results) >= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="no space left on device"):
        go(wanted)
    monkeypatch.setattr(os, "fsync", real)
    out = tmp_path / "out"
    assert [result.status for result in results(out).values()] == ["complete"] * 2
    assert not list(out.rglob("*.part"))
    again = go(wanted)
    assert (again.already_complete, len(again.results), again.failed) == (2, 2, [])


def test_a_folder_takes_one_sweep_at_a_time(
    experiment: Build, go: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formless.experiment.status._LOCK_SECONDS", 0.2)
    with locked(tmp_path / "out", 1):
        with pytest.raises(OutputError, match=f"another sweep works on this folder.*process {os.getpid()}"):
            go(experiment())
        assert not (tmp_path / "out" / "plan.json").exists()
    assert go(experiment(targets=1)).missing == 0
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"), locked(tmp_path / "file", 1):
        pass


def test_a_look_at_the_lock_does_not_disturb(experiment: Build, tmp_path: Path) -> None:
    from formless.experiment.status import holder

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
    folder = done.runs[1].folder(tmp_path / "out").path
    edited, original = load_record(folder / "record.json"), load_record(folder / "original.json")
    assert len(edited.excluded_neighbors) == 1
    whole = load_record(done.runs[0].folder(tmp_path / "out").record)
    assert edited.probes_digest == original.probes_digest != whole.probes_digest
    assert original.edits == []


def test_progress_is_told(experiment: Build, go: Any, recorder: Any, tmp_path: Path) -> None:
    go(experiment(methods=["icu"], targets=1))
    phases = list(dict.fromkeys(progress.phase for _, progress in recorder.progress))
    assert phases == ["loading", "unlearning", "evaluating", "saving"]
    assert not list((tmp_path / "out").rglob("progress.json"))


def test_a_plan_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no experiment was started in this folder"):
        read_plan(tmp_path)
    for content in ("[]", '{"format": 1, "runs": []}', '{"format": 2, "runs": [{"model": 1}]}', "{"):
        (tmp_path / "plan.json").write_text(content)
        with pytest.raises(DataError, match=r"the plan cannot be read, or is of an older version .*plan\.json.*start the"):
            read_plan(tmp_path)
    (tmp_path / "plan.json").write_text('{"format": 3, "runs": "otherwise"}')
    with pytest.raises(DataError, match="newer schema version 3; this Formless reads up to 2"):
        read_plan(tmp_path)


@pytest.mark.parametrize("name", ["plan.json", "run.json"])
def test_a_folder_of_a_newer_version_is_refused_and_stays(experiment: Build, go: Any, tmp_path: Path, name: str) -> None:
    done = go(experiment(methods=["icu"], targets=1))
    out = tmp_path / "out"
    path = out / "plan.json" if name == "plan.json" else done.runs[0].folder(out).result
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 3, "more": True}))
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file() and file.name != ".lock"}
    for attempt in (lambda: go(experiment(methods=["original", "icu"])), lambda: read_status(out)):
        with pytest.raises(DataError, match=rf"newer schema version 3.*{name}.*update Formless"):
            attempt()
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file() and file.name != ".lock"} == before


@pytest.mark.slow
def test_memory_stays_flat_over_a_hundred_targets(experiment: Build, tmp_path: Path, write_people: Any, recorder: Any) -> None:
    for number in range(5, 101):
        write_people(tmp_path / "people", number)

    resident: list[int] = []

    class Watcher(type(recorder)):  # type: ignore[misc]
        def on_end(self, result: RunResult) -> None:
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())

    if not Path("/proc/self/statm").exists():
        pytest.skip("resident memory is read from /proc")
    start = time.perf_counter()
    done = sweep(experiment(methods=["icu"]), tmp_path / "out", lambda hold: InProcess(), Watcher())
    seconds = time.perf_counter() - start
    assert (len(done.results), done.failed) == (100, [])
    work = sum(result.timings[phase] for result in done.results for phase in ("loading", "unlearning", "evaluating"))
    print(f"overhead {10 * (seconds - work):.1f} ms a run, growth {(resident[-1] - resident[9]) / 2**20:.1f} MB")
    assert resident[-1] - resident[9] < 40 * 2**20


def flipped(path: Path) -> None:
    """Change one digit of a file: the size stays."""
    text = path.read_text("utf-8")
    index = text.index('"probability": 0.') + len('"probability": 0.') if '"probability": 0.' in text else text.index("0.") + 2
    path.write_text(f"{text[:index]}{(int(text[index]) + 1) % 10}{text[index + 1 :]}", "utf-8")


def test_a_damaged_file_is_said_and_its_run_is_done_again_once(
    experiment: Build, go: Any, recorder: Any, tmp_path: Path
) -> None:
    rocr = {"method": "rocr", "layers": [1, 2], "basis": "none", "redirect": "Bob"}
    wanted = experiment(methods=[rocr])
    runs = go(wanted).runs
    out = tmp_path / "out"
    record, weights, result, whole = (run.folder(out) for run in runs)
    expected = load_record(record.record).tasks
    size = record.record.stat().st_size
    flipped(record.record)
    assert record.record.stat().st_size == size
    content = bytearray((weights.edit / "adapter_model.safetensors").read_bytes())
    content[-1] ^= 1
    (weights.edit / "adapter_model.safetensors").write_bytes(content)
    result.result.write_text(result.result.read_text().replace('"attempts": 1', '"attempts": []'))
    status = read_status(out)
    assert (len(status.complete), len(status.missing)) == (1, 3)
    assert [(run.id, reason.rpartition("/")[2]) for run, reason in status.damaged] == [
        (runs[0].id, "record.json is damaged: its content has changed"),
        (runs[1].id, "adapter_model.safetensors is damaged: its content has changed"),
        (runs[2].id, "run.json is damaged: its content is not what was written: the hash (sha256) differs"),
    ]
    again = go(wanted)
    assert recorder.damages == [(run.id, reason) for run, reason in status.damaged]
    assert (again.already_complete, [found.id for found in again.results]) == (1, [run.id for run in runs[:3]])
    assert load_record(record.record).tasks == expected
    third = go(wanted)
    assert (third.already_complete, len(recorder.damages)) == (4, 3)
    assert whole.result.is_file()


def test_a_result_that_lists_sizes_only_is_read(experiment: Build, go: Any, tmp_path: Path) -> None:
    wanted = experiment(methods=["icu"], targets=1)
    run = go(wanted).runs[0]
    path = run.folder(tmp_path / "out").result
    old = json.loads(path.read_text())
    assert set(old["files"]) == {"record.json", "edit/edit.json"}
    old["files"] = {name: file["size"] for name, file in old["files"].items()}
    del old["sha256"]
    path.write_text(json.dumps(old))
    assert go(wanted).already_complete == 1
    (run.folder(tmp_path / "out").record).write_text("{}")
    assert go(wanted).already_complete == 0


def test_large_files_are_hashed_where_their_time_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_module, "_HASHED_BYTES", 3)
    path = tmp_path / "differences.safetensors"
    path.write_bytes(b"four")
    listed = RunFile.of(path)
    hashed = counted(monkeypatch, "formless.experiment.result.file_sha256", store.file_sha256)
    assert (listed.damage(path), hashed) == (None, [])
    path.write_bytes(b"five")
    os.utime(path, ns=(0, 1))
    assert listed.damage(path) == "is damaged: its content has changed"
    path.write_bytes(b"four")
    os.utime(path, ns=(0, 2))
    assert listed.damage(path) is None
    path.unlink()
    assert listed.damage(path) == "is missing"
    path.mkdir()
    assert listed.damage(path) == "is no plain file"


@pytest.mark.parametrize(
    "files",
    [
        {"edit.json": "{}", "adapter_config.json": "{}", "adapter_model.safetensors": ""},
        {"1_Ada/forget_level1.json": "[]"},
        {"report.html": "a demo's"},
        {"plan.json": '{"resources": []}'},
        {"runs/other/plan.json": "{}"},
        {"experiment.yaml": "a: 1", "notes.txt": "mine"},
        {".env": "secret"},
        {"run.json": "{}"},
    ],
)
def test_nothing_is_written_into_a_folder_of_something_else(
    experiment: Build, go: Any, tmp_path: Path, files: dict[str, str]
) -> None:
    for name, text in files.items():
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    with pytest.raises(OutputError, match=r"the folder holds .*, and no experiment .*out\]: choose another --out"):
        go(experiment(methods=["icu"], targets=1))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_a_folder_of_ours_is_gone_on_with_whatever_is_left(experiment: Build, go: Any, tmp_path: Path) -> None:
    out, wanted = tmp_path / "out", experiment(methods=["icu"], targets=1)
    out.mkdir()
    (out / ".lock").write_text("{}")
    (out / ".plan.json.x.part").write_text("{")
    assert len(go(wanted).results) == 1
    (out / "plan.json").write_text('{"format": 2,')
    (out / "report.html").write_text("a page")
    assert go(wanted).already_complete == 1
    (out / "notes.txt").write_text("mine")
    assert go(wanted).already_complete == 1
    (out / "plan.json").unlink()
    with pytest.raises(OutputError, match=r"the folder holds notes\.txt"):
        go(wanted)


def test_a_plan_of_another_type_names_the_field(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"format": 2, "runs": {"a": 1}}')
    with pytest.raises(DataError, match=r"plan\.json, field runs: Input should be a valid"):
        read_plan(tmp_path)
    (tmp_path / "plan.json").unlink()
    (tmp_path / "plan.json").mkdir()
    with pytest.raises(DataError, match=r"the plan cannot be read .*plan\.json\]: it is no plain file"):
        read_plan(tmp_path)

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from formless.errors import DataError
from formless.experiment.config import Experiment
from formless.experiment.executors.local import InProcess
from formless.experiment.grid import grid
from formless.experiment.progress import Durations, Heartbeat, RunProgress, read_progress
from formless.experiment.result import failed_result
from formless.experiment.status import holder, locked, read_status
from formless.experiment.sweep import sweep
from formless.store import RunFolder

Build = Callable[..., Experiment]


@pytest.fixture
def out(tmp_path: Path, experiment: Build, recorder: Any) -> Path:
    """A folder in which all runs are complete."""
    sweep(experiment(), tmp_path / "out", lambda hold: InProcess(), recorder)
    return tmp_path / "out"


def made(seconds: float) -> RunProgress:
    return RunProgress(phase="evaluating", since=1000.0, at=1000.0 + seconds)


def test_done(out: Path) -> None:
    status = read_status(out)
    assert [len(status.complete), status.failed, status.running, status.missing, status.others] == [8, (), (), (), 0]
    assert (status.holder, status.seconds_left) == (None, None)


def test_every_state_at_once(out: Path, experiment: Build) -> None:
    runs = grid(experiment())
    for run in runs[:4]:
        run.folder(out).result.unlink()
    failed, under_way = runs[0], runs[1]
    failed_result(failed, failed.folder(out), "crash", "gone", attempts=2, started="x", seconds=1.0).save(failed.folder(out))
    with locked(out, 2):
        beat = Heartbeat(under_way.folder(out), lambda _: None)
        beat.phase("unlearning")
        status = read_status(out)
        assert holder(out) == status.holder
        assert status.holder is not None
        assert status.holder.workers == 2
        assert [run.id for run, _ in status.running] == [under_way.id]
        assert status.running[0][1].phase == "unlearning"
        assert [result.reason for result in status.failed] == ["gone"]
        assert [run.id for run in status.missing] == [run.id for run in runs[2:4]]
        assert len(status.complete) == 4
        done = {result.id: result.timings["total"] for result in status.complete}
        assert status.seconds_left is not None
        assert 0 < status.seconds_left <= 3 * max(done.values()) / 2
    status = read_status(out)  # the same after a kill: nobody works on it
    assert [len(status.running), len(status.missing), len(status.failed)] == [0, 3, 1]
    assert (status.holder, status.seconds_left) == (None, None)


def test_a_failure_of_an_earlier_sweep_is_to_be_tried_again(out: Path, experiment: Build) -> None:
    run = grid(experiment())[0]
    old = failed_result(run, run.folder(out), "crash", "gone", attempts=1, started="x", seconds=1.0)
    old.model_copy(update={"finished": "2020-01-01T00:00:00+00:00"}).save(run.folder(out))
    assert len(read_status(out).failed) == 1
    with locked(out, 1):
        status = read_status(out)
        assert (status.failed, [run.id for run in status.missing]) == ((), [run.id])


def test_runs_of_other_settings_are_counted_apart(out: Path, experiment: Build, recorder: Any) -> None:
    sweep(experiment(methods=["icu"], suite="fb,qa", targets=1), out, lambda hold: InProcess(), recorder)
    status = read_status(out)
    assert [len(status.complete), status.others] == [1, 8]


def test_no_experiment(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no experiment was started in this folder"):
        read_status(tmp_path)


def test_time_left(experiment: Build) -> None:
    original, icu, *_, last = grid(experiment())
    durations = Durations()
    assert durations.left([icu], [], 1) is None
    durations.add(original, 10)
    assert durations.left([icu, last], [], 1) is None  # the original's time says nothing: its record may be known
    durations.add(icu, 30)
    assert durations.expected(last) == 30  # as long as those of its label
    assert durations.expected(original) == 10
    assert durations.left([original, last], [(icu, made(12))], 2) == (10 + 30 + 18) / 2
    assert durations.left([], [(icu, made(50))], 1) == 0
    assert durations.left([], [], 3) == 0


def test_a_heartbeat_says_enough_and_not_too_much(tmp_path: Path) -> None:
    told: list[RunProgress] = []
    folder = RunFolder(tmp_path)
    beat = Heartbeat(folder, told.append)
    beat.phase("loading")
    for done in range(1000):
        beat.progress("blanks", done, 1000)
    beat.phase("saving")
    assert [told[0].phase, told[-1].phase] == ["loading", "saving"]
    assert len(told) < 100
    assert (told[-1].task, told[-1].total) == ("", 0)
    time.sleep(0.25)
    beat.progress("blanks", 5, 10)
    assert (told[-1].task, told[-1].done, told[-1].total) == ("blanks", 5, 10)
    written = read_progress(folder)
    assert written is not None
    folder.progress.write_text("{")
    assert read_progress(folder) is None
    beat.stop()
    assert not list(tmp_path.iterdir())


def test_a_slow_disk_is_not_written_to_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write of a second leaves the next twenty to the run itself."""
    clock, writes = [0.0], []

    def write(path: Path, text: str) -> None:
        writes.append(clock[0])
        clock[0] += 1.0

    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("formless.experiment.progress.write_text", write)
    told: list[RunProgress] = []
    beat = Heartbeat(RunFolder(tmp_path), told.append)
    beat.phase("unlearning")
    for _ in range(100):
        clock[0] += 0.3
        beat.beat()
    assert writes == pytest.approx([0.0, 21.1], abs=0.3)
    assert len(told) == 101  # the sweep hears of it all the same

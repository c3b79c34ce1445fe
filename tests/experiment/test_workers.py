"""Supervised worker processes: real ones, which really crash, hang and are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from formless.errors import OutputError, UserError
from formless.evaluation.loading import load_record
from formless.experiment.config import Experiment
from formless.experiment.executors import local as local_module
from formless.experiment.executors import supervised as supervised_module
from formless.experiment.executors.base import Limits, Resources
from formless.experiment.executors.local import InProcess
from formless.experiment.executors.worker import Attempt, Message
from formless.experiment.grid import grid
from formless.experiment.progress import RunProgress
from formless.experiment.result import RunResult
from formless.experiment.sweep import SweepResult, sweep
from formless.store import RESULT_SCHEMA, read_document
from tests.experiment.conftest import values

Build = Callable[..., Experiment]


def mishap(kind: str) -> dict[str, Any]:
    return {"method": "mishap", "kind": kind, "label": kind}


@pytest.fixture
def go(recorder: Any, tmp_path: Path) -> Callable[..., SweepResult]:
    """Sweep with worker processes."""

    def swept(experiment: Experiment, *, workers: int = 1, name: str = "out", **limits: Any) -> SweepResult:
        resources = Resources(workers, limits=Limits(**limits))
        return sweep(experiment, tmp_path / name, resources.executor, recorder, workers=resources.at_once)

    return swept


def alive(pid: int) -> bool:
    """Whether it runs; one that is dead and not yet buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.usefixtures("mishaps")
def test_whatever_happens_to_a_worker_the_others_go_on(experiment: Build, go: Any, tmp_path: Path) -> None:
    methods = [*map(mishap, ("segfault", "killed", "exit", "hang", "spin", "refuse")), "icu", mishap("error")]
    done = go(experiment(methods=methods, targets=1), timeout=4.0, stuck=2.0, retries=0)
    found = {result.run.label: result for result in done.results}
    assert {label: result.cause for label, result in found.items()} == {
        "segfault": "crash", "killed": "crash", "exit": "crash", "hang": "stuck", "spin": "timeout", "error": "error",
        "refuse": "refused", "icu": None,
    }  # fmt: skip
    said = {label: result.reason or "" for label, result in found.items()}
    assert "SIGSEGV" in said["segfault"]
    assert "SIGKILL, perhaps for want of memory" in said["killed"]
    assert "exit code 3" in said["exit"]
    assert "no progress for 2 s" in said["hang"]
    assert "longer than 4 s" in said["spin"]
    ends = {}
    for label, result in found.items():
        folder = result.run.folder(tmp_path / "out").path
        written = RunResult.model_validate(read_document(folder / "run.json", RESULT_SCHEMA))
        assert (written.status, written.cause, written.attempts) == (result.status, result.cause, 1)
        assert {path.name for path in folder.iterdir()} <= {"run.json", "record.json", "log.txt", "edit"}
        ends[label] = "\n".join(written.log_end)
    assert "Fatal Python error: Segmentation fault" in ends["segfault"]  # with where it was
    assert "go_wrong" in ends["segfault"]
    for label in ("exit", "hang", "spin"):
        assert f"on standard output: {label}" in ends[label]


@pytest.mark.slow
@pytest.mark.usefixtures("mishaps")
def test_retries_in_a_fresh_process(
    experiment: Build, go: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Any
) -> None:
    (tmp_path / "marks").mkdir()
    monkeypatch.setenv("MISHAP_ONCE", str(tmp_path / "marks"))
    kinds = ("segfault", "error", "refuse", "last")
    done = go(experiment(methods=[*map(mishap, kinds)], targets=1), retries=1)
    assert [(result.run.label, result.status, result.attempts) for result in done.results] == [
        ("segfault", "complete", 2),
        ("error", "complete", 2),
        ("refuse", "failed", 1),  # what the user must mend fails again
        ("last", "complete", 1),  # the run was complete when its worker died
    ]
    log = done.runs[0].folder(tmp_path / "out").log.read_text()
    assert "attempt 1" in log
    assert "SIGSEGV" in log
    assert "attempt 2" in log
    assert len(recorder.results) == 4


@pytest.mark.slow
def test_workers_give_what_this_process_gives(experiment: Build, go: Any, tmp_path: Path, recorder: Any) -> None:
    rocr = {"method": "rocr", "layers": [1, 2], "basis": "none"}
    wanted = experiment(methods=["original", rocr], suite="fb,qa")
    done = go(wanted, workers=2)
    assert (done.failed, done.missing, recorder.begun) == ([], 0, (8, 0, 2))
    here = sweep(wanted, tmp_path / "here", lambda hold: InProcess(), recorder)
    for run in here.runs:
        there = load_record(run.folder(tmp_path / "out").record)
        assert values(there) == pytest.approx(values(load_record(run.folder(tmp_path / "here").record)), abs=1e-6)
    logs = "".join(run.folder(tmp_path / "out").log.read_text() for run in here.runs)
    assert logs.count("a worker process starts") == 2


@pytest.mark.slow
@pytest.mark.usefixtures("mishaps")
def test_a_full_disk_ends_the_sweep(experiment: Build, go: Any, tmp_path: Path, recorder: Any) -> None:
    site = tmp_path / "site" / "sitecustomize.py"
    site.write_text(
        "import errno, os, sys\n"
        "real = os.fsync\n"
        "def full(descriptor):\n"
        "    path = os.readlink(f'/proc/self/fd/{descriptor}')\n"
        "    if 'record.json' in path and '2_Person_2' in path:\n"
        "        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
        "    real(descriptor)\n"
        "os.fsync = full\n"
    )
    wanted = experiment(methods=["icu"])
    if not Path("/proc/self/fd").exists():
        pytest.skip("the file behind a descriptor is read from /proc")
    with pytest.raises(OutputError, match=r"no space left on device.*record\.json"):
        go(wanted, retries=3)
    again = sweep(wanted, tmp_path / "out", lambda hold: InProcess(), recorder)
    assert (again.already_complete, len(again.results), again.failed) == (1, 3, [])


@pytest.mark.slow
@pytest.mark.usefixtures("mishaps")
def test_no_worker_outlives_its_sweep(experiment: Build, tmp_path: Path, recorder: Any) -> None:
    """Closing the generator, as Ctrl-C does, kills a worker in the middle of a run."""
    pids: list[int] = []

    class Interrupting(type(recorder)):  # type: ignore[misc]
        def on_progress(self, run: Any, progress: Any) -> None:
            if progress.phase == "unlearning":
                children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
                pids.extend(int(pid) for pid in children if b"formless.experiment.executors.worker_process" in cmdline(pid))
                raise KeyboardInterrupt

    def cmdline(pid: str) -> bytes:
        return Path(f"/proc/{pid}/cmdline").read_bytes()

    if not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists():
        pytest.skip("children are read from /proc")
    wanted = experiment(methods=[mishap("hang")], targets=1)
    with pytest.raises(KeyboardInterrupt):
        sweep(wanted, tmp_path / "out", Resources(1).executor, Interrupting())
    assert len(pids) == 1
    assert not alive(pids[0])
    (folder,) = (tmp_path / "out").glob("runs/*/*/*/*")
    assert {path.name for path in folder.iterdir()} == {"log.txt"}


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UserError, match=r"no GPU 0 \[--gpu\]: PyTorch finds no GPU"):
        Resources(gpus=(0,))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match="no GPU 2.*there are 2, counted from 0"):
        Resources(gpus=(1, 2))


def test_one_worker_for_each_gpu_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-abc")
    executor: Any = Resources(gpus=(1, 0)).executor(0)
    assert (executor.workers, executor.gpus) == (2, ("GPU-abc", "5"))
    assert Resources(gpus=(1, 0)).at_once == 2


class Living:
    def poll(self) -> None: ...


@pytest.fixture
def worker() -> local_module.WorkerProcess:
    """A living worker, which has been silent since it began 100 seconds ago."""
    found: Any = object.__new__(local_module.WorkerProcess)
    found.is_closed, found._process, found._loaded, found._is_saving = False, Living(), None, False
    found._begun = found._heard = 1000.0
    return found


def test_loading_has_its_own_limit(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large model may load for longer than a run may take."""
    limits, now = Limits(timeout=50, stuck=50), 1100.0
    assert worker.trouble(limits, now) is None
    worker._loaded = now - 60
    assert worker.trouble(limits, now) == ("timeout", "it took longer than 50 s")
    worker._loaded = now - 40
    assert worker.trouble(limits, now) == ("stuck", "no progress for 50 s")
    monkeypatch.setattr(supervised_module, "_QUIET_SECONDS", 90)
    worker._loaded = None
    assert worker.trouble(limits, now) == ("timeout", "the model was not loaded within 90 s")


def test_a_slow_write_is_not_taken_for_a_stuck_worker(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limits, said = Limits(stuck=50), list[str]()
    monkeypatch.setattr(worker, "_received", lambda: said)
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    said[:] = [Message(progress=RunProgress(phase="saving", since=0, at=0)).model_dump_json()]
    list(worker.read())
    assert worker.trouble(limits, 1100.0) is None
    assert worker.trouble(limits, 4700.0) == ("stuck", "no progress for 3600 s")
    said[:] = [Message(progress=RunProgress(phase="unlearning", since=0, at=0)).model_dump_json()]
    list(worker.read())  # a later attempt of the same process
    assert worker.trouble(limits, 1100.0) == ("stuck", "no progress for 50 s")


def test_a_sweep_that_was_held_up_itself_listens_before_it_judges(
    experiment: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own write may be slow, too: whoever spoke meanwhile is not stuck."""
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    spoken = Message(progress=RunProgress(phase="unlearning", since=0, at=0)).model_dump_json()

    class Speaking(supervised_module.Worker):
        said: ClassVar[dict[int, list[str]]] = {}

        def _deliver(self, command: str) -> bool:
            self.said[self.place] = [spoken]
            return True

        def _received(self) -> list[str]:
            return [self.said[self.place].pop()]

        def _ended(self) -> None: ...

        def _stop(self) -> None: ...

    class Executor(supervised_module.Supervised[Speaking]):
        def start(self, place: int, attempt: Attempt) -> Speaking:
            worker = Speaking(place, on_gpu=False)
            worker.send(attempt)
            return worker

        def ready(self, workers: Sequence[Speaking]) -> list[Speaking]:
            return [worker for worker in workers if worker.said[worker.place]]

    pool = supervised_module._Pool(Executor(2), lambda *_: clock.__setitem__(0, clock[0] + 100))
    runs = grid(experiment(targets=1))
    pool.fill(deque(Attempt(run=run, folder=run.folder(tmp_path), number=1) for run in runs))
    for _ in pool.heard():  # each message holds the sweep up for longer than a worker may be silent
        pass
    assert clock == [200.0]
    assert list(pool.give_up(Limits(stuck=50))) == []


def test_a_worker_ends_with_its_input_before_it_has_imported_everything() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "formless.experiment.executors.worker_process"]
    worker = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=60)
    assert "formless.experiment" in worker.stderr
    assert "formless.experiment.executors.worker\n" not in worker.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("mishaps")
def test_a_worker_ends_when_its_sweep_is_killed(experiment: Build, tmp_path: Path, recorder: Any) -> None:
    parent = os.fork()
    if not parent:  # the sweep, with nothing of pytest's around it
        try:
            wanted = experiment(methods=[mishap("hang")], targets=1)
            sweep(wanted, tmp_path / "out", Resources(1, limits=Limits(stuck=None)).executor, recorder)
        finally:
            os._exit(1)
    children = Path(f"/proc/{parent}/task/{parent}/children")
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("runs/*/*/*/*/progress.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    done = sweep(experiment(methods=["icu"], targets=1), tmp_path / "out", lambda hold: InProcess(), recorder)
    assert done.failed == []  # the lock is free
    assert not any(map(alive, workers))

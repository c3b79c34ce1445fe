"""The Ray executor on real clusters of this machine, whose actors and nodes are really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import pytest

from formless.cli.main import main
from formless.errors import UserError
from formless.evaluation.loading import load_record
from formless.experiment.config import Experiment
from formless.experiment.executors import ray as executor_module
from formless.experiment.executors.base import Limits, Resources
from formless.experiment.executors.local import InProcess
from formless.experiment.grid import grid
from formless.experiment.result import RunResult
from formless.experiment.status import read_status
from formless.experiment.sweep import SweepResult, sweep
from formless.store import RESULT_SCHEMA, read_document
from formless.store.documents import read_json
from tests.experiment.conftest import Recorder, assert_same, results, values

pytestmark = pytest.mark.xdist_group("ray")
Build = Callable[..., Experiment]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A node of two CPU cores, in a working directory of its own."""
    marks = tmp_path_factory.mktemp("marks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # the loopback address
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_prestart_worker_first_driver", "0")  # no idle workers beside the actors
        patch.setenv("RAY_enable_worker_prestart", "0")
        patch.setenv("RAY_health_check_period_ms", "300")  # a killed node is noticed after five such checks, not after 15 s
        patch.setenv("MISHAP_ONCE", str(marks))
        patch.chdir(marks)
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        yield cluster
        cluster.shutdown()


@pytest.fixture
def marks(cluster: Any) -> Path:
    """The folder of what has gone wrong, empty."""
    folder = Path(os.environ["MISHAP_ONCE"])
    for path in folder.iterdir():
        path.unlink()
    return folder


@pytest.fixture
def go(cluster: Any, tmp_path: Path, marks: Path) -> Iterator[Callable[..., SweepResult]]:
    """Sweep on the cluster; afterwards, none of its actors is alive."""

    def swept(experiment: Experiment, callback: Any, cores: int = 1, **limits: Any) -> SweepResult:
        resources = Resources(limits=Limits(**limits), ray=cluster.address, cores=cores)
        return sweep(experiment, tmp_path / "out", resources.executor, callback, workers=resources.at_once)

    yield swept
    deadline = time.monotonic() + 30
    while actors():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def actors() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.cmdline()[:1] and "_Actor" in process.cmdline()[0]:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def at_it(run: Any, out: Path) -> psutil.Process:
    """The actor that executes a run: what it prints goes to the run's log."""
    log = str(run.folder(out).log)
    (found,) = (actor for actor in actors() if str(Path(f"/proc/{actor.pid}/fd/1").readlink()) == log)
    return found


def await_end(processes: list[psutil.Process]) -> None:
    """Until they are dead, buried or not."""
    deadline = time.monotonic() + 30
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def in_process(experiment: Experiment, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sweep in this process, with a cache of its own, and return the folder."""
    monkeypatch.setenv("FORMLESS_CACHE", str(out.with_name("cache of this process")))
    sweep(experiment, out, lambda hold: InProcess(), Recorder())
    return out


def await_mishap(run: Any) -> None:
    """Until it goes wrong, as it will not another time."""
    mark = Path(os.environ["MISHAP_ONCE"], f"{run.label} {run.subject}")
    deadline = time.monotonic() + 30
    while not mark.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def mishap(kind: str) -> dict[str, Any]:
    return {"method": "mishap", "kind": kind, "label": kind}


@pytest.mark.slow
@pytest.mark.usefixtures("mishaps")
def test_the_records_of_this_process_though_an_actor_is_killed(
    experiment: Build, go: Any, tmp_path: Path, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killing(type(recorder)):  # type: ignore[misc]
        def on_progress(self, run: Any, progress: Any) -> None:
            if (run.label, progress.phase) == ("hang", "unlearning"):
                await_mishap(run)
                at_it(run, tmp_path / "out").kill()

    monkeypatch.chdir(tmp_path)  # relative paths are the sweep's
    rocr = {"method": "rocr", "layers": [1, 2], "basis": "none"}
    wanted = experiment(methods=["original", "icu", rocr, mishap("hang")], suite="fb,qa", data="people", targets=1)
    callback = Killing()
    done = go(wanted, callback, retries=0)
    assert (done.missing, callback.begun) == (0, (4, 0, 2))
    (result,) = done.failed
    assert (result.run.label, result.cause, result.attempts) == ("hang", "crash", 1)
    assert result.reason == (
        "the actor was lost: The actor is dead because its worker process has died, perhaps for want of memory"
    )
    folder = result.run.folder(tmp_path / "out").path
    written = RunResult.model_validate(read_document(folder / "run.json", RESULT_SCHEMA))
    assert "on standard output: hang" in "\n".join(written.log_end)
    assert {path.name for path in folder.iterdir()} == {"run.json", "log.txt"}
    here = sweep(wanted, tmp_path / "here", lambda hold: InProcess(), recorder)
    assert [run.id for run in done.runs] == [run.id for run in here.runs]
    for run in [run for run in here.runs if run.label != "hang"]:
        folder, other = run.folder(tmp_path / "out").path, run.folder(tmp_path / "here").path
        assert {path.name for path in folder.iterdir()} == {path.name for path in other.iterdir()}
        ours, theirs = (load_record(place / "record.json") for place in (folder, other))
        assert values(ours) == pytest.approx(values(theirs), abs=1e-6)
    logs = "".join(run.folder(tmp_path / "out").log.read_text() for run in here.runs)
    assert logs.count("an actor starts") == 2


@pytest.mark.slow
@pytest.mark.usefixtures("mishaps")
def test_the_runs_of_a_lost_node_are_done_by_the_others(
    experiment: Build, go: Any, tmp_path: Path, cluster: Any, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node dies as in a power cut; a run of it and one of the other node are under way."""
    monkeypatch.setattr(executor_module, "_WAITING_SECONDS", 1.0)
    node, out = cluster.add_node(num_cpus=2), tmp_path / "out"
    (raylet,) = (started.process for started in node.all_processes["raylet"])
    held: dict[str, Any] = {}
    lost: list[psutil.Process] = []

    class Killing(Recorder):
        def on_progress(self, run: Any, progress: Any) -> None:
            if (run.label, progress.phase) == ("held", "unlearning") and len(held) < 2:
                await_mishap(run)
                held[run.id] = at_it(run, out)
                if len(held) == 2:
                    lost.extend(actor for actor in held.values() if actor.ppid() == raylet.pid)
                    raylet.kill()
                    await_end(lost)  # it sees that its raylet is gone
                    (marks / "release").touch()

    callback = Killing()
    wanted = experiment(methods=["original", "icu", mishap("held")], targets="1-3")
    done = go(wanted, callback, cores=2)
    cluster.remove_node(node, allow_graceful=False)
    assert (callback.begun, done.missing, done.failed) == ((9, 0, 2), 0, [])
    assert sorted(result.id for result in callback.results) == sorted(run.id for run in done.runs)
    assert sorted(result.attempts for result in done.results) == [1] * 8 + [2]
    (again,) = (result for result in done.results if result.attempts == 2)
    assert [held[again.id]] == lost
    assert "failed: the actor was lost" in again.run.folder(out).log.read_text()
    assert_same(out, in_process(wanted, tmp_path / "here", monkeypatch))


@pytest.mark.slow
@pytest.mark.usefixtures("mishaps")
def test_a_driver_that_is_killed_and_comes_back_does_the_rest(
    experiment: Build, tmp_path: Path, cluster: Any, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, out = experiment(methods=["original", mishap("held")]), tmp_path / "out"
    config = tmp_path / "held.yaml"
    config.write_text(wanted.as_yaml())
    command = [sys.executable, "-m", "formless", "run", str(config), "--out", str(out)]
    command += ["--executor", "ray", "--ray-address", cluster.address, "--worker-cpus", "1"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as driver:
        deadline = time.monotonic() + 120
        while len(list(marks.iterdir())) < 2:  # both actors have a run that does not end
            assert time.monotonic() < deadline
            assert driver.poll() is None
            time.sleep(0.05)
        driver.kill()
    before = {name: result.finished for name, result in results(out).items()}
    assert len(before) == 2
    (marks / "release").touch()
    subprocess.run(command, check=True, timeout=120)  # at once, as a job that is started again
    after = {name: result.finished for name, result in results(out).items()}
    assert before.items() <= after.items()
    logs = [run.folder(out).log.read_text() for run in grid(wanted)]
    assert sorted(log.count("attempt 1: ") for log in logs) == [1] * 6 + [2] * 2
    assert_same(out, in_process(wanted, tmp_path / "here", monkeypatch))


@pytest.mark.slow
@pytest.mark.usefixtures("mishaps")
def test_an_actor_that_is_killed_for_want_of_memory(experiment: Build, go: Any, tmp_path: Path, cluster: Any) -> None:
    """By Ray on a node on which any use is too much, then by SIGKILL, as the kernel does it."""
    strict = {"RAY_memory_usage_threshold": "0", "RAY_memory_monitor_refresh_ms": "100"}
    node = cluster.add_node(num_cpus=3, env_vars=strict)
    wanted = experiment(methods=[mishap("killed")], targets=1)
    (failed,) = go(wanted, Recorder(), cores=3, retries=1).failed
    cluster.remove_node(node, allow_graceful=False)
    log = failed.run.folder(tmp_path / "out").log
    assert (failed.cause, failed.attempts) == ("crash", 2)
    assert "the node running low on memory" in (failed.reason or "")
    assert log.read_text().count(f"failed: {failed.reason}") == 2
    assert log.read_text().count("exceeded threshold of 0B") == 2  # Ray's whole account
    (done,) = go(wanted, Recorder(), retries=1).results
    assert (done.status, done.attempts) == ("complete", 2)
    assert "its worker process has died, perhaps for want of memory" in log.read_text()


SLOW = """
import io, os, time
def slowly(real, seconds):
    def call(*arguments, **more):
        done = real(*arguments, **more)
        time.sleep(seconds)
        return done
    return call
os.fsync, os.replace = slowly(os.fsync, 0.8), slowly(os.replace, 0.4)
opened, late = io.open, slowly(io.open, 0.2)
def open_file(file, mode="r", *arguments, **more):
    is_shared = "/out/" in str(file) and not str(file).endswith("log.txt")
    return (late if is_shared and "r" not in mode else opened)(file, mode, *arguments, **more)
io.open = __builtins__["open"] = open_file
"""


@pytest.mark.slow
@pytest.mark.usefixtures("mishaps")
def test_a_slow_shared_folder(experiment: Build, go: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write of an actor sleeps: saving takes longer than an actor may be silent, yet only the stuck one is replaced."""
    (tmp_path / "site" / "sitecustomize.py").write_text(SLOW)
    out, running, ended = tmp_path / "out", set[str](), threading.Event()
    wrong: list[str] = []

    def look() -> None:
        while not ended.wait(0.02):
            for path in chain(out.glob("runs/*/*/*/*/*.json"), out.glob("runs/*/*/*/*/edit/*.json")):
                try:
                    read_json(path)
                except FileNotFoundError:  # removed meanwhile
                    continue
                except ValueError as error:
                    wrong.append(f"{path}: {error}")
            if (out / "plan.json").exists():
                status = read_status(out)
                wrong.extend(reason for _, reason in status.damaged)
                wrong.extend(result.reason or "" for result in status.failed)
                running.update(run.label for run, _ in status.running)

    rocr = {"method": "rocr", "layers": [1, 2], "basis": "none"}
    wanted = experiment(methods=["original", rocr, mishap("hang")], targets=1)
    with ThreadPoolExecutor(1) as reader:
        looking = reader.submit(look)
        try:
            done = go(wanted, Recorder(), stuck=3.0)
        finally:
            ended.set()
        looking.result()
    assert wrong == []
    assert {result.run.label: (result.status, result.attempts) for result in done.results} == {
        "original": ("complete", 1), "rocr": ("complete", 1), "hang": ("complete", 2),
    }  # fmt: skip
    assert running == {"original", "rocr", "hang"}
    assert next(result for result in done.results if result.run.label == "rocr").timings["saving"] > 3.0
    assert_same(out, in_process(wanted, tmp_path / "here", monkeypatch))


@pytest.mark.slow
@pytest.mark.usefixtures("mishaps")
def test_a_local_cluster_listens_to_this_machine_alone_and_ends_with_ctrl_c(
    model_folder: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "hang.yaml"
    config.write_text(f"models: [{model_folder}]\nmethods: [{{method: mishap, kind: hang}}]\ndata: {people}\nsuite: fb\n")
    command = [sys.executable, "-m", "formless", "run", str(config), "--out", str(tmp_path / "out")]
    command += ["--executor", "ray", "--worker-cpus", "1"]
    for name in ("MISHAP_ONCE", "RAY_AUTH_MODE", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if "begins" in line:
                break
        started = psutil.Process(process.pid).children(recursive=True)
        sockets = [socket for one in started for socket in connections(one) if socket.status == psutil.CONN_LISTEN]
        environment = started[0].environ()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Resume with: formless run" in errors
    assert len(sockets) > 1
    assert {socket.laddr.ip.removeprefix("::ffff:") for socket in sockets} == {"127.0.0.1"}
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert environment["RAY_AUTH_MODE"] == "token"
    assert not (tmp_path / ".ray").exists()  # where Ray would leave a token
    assert len(started) > 3
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []


def connections(process: psutil.Process) -> list[Any]:
    try:
        return process.net_connections("tcp")
    except psutil.NoSuchProcess:
        return []


@pytest.mark.parametrize(
    ("machines", "cores", "expected"),
    [
        ([{"CPU": 8.0}, {"CPU": 8.0}], None, (2, 8, False)),
        ([{"CPU": 2.0}, {"CPU": 8.0}, {"CPU": 8.0}], None, (2, 8, False)),
        ([{"CPU": 2.0}, {"CPU": 8.0}, {"CPU": 7.0}], 4, (3, 4, False)),
        ([{"CPU": 4.0}, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 16.0, "GPU": 4.0}], None, (8, 4, True)),
        ([{"CPU": 4.0}, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 16.0, "GPU": 4.0}], 8, (6, 8, True)),
        ([{"CPU": 1.0, "GPU": 2.0}], None, (1, 1, True)),
        ([{"memory": 1.0}], None, (0, 1, False)),
        ([{"CPU": 2.0}], 3, (0, 3, False)),
    ],
)
def test_room_is_by_gpu_or_by_cores(machines: Any, cores: int | None, expected: tuple[int, int, bool]) -> None:
    assert executor_module.room(machines, cores) == expected


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--executor", "ray", "--gpu", "0"), "Ray gives each actor its GPU [--gpu]"),
        (("--ray-address", "auto"), "--ray-address and --worker-cpus need Ray [--executor]"),
        (("--worker-cpus", "2"), "--ray-address and --worker-cpus need Ray [--executor]"),
    ],
)
def test_options_that_go_together(
    options: tuple[str, ...], problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["formless", "run", "sample", "--out", str(tmp_path / "out"), *options])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"^the package ray is missing \[--executor\]: pip install 'formless\[ray\]'$"):
        _ = Resources(ray="local").at_once


@pytest.mark.slow
def test_a_cluster_that_cannot_be_used_is_refused(cluster: Any) -> None:
    for address in ("nowhere", "127.0.0.1:1", "127.0.0.1:99999", "ray://127.0.0.1:1"):
        with pytest.raises(UserError, match=f"no Ray cluster at '{address}'"):
            _ = Resources(ray=address).at_once
    with pytest.raises(UserError, match="no machine of the Ray cluster has 64 CPU cores for a worker"):
        _ = Resources(ray=cluster.address, cores=64).at_once

"""The Ray executor on real clusters of this machine, whose actors and nodes are really killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
from formless.experiment.result import RunResult
from formless.experiment.sweep import SweepResult, sweep
from formless.store import RESULT_SCHEMA, read_document
from tests.experiment.conftest import values

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
def go(cluster: Any, tmp_path: Path) -> Iterator[Callable[..., SweepResult]]:
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
                log = str(run.folder(tmp_path / "out").log)
                (at_it,) = (actor for actor in actors() if str(Path(f"/proc/{actor.pid}/fd/1").readlink()) == log)
                at_it.kill()

    monkeypatch.chdir(tmp_path)  # relative paths are the sweep's
    rocr = {"method": "rocr", "layers": [1, 2], "basis": "none"}
    wanted = experiment(methods=["original", "icu", rocr, mishap("hang")], suite="fb,qa", data="people", targets=1)
    callback = Killing()
    done = go(wanted, callback, retries=0)
    assert (done.missing, callback.begun) == (0, (4, 0, 2))
    (result,) = done.failed
    assert (result.run.label, result.cause, result.attempts) == ("hang", "crash", 1)
    assert result.reason == "the actor was lost: The actor is dead because its worker process has died"
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
    experiment: Build, go: Any, tmp_path: Path, cluster: Any, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_module, "_WAITING_SECONDS", 1.0)
    node = cluster.add_node(num_cpus=2)
    hanging: set[str] = set()

    class Removing(type(recorder)):  # type: ignore[misc]
        def on_progress(self, run: Any, progress: Any) -> None:
            if progress.phase == "unlearning" and len(hanging) < 2:
                hanging.add(run.id)
                await_mishap(run)
                if len(hanging) == 2:
                    cluster.remove_node(node, allow_graceful=False)

    callback = Removing()
    done = go(experiment(methods=[mishap("hang")], targets="3-4"), callback, cores=2, stuck=12.0)
    assert callback.begun == (2, 0, 2)
    assert [(result.status, result.attempts) for result in done.results] == [("complete", 2)] * 2
    logs = "".join(run.folder(tmp_path / "out").log.read_text() for run in done.runs)
    assert "failed: the actor was lost" in logs
    assert "failed: no progress for 12 s" in logs
    assert logs.count("an actor starts") == 5  # of the lost one's places, the first is waited for in vain


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

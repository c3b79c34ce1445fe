"""SIGINT, SIGTERM and SIGKILL at any moment: finished runs are kept, workers end, and the same command resumes."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import yaml

from tests.experiment.conftest import add_loss, write_target
from tests.experiment.test_workers import alive
from tests.faults.commands import (
    GA,
    ROCR,
    TRAINING,
    assert_same,
    formless,
    lay_out,
    metrics,
    scratch,
    start,
    tensors,
)
from tests.faults.injection import ALL
from tests.faults.processes import Command

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
POLITE = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
MAPS = Path("/proc/self/maps")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not MAPS.exists(), reason="no /proc")]


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    return lay_out(tmp_path / "work", model)


def write_experiment(folder: Path, methods: list[object], targets: str) -> None:
    keys = {"models": "model", "methods": methods, "data": "people", "targets": targets, "suite": "fb"}
    (folder / "x.yaml").write_text(yaml.safe_dump(keys), "utf-8")


def finished(folder: Path) -> dict[str, str]:
    """When each run ended, by its id; each is there once."""
    found = [json.loads(path.read_text()) for path in folder.glob("out/runs/*/*/*/*/run.json")]
    assert len({result["id"] for result in found}) == len(found)
    assert {result["status"] for result in found} <= {"complete"}
    return {result["id"]: result["finished"] for result in found}


def assert_as_undisturbed(folder: Path, arguments: tuple[str, ...]) -> None:
    """Resume, and compare with a folder in which nothing happened."""
    again = formless(folder, *arguments)
    assert again.code == 0, again
    twin = folder.with_name("twin")
    shutil.copytree(folder, twin, symlinks=True, ignore=shutil.ignore_patterns("out", ".out*", "cache"))
    assert formless(twin, *arguments).code == 0
    assert_same(tensors(folder / "out") | metrics(folder / "out"), tensors(twin / "out") | metrics(twin / "out"))
    assert finished(folder).keys() == finished(twin).keys()
    assert not scratch(folder)


@pytest.mark.parametrize("loaded", ["libtorch", "tokenizers"])
def test_sigterm_while_modules_are_imported(loaded: str, folder: Path) -> None:
    """SIGINT is tested with the other things that happen at a start."""
    process = start(folder, "chat", "--model", "model", "hello")
    maps, deadline = Path(f"/proc/{process.pid}/maps"), time.monotonic() + 60
    while loaded not in maps.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 143


@POLITE
def test_a_sweep_with_workers(number: int, server: ForkServerContext, folder: Path) -> None:
    write_experiment(folder, ["icu", GA | {"num_train_epochs": 60}], "1")
    arguments = ("run", "x.yaml", "--out", "out", "--workers", "1")
    command = Command(server, folder, *arguments)
    command.wait_for(lambda: list(folder.glob("out/runs/*/ga/*/*/training/checkpoint-*/curves.json")))
    workers = [int(pid) for pid in Path(f"/proc/{command.process.pid}/task/{command.process.pid}/children").read_text().split()]
    assert workers
    before = finished(folder)
    assert len(before) == 1
    command.send(number)
    ended = command.ended(30)
    assert ended.code == CODES[number]
    said = f"stopped; every finished run is kept. Resume with: formless {' '.join(arguments)}"
    assert ended.err.splitlines()[-1] == said
    assert "Traceback" not in ended.out + ended.err
    assert not any(map(alive, workers))
    assert not list(folder.rglob("progress.json"))
    assert list(folder.glob("out/runs/*/ga/*/*/training/checkpoint-*/curves.json"))
    assert_as_undisturbed(folder, ("run", "x.yaml", "--out", "out"))
    assert before.items() <= finished(folder).items()


@POLITE
@pytest.mark.parametrize("verb", ["unlearn", "run"])
def test_a_training_run_goes_on(verb: str, number: int, server: ForkServerContext, folder: Path) -> None:
    write_experiment(folder, [GA | {"num_train_epochs": 20}], "1")
    settings = [word for pair in (*TRAINING, "num_train_epochs=20") for word in ("--set", pair)]
    arguments = {
        "unlearn": ("unlearn", "--model", "model", "-t", "1", "--method", "ga", "--data", "people", *settings, "--out", "out"),
        "run": ("run", "x.yaml", "--out", "out"),
    }[verb]
    command = Command(server, folder, *arguments)
    command.wait_for(lambda: len(list(folder.rglob("checkpoint-*/curves.json"))) > 1)
    command.send(number)
    ended = command.ended(30)
    assert ended.code == CODES[number], ended
    assert "Traceback" not in ended.out + ended.err
    checkpoints = list(folder.rglob("checkpoint-*/curves.json"))
    assert checkpoints
    for curves in checkpoints:
        add_loss(curves, 123.0)
    assert_as_undisturbed(folder, arguments)
    (info,) = (folder / "out").rglob("edit.json")
    assert "123.0" in info.read_text()


def test_signals_at_random_moments(server: ForkServerContext, folder: Path) -> None:
    for person in (3, 4):
        write_target(folder / "people", person)
    write_experiment(folder, ["original", "icu", ROCR, GA], "all")
    arguments = ("run", "x.yaml", "--out", "out")
    moments, kills, known = random.Random(0), 0, finished(folder)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL) * (12 if ALL else 4):
        command = Command(server, folder, *arguments)
        awaited = len(known) + moments.choice((0, 0, 1))  # so there is work left, however fast the machine is
        command.wait_for(command.says("runs in out"))
        command.wait_for(lambda: len(list(folder.glob("out/runs/*/*/*/*/run.json"))) >= awaited)  # noqa: B023
        time.sleep(moments.uniform(0, 0.3))
        if len(finished(folder)) >= 15:
            break
        command.send(number)
        ended = command.ended(30)
        assert ended.code == CODES[number], ended
        assert "Traceback" not in ended.out + ended.err
        kills += 1
        now = finished(folder)
        assert known.items() <= now.items()  # nothing is lost or done twice
        known = now
    print(f"{kills} signals, {len(known)} of 16 runs finished before the last")
    assert kills >= 6
    if command.process.is_alive():
        assert command.ended().code == 0
    assert_as_undisturbed(folder, arguments)
    assert len(finished(folder)) == 16
    assert known.items() <= finished(folder).items()

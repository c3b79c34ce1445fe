"""A sweep whose process is killed again and again ends with what an undisturbed one leaves."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

from formless.evaluation.record import load_record
from formless.experiment.config import build_experiment
from formless.experiment.executors.base import Limits, Resources
from formless.experiment.executors.local import InProcess
from formless.experiment.progress import RunProgress
from formless.experiment.result import RunResult, metrics
from formless.experiment.runs import Run
from formless.experiment.sweep import sweep

TRAINING = {"learning_rate": 1e-3, "epochs": 4, "batch": 1, "accumulation": 1, "warmup_steps": 0, "cutoff": 32, "rank": 2}
METHODS = ["original", "icu", {"method": "rocr", "layers": [1, 2], "basis": "none"}, {"method": "ga"} | TRAINING]


class Silent:
    def on_begin(self, runs: Sequence[Run], done: Sequence[RunResult], workers: int) -> None: ...

    def on_progress(self, run: Run, progress: RunProgress) -> None: ...

    def on_end(self, result: RunResult) -> None: ...


def work(keys: dict[str, Any], out: Path, cache: Path, workers: int = 0) -> None:
    """What the child process does, itself or by processes of its own."""
    os.environ |= {"FORMLESS_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    transformers_logging.disable_progress_bar()
    make = Resources(workers, limits=Limits()).executor if workers else lambda hold: InProcess()
    sweep(build_experiment(keys, "test"), out, make, Silent(), workers=max(workers, 1))


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Starts processes that have imported everything, in a moment."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["formless.experiment.sweep", "formless.experiment.executors.inprocess", "transformers.trainer"]
    )
    return context


def finished(out: Path) -> dict[str, RunResult]:
    found = [RunResult.model_validate_json(path.read_bytes()) for path in out.glob("runs/*/*/*/*/run.json")]
    assert len({result.id for result in found}) == len(found)
    return {result.id: result for result in found}


def complete(out: Path) -> int:
    return sum(result.status == "complete" for result in finished(out).values())


def assert_same_adapter(folder: Path, other: Path) -> None:
    ours, theirs = (load_file(place / "edit" / "adapter_model.safetensors") for place in (folder, other))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] - theirs[name]).abs().max() < 1e-6 for name in ours)
    assert any(values.abs().max() > 1e-4 for values in ours.values())


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "workers"), [(20, 0), (5, 2)], ids=["twenty", "five of a sweep with workers"])
def test_kills(
    processes: ForkServerContext, model_folder: Path, tmp_path: Path, write_people: Any, kills: int, workers: int
) -> None:
    for number in range(1, 11):
        write_people(tmp_path / "people", number)
    keys = {"models": [str(model_folder)], "methods": METHODS, "data": str(tmp_path / "people"), "suite": "fb,qa"}

    def start(name: str) -> Any:
        child = processes.Process(target=work, args=(keys, tmp_path / name, tmp_path / f"cache-{name}", workers))
        child.start()
        return child

    undisturbed = start("undisturbed")
    undisturbed.join()
    assert undisturbed.exitcode == 0
    expected = finished(tmp_path / "undisturbed")
    mean = sum(result.timings["total"] for result in expected.values()) / len(expected)

    moments = random.Random(0)
    seen = [0]
    for _ in range(kills):
        child = start("killed")
        awaited = seen[-1] + moments.choice((0, 0, 1))  # so there is work left, however fast the machine is meanwhile
        while complete(tmp_path / "killed") < awaited and child.is_alive():
            time.sleep(0.005)
        child.join(moments.uniform(0, mean + 0.3))
        child.kill()
        child.join()
        assert child.exitcode == -9, "it ended before it was killed"
        seen.append(complete(tmp_path / "killed"))
    assert seen == sorted(seen)  # nothing finished is lost
    assert 0 < seen[-1] < len(expected)
    last = start("killed")
    last.join()
    assert last.exitcode == 0

    found = finished(tmp_path / "killed")
    assert found.keys() == expected.keys()
    assert len(found) == 40
    for name, result in found.items():
        assert result.status == "complete"
        assert result.metrics == pytest.approx(expected[name].metrics, abs=1e-6)
        folder = result.run.folder(tmp_path / "killed").path
        record = load_record(folder / "record.json")
        assert metrics(record) == result.metrics
        kept = {"edit"} if result.run.method != "original" else set()
        assert {path.name for path in folder.iterdir()} == {"run.json", "record.json", "log.txt"} | kept
        if result.run.method in ("ga", "rocr"):
            assert_same_adapter(folder, expected[name].run.folder(tmp_path / "undisturbed").path)


@pytest.mark.slow
def test_a_killed_training_goes_on(processes: ForkServerContext, model_folder: Path, people: Path, tmp_path: Path) -> None:
    ga = {"method": "ga"} | TRAINING | {"epochs": 150, "learning_rate": 1e-4}
    keys = {"models": [str(model_folder)], "methods": [ga], "data": str(people), "suite": "fb", "targets": 1}
    out, twin = tmp_path / "killed", tmp_path / "twin"
    child = processes.Process(target=work, args=(keys, out, tmp_path / "cache"))
    child.start()
    deadline = time.monotonic() + 60
    while not list(out.glob("runs/*/*/*/*/training/checkpoint-1*/curves.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    child.join()
    assert child.exitcode == -9
    (checkpoint, *_) = out.glob("runs/*/*/*/*/training/checkpoint-1*")
    marked = checkpoint / "curves.json"
    marked.write_text(marked.read_text().replace('"losses": [', '"losses": [12345.0, ', 1))  # what goes on from it remembers
    for place in (out, twin):
        child = processes.Process(target=work, args=(keys, place, tmp_path / "cache"))
        child.start()
        child.join()
    (result,), (other,) = finished(out).values(), finished(twin).values()
    folder = result.run.folder(out).path
    assert "12345.0" in (folder / "edit" / "edit.json").read_text()
    assert not (folder / "training").exists()
    assert_same_adapter(folder, other.run.folder(twin).path)
    assert result.metrics == pytest.approx(other.metrics, abs=1e-6)

"""A sweep that is killed at any write, rename or removal, and resumed, leaves what an undisturbed one leaves."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import logging as transformers_logging

from formless.experiment.config import Experiment, build_experiment
from formless.experiment.executors.local import InProcess
from formless.experiment.progress import RunProgress
from formless.experiment.result import RunResult
from formless.experiment.runs import Run
from formless.experiment.sweep import sweep
from tests.experiment.conftest import add_loss, assert_same, results

Build = Callable[..., Experiment]
TRAINING = {
    "learning_rate": 1e-3,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "warmup_steps": 0,
    "max_length": 32,
    "r": 2,
}
GA, ROCR = {"method": "ga"} | TRAINING, {"method": "rocr", "layers": [1, 2], "basis": "none"}
BOUNDARIES = ("replace", "fsync", "unlink", "rmdir")


class Silent:
    """A callback that does nothing."""

    def on_begin(self, runs: Sequence[Run], done: Sequence[RunResult], workers: int) -> None: ...

    def on_damage(self, run: Run, reason: str) -> None: ...

    def on_progress(self, run: Run, progress: RunProgress) -> None: ...

    def on_end(self, result: RunResult) -> None: ...


class Killed(BaseException):
    """Passes every `except Exception`, as a kill does."""


@contextmanager
def killed_at(number: int) -> Iterator[None]:
    """Raise at the `number`-th change of the file system and at every later one: a dead process cleans nothing up."""
    left = number
    with pytest.MonkeyPatch.context() as patch:

        def wrapped(real: Callable[..., None]) -> Callable[..., None]:
            def call(*arguments: Any, **more: Any) -> None:
                nonlocal left
                left -= 1
                if left <= 0:
                    raise Killed
                real(*arguments, **more)

            return call

        for name in BOUNDARIES:
            patch.setattr(os, name, wrapped(getattr(os, name)))
        yield


def work(experiment: Experiment, out: Path) -> None:
    """Execute what is missing, with a cache of its own."""
    os.environ["FORMLESS_CACHE"] = str(out.with_name(f"cache of {out.name}"))
    sweep(experiment, out, lambda hold: InProcess(), Silent())


@pytest.mark.slow
def test_killed_once_at_every_boundary(experiment: Build, tmp_path: Path) -> None:
    wanted = experiment(methods=["original", "icu"], targets=1)
    work(wanted, tmp_path / "undisturbed")
    for number in count(1):
        out = tmp_path / str(number)
        try:
            with killed_at(number):
                work(wanted, out)
        except Killed:
            before = {name: result.finished for name, result in results(out).items()}
            work(wanted, out)
            assert_same(out, tmp_path / "undisturbed")
            assert before.items() <= {name: result.finished for name, result in results(out).items()}.items()
            shutil.rmtree(out)
        else:
            break
    assert number > 30  # a plan, two runs, an edit and a cached record


@pytest.mark.slow
@pytest.mark.parametrize("method", [ROCR, GA], ids=["rocr", "a training run"])
def test_killed_at_one_boundary_after_the_other(experiment: Build, tmp_path: Path, method: dict[str, Any]) -> None:
    """Every attempt gets one step further than the one before and finds what all those left."""
    wanted = experiment(methods=[method], targets=1)
    work(wanted, tmp_path / "undisturbed")
    for number in count(1):
        try:
            with killed_at(number):
                work(wanted, tmp_path / "killed")
        except Killed:
            assert all(result.status == "complete" for result in results(tmp_path / "killed").values())
        else:
            break
    assert_same(tmp_path / "killed", tmp_path / "undisturbed")
    assert number > 20


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Starts processes that have imported everything, in a moment."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["formless.experiment.sweep", "formless.experiment.executors.local", "transformers.trainer"])
    return context


def child(keys: dict[str, Any], out: Path, last_words: str) -> None:
    """What a process does that kills itself when a file of some name is about to appear."""
    transformers_logging.disable_progress_bar()
    replace = os.replace

    def replaced(source: Any, target: Any) -> None:
        if Path(target).name == last_words:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = replaced  # type: ignore[assignment]
    work(build_experiment(keys, "test"), out)


@pytest.mark.slow
def test_really_killed_at_chosen_and_at_random_moments(
    processes: ForkServerContext, model_folder: Path, people: Path, tmp_path: Path
) -> None:
    methods = ["original", "icu", ROCR, GA]
    keys = {"models": [str(model_folder)], "methods": methods, "data": str(people), "suite": "fb,qa"}
    work(build_experiment(keys, "test"), tmp_path / "undisturbed")
    expected = results(tmp_path / "undisturbed")
    mean = sum(result.timings["total"] for result in expected.values()) / len(expected)
    out, moments, seen = tmp_path / "killed", random.Random(0), [0]

    def start(last_words: str = "") -> Any:
        process = processes.Process(target=child, args=(keys, out, last_words))
        process.start()
        return process

    for last_words in ("record.json", "run.json", "curves.json"):
        process = start(last_words)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        seen.append(len(results(out)))
    for _ in range(3):
        process = start()
        awaited = seen[-1] + moments.choice((0, 1))  # so there is work left, however fast the machine is
        while len(results(out)) < awaited and process.is_alive():
            time.sleep(0.005)
        process.join(moments.uniform(0, mean))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it ended before it was killed"
        seen.append(len(results(out)))
    assert seen == sorted(seen)  # nothing finished is lost
    assert 3 <= seen[-1] < len(expected)
    process = start()
    process.join()
    assert process.exitcode == 0
    assert len(results(out)) == 16
    assert_same(out, tmp_path / "undisturbed")


def test_a_killed_training_run_goes_on_from_its_checkpoint(
    experiment: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = experiment(methods=[GA], targets=1)
    out, twin = tmp_path / "killed", tmp_path / "twin"
    replace = os.replace

    def killed(source: Any, target: Any) -> None:
        if Path(target).name == "edit":
            raise Killed
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(Killed):
        work(wanted, out)
    monkeypatch.setattr(os, "replace", replace)
    (curves,) = out.glob("runs/*/*/*/*/training/checkpoint-*/curves.json")
    add_loss(curves, 12345.0)
    work(wanted, out)
    work(wanted, twin)
    (result,) = results(out).values()
    assert "12345.0" in (result.run.folder(out).edit / "edit.json").read_text()
    assert_same(out, twin)

"""The free answers of several runs are written together, and everything else stays as it is for each run alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from formless.errors import EditError
from formless.evaluation.loading import load_record
from formless.experiment import prepare as module
from formless.experiment.config import Experiment
from formless.experiment.executors.base import RunCallback
from formless.experiment.executors.local import InProcess
from formless.experiment.prepare import shared_batches
from formless.experiment.result import RunResult
from formless.experiment.run import Session, execute_run
from formless.experiment.runs import Run, read_plan
from formless.experiment.sweep import SweepResult, sweep
from formless.methods.rocr.method import Rocr
from formless.models.edited_rows import continue_together
from tests.experiment.conftest import counted

Build = Callable[..., Experiment]
ROCR = {"method": "rocr", "layers": [1, 2], "basis": "none", "l2": 0.0, "redirect": "Bob"}


class OneByOne:
    """An executor that prepares nothing."""

    def execute(self, runs: Any, out: Path, callback: RunCallback) -> Any:
        session = Session()
        for run in runs:
            yield execute_run(run, run.folder(out), session, lambda _: None)


@pytest.fixture
def go(recorder: Any, tmp_path: Path) -> Callable[..., SweepResult]:
    def swept(experiment: Experiment, out: str = "out", executor: Any = InProcess) -> SweepResult:
        return sweep(experiment, tmp_path / out, lambda hold: executor(), recorder)

    return swept


def log_of(result: RunResult, out: Path) -> str:
    return result.run.folder(out).log.read_text("utf-8")


def test_records_are_those_of_runs_one_by_one(
    experiment: Build, go: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = experiment(methods=["original", ROCR, "icu"], suite="fb,qa", targets="1-3")
    together = go(wanted)
    assert [len(together.results), together.failed] == [9, []]
    monkeypatch.setenv("FORMLESS_CACHE", str(tmp_path / "another cache"))
    alone = go(wanted, "alone", OneByOne)
    for result, other in zip(together.results, alone.results, strict=True):
        assert result.id == other.id
        one = load_record(result.run.folder(tmp_path / "out").record)
        two = load_record(other.run.folder(tmp_path / "alone").record)
        assert one.answers == two.answers
        assert len(one.answers) == 1
        assert one.tasks == two.tasks
        assert "the free answers of 9 runs were written together" in log_of(result, tmp_path / "out")
        assert "together" not in log_of(other, tmp_path / "alone")
        assert result.timings["total"] >= result.timings["evaluating"] + result.timings.get("unlearning", 0)
    edits = [result.run.folder(tmp_path / "out").edit.is_dir() for result in together.results if result.run.method == "rocr"]
    assert edits == [True] * 3


def test_each_edit_is_computed_once_and_a_known_original_is_not_asked(
    experiment: Build, go: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(experiment(methods=["original"], targets="1-2"), "first")
    edits = counted(monkeypatch, "formless.methods.rocr.method.Rocr.unlearn", Rocr.unlearn)
    written = counted(monkeypatch, "formless.experiment.prepare.continue_together", continue_together)
    assert go(experiment(methods=["original", ROCR], targets="1-3")).failed == []
    assert len(edits) == 3
    [(_, groups)] = written
    assert [bool(group.updates) for group in groups] == [True, True, False, True]


def test_an_edit_that_fails_is_the_failure_of_its_own_run(experiment: Build, go: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    unlearn = Rocr.unlearn

    def fail(self: Rocr, lm: Any, target: Any) -> Any:
        if target.subject == "Person 2":
            raise EditError("it cannot be done", where="here", remedy="do something else")
        return unlearn(self, lm, target)

    monkeypatch.setattr(Rocr, "unlearn", fail)
    done = go(experiment(methods=[ROCR], targets="1-3"))
    assert [(result.run.target, result.cause) for result in done.failed] == [("2_Person_2", "refused")]
    assert len(done.results) == 3


def test_runs_go_on_one_by_one_where_writing_together_fails(
    experiment: Build, go: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(module, "continue_together", fail)
    done = go(experiment(methods=[ROCR], targets="1-2"))
    assert done.failed == []
    assert "cannot be written together: RuntimeError: no room" in log_of(done.results[0], tmp_path / "out")


def test_methods_that_train_are_left_to_their_runs(experiment: Build, go: Any, tmp_path: Path) -> None:
    training = {"method": "ga", "num_train_epochs": 1, "warmup_steps": 0}
    done = go(experiment(methods=[training, "icu"], targets="1-2"))
    assert done.failed == []
    lines = {result.run.method: "2 runs were written together" in log_of(result, tmp_path / "out") for result in done.results}
    assert lines == {"ga": False, "icu": True}


def test_batches_hold_one_model_and_a_limited_number_of_runs(
    experiment: Build, go: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(experiment(methods=["icu", "original"], targets="1-2"))
    one = read_plan(tmp_path / "out")
    other = [run.model_copy(update={"model": run.model.model_copy(update={"name": "other"})}) for run in one]
    monkeypatch.setattr(module, "TOGETHER", 3)
    runs: list[Run] = [*one, *other]
    assert [len(batch) for batch in shared_batches(runs)] == [3, 1, 3, 1]
    assert [run for batch in shared_batches(runs) for run in batch] == runs

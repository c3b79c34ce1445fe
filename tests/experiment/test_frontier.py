"""Edits of a folder of runs at several strengths, on the tiny model: what is written, and that nothing is measured twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import formless
from formless.data.ort import find_target
from formless.errors import ModelError, OutputError
from formless.evaluation.evaluate import evaluate
from formless.evaluation.loading import load_record
from formless.experiment.config import Experiment
from formless.experiment.executors.local import InProcess
from formless.experiment.frontier import check_strengths, measure_strengths, scalable_runs, strength_record
from formless.experiment.result import check_result
from formless.experiment.runs import Run, read_plan
from formless.experiment.status import locked
from formless.experiment.sweep import sweep
from tests.experiment.conftest import counted, values

Build = Callable[..., Experiment]
ROCR = {"method": "rocr", "layers": [1, 2], "basis": "none", "l2": 0.0, "redirect": "Bob"}
EVALUATE = "formless.experiment.frontier.evaluate"


@pytest.fixture
def out(experiment: Build, recorder: Any, tmp_path: Path) -> Path:
    """Two targets, each with the original model, ROCR and ICU."""
    done = sweep(
        experiment(methods=["original", ROCR, "icu"], targets="1-2"), tmp_path / "out", lambda _: InProcess(), recorder
    )
    assert not done.failed
    return tmp_path / "out"


def rocr_run(out: Path, target: str = "1_Person_1") -> Run:
    return next(run for run in read_plan(out) if (run.method, run.target) == ("rocr", target))


def test_each_strength_is_measured_once(out: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path, people: Path) -> None:
    calls = counted(monkeypatch, EVALUATE, evaluate)
    steps: list[tuple[str, int, int]] = []
    done = measure_strengths(out, (0.5, 1.0, 2.0), progress=lambda *step: steps.append(step))
    assert (done.already, done.now, done.failed, len(calls)) == (2, 4, [], 4)  # the run itself has strength 1
    assert steps[0][0].endswith(" 1_Person_1, strength 0.5")
    assert steps[-1][1:] == (4000, 4000)
    assert [one for _, one, _ in steps] == sorted(one for _, one, _ in steps)
    again = measure_strengths(out, (0.5, 1.0, 2.0, 0.25))
    assert (again.already, again.now, len(calls)) == (6, 2, 6)

    run = rocr_run(out)
    folder, lm = run.folder(out), formless.load(str(model_folder), device="cpu")
    assert sorted(path.name for path in folder.strengths.iterdir()) == ["0.25.json", "0.5.json", "2.0.json"]
    with formless.load_edit(folder.edit).scaled(2.0).applied(lm):
        by_hand = evaluate(lm, find_target(people, "1"), "fb")
    record = load_record(folder.strength(2.0))
    assert values(record) == pytest.approx(values(by_hand), abs=1e-9)
    assert values(record) != pytest.approx(values(load_record(folder.record)), rel=1e-6)
    assert record.edits[0]["strength"] == 2.0
    assert check_result(folder, run) is not None  # the run is complete as before


def test_what_is_damaged_or_of_another_edit_is_measured_again(out: Path) -> None:
    measure_strengths(out, (0.5, 2.0))
    folder = rocr_run(out).folder(out)
    whole = load_record(folder.record)
    text = folder.strength(2.0).read_text("utf-8")
    folder.strength(2.0).write_text(text[: len(text) // 2])
    folder.strength(0.5).write_text(text)  # a copy of another strength
    assert strength_record(folder, whole, 2.0) is strength_record(folder, whole, 0.5) is None
    assert measure_strengths(out, (0.5, 2.0)).now == 2
    other = load_record(folder.strength(0.5))
    other.edits[0]["created"] = "2020-01-01T00:00:00+00:00"
    other.save(folder.strength(0.5))
    assert strength_record(folder, whole, 0.5) is None
    assert measure_strengths(out, (0.5, 2.0)).now == 1
    assert strength_record(folder, whole, 1.0) is whole


def test_a_run_that_is_done_again_has_no_old_strengths(out: Path, experiment: Build, recorder: Any) -> None:
    measure_strengths(out, (0.5,))
    folder = rocr_run(out).folder(out)
    folder.record.unlink()
    sweep(experiment(methods=["original", ROCR, "icu"], targets="1-2"), out, lambda _: InProcess(), recorder)
    assert folder.record.is_file()
    assert not folder.strengths.exists()


def test_a_failure_is_noted_and_the_others_follow(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(lm: Any, *arguments: Any, **more: Any) -> Any:
        if lm.edits[0].get("strength") == 2.0:
            raise ModelError("the model gives NaN", where="a test")
        return evaluate(lm, *arguments, **more)

    monkeypatch.setattr(EVALUATE, broken)
    done = measure_strengths(out, (0.5, 2.0))
    assert done.now == 2
    assert [(title.rpartition(" ")[2], reason) for title, reason in done.failed] == [("2", "the model gives NaN [a test]")] * 2
    monkeypatch.setattr(EVALUATE, evaluate)
    assert measure_strengths(out, (0.5, 2.0)).now == 2


def test_changed_files_of_a_target_are_refused(out: Path, people: Path) -> None:
    path = people / "1_Person_1" / "forget_level1.json"
    path.write_text(path.read_text("utf-8").replace("Bonn", "Rome"))
    done = measure_strengths(out, (0.5,))
    assert done.now == 1
    assert "the target's files have changed since the run" in done.failed[0][1]


def test_a_disk_that_cannot_be_written_ends_it(out: Path) -> None:
    rocr_run(out).folder(out).strengths.write_text("a file is in the way")
    with pytest.raises(OutputError):
        measure_strengths(out, (0.5,))


def test_a_sweep_at_work_is_not_disturbed(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("formless.experiment.status._LOCK_SECONDS", 0.1)
    with locked(out, 1), pytest.raises(OutputError, match="another sweep works on this folder"):
        measure_strengths(out, (0.5,))


def test_only_kept_edits_of_weights_have_a_strength(out: Path, experiment: Build, recorder: Any, tmp_path: Path) -> None:
    found, left_out = scalable_runs(out)
    assert {one.run.label for one in found} == {"rocr"}
    assert set(left_out.values()) == {"without an edit of weights, which alone has a strength"}
    without = tmp_path / "without"
    sweep(experiment(methods=["original", ROCR], save_edits=False, targets="1"), without, lambda _: InProcess(), recorder)
    assert list(scalable_runs(without)[1].values()) == ["whose edit was not kept (save_edits)"]
    rocr_run(out).folder(out).result.unlink()
    assert "failed, missing or damaged" in scalable_runs(out)[1].values()


def test_strengths_are_in_order_and_each_once() -> None:
    assert check_strengths([2, 0.5, 2.0, 4]) == (0.5, 2.0, 4.0)

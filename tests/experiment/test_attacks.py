"""Attacks on the weights: quantization by hand, the texts of relearning, and what is written, on the tiny model."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

import formless
from formless.cli.main import main
from formless.data.ort import find_target
from formless.data.target import Target
from formless.edits.edit import Edit
from formless.errors import ModelError, OutputError, UnknownNameError, UserError
from formless.evaluation.evaluate import run_plan
from formless.evaluation.loading import load_record
from formless.evaluation.record import ItemResult, Record, TaskResult
from formless.experiment.attacks.attack import EXCLUDED, AttackSettings, Case, UnfitError
from formless.experiment.attacks.measure import attack_record, attackable_runs, measure_attacks
from formless.experiment.attacks.quantization import (
    half_step_counts,
    linear_weights,
    quantization_steps,
    quantized,
    round_trip,
)
from formless.experiment.attacks.registry import ATTACKS, choose_attacks
from formless.experiment.attacks.relearning import PROTOCOLS, curve_steps
from formless.experiment.attacks.texts import Text, fact_texts, related_texts
from formless.experiment.config import Experiment
from formless.experiment.executors.local import InProcess
from formless.experiment.frontier import measure_strengths, strength_record
from formless.experiment.result import check_result
from formless.experiment.run import Session
from formless.experiment.status import locked
from formless.experiment.sweep import sweep
from formless.models.lm import LM
from tests.experiment.conftest import counted, write_target

Build = Callable[..., Experiment]
RUN_PLAN = "formless.experiment.attacks.measure.run_plan"
SETTINGS = AttackSettings(protocol="custom", learning_rate=1e-3, num_train_epochs=2, per_device_train_batch_size=2)
CITIES = ("Bonn", "Oslo", "Rome", "Bern", "Riga", "Kiel")


# --- Quantization


def test_q8_0_by_hand() -> None:
    # One block of 32: the largest is 127 steps of 0.5, so that a step is 0.5 exactly.
    row = torch.zeros(1, 32)
    row[0, :6] = torch.tensor([63.5, 0.2, 0.3, -0.24, -0.26, 10.1])
    expected = torch.zeros(1, 32)
    expected[0, :6] = torch.tensor([63.5, 0.0, 0.5, 0.0, -0.5, 10.0])
    assert torch.equal(round_trip(row, "Q8_0"), expected)
    assert torch.equal(quantization_steps(row, "Q8_0"), torch.full((1, 32), 0.5))


def test_q4_0_by_hand() -> None:
    # The scale is the value of largest magnitude over -8, here 8 / -8: the values are -8 to 7 steps of -1.
    row = torch.zeros(1, 64)
    row[0, :5] = torch.tensor([8.0, 0.4, 0.6, -7.2, 3.3])
    row[0, 32] = -16.0  # another block, with a step of 2
    row[0, 33] = 2.9
    expected = torch.zeros(1, 64)
    expected[0, :5] = torch.tensor([8.0, 0.0, 1.0, -7.0, 3.0])
    expected[0, 32], expected[0, 33] = -16.0, 2.0
    assert torch.equal(round_trip(row, "Q4_0"), expected)
    assert quantization_steps(row, "Q4_0").tolist() == [[1.0] * 32 + [2.0] * 32]


def test_a_quantized_matrix_is_quantized_to_itself() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 64, dtype=torch.bfloat16)
    for scheme, error in (("Q8_0", 0.02), ("Q4_0", 0.4)):
        once = round_trip(weight, scheme)
        assert once.dtype == torch.bfloat16
        assert 0 < float((once - weight).abs().max()) < error


def test_the_half_step_share_by_hand() -> None:
    original = torch.zeros(2, 32)
    original[:, 0] = torch.tensor([8.0, 16.0])  # steps of 1 and 2 in Q4_0
    edited = original.clone()
    edited[0, 1:5] = torch.tensor([0.49, -0.3, 0.5, 0.9])  # two of four below 0.5
    edited[1, 1:3] = torch.tensor([0.9, -1.2])  # one of two below 1
    assert half_step_counts(original, edited, "Q4_0") == (3, 6)
    assert half_step_counts(original, original, "Q4_0") == (0, 0)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_quantization_leaves_no_trace(tiny: Callable[..., LM], family: str) -> None:
    more: dict[str, Any] = {"intermediate_size": 64} if family == "llama" else {"n_inner": 64}
    lm = tiny(family, **more)
    before = {name: (parameter.data, parameter.data.clone()) for name, parameter in lm.model.named_parameters()}
    with quantized(lm, "Q4_0") as skipped:
        changed = {name for name, parameter in lm.model.named_parameters() if not torch.equal(parameter, before[name][1])}
        inside = {name: parameter.detach().clone() for name, parameter in lm.model.named_parameters()}
    assert skipped == 0
    assert changed == set(linear_weights(lm))
    for name, parameter in lm.model.named_parameters():
        assert parameter.data is before[name][0] or parameter.data.data_ptr() == before[name][0].data_ptr()
        assert torch.equal(parameter, before[name][1])
    name, transposed = next(iter(linear_weights(lm).items()))
    weight = before[name][1].T if transposed else before[name][1]
    expected = round_trip(weight, "Q4_0")
    assert torch.equal(inside[name].T if transposed else inside[name], expected)  # blocks run along the input dimension


def test_rows_that_are_no_whole_blocks_are_left(tiny: Callable[..., LM]) -> None:
    lm = tiny()  # its down-projections have 48 columns
    with quantized(lm, "Q8_0") as skipped:
        assert skipped == 4
    with (
        pytest.raises(ModelError, match="no projection has rows of whole blocks of 32 weights"),
        quantized(tiny(hidden_size=40, num_attention_heads=4), "Q8_0"),
    ):
        pass


# --- Texts of relearning


def write_facts(folder: Path, number: int) -> Path:
    """A target with six facts as cloze and question, one of which stands in the cloze of another."""
    place = write_target(folder, number)
    subject = f"Person {number}"
    item = {"subject": subject, "level": "1", "type": "cloze"}
    cloze = [{"query": f"{subject} saw ___.", "answer": city, **item} for city in CITIES]
    cloze[0]["query"] = f"{subject} went from Oslo to ___."
    question = [{"query": f"Which city is {subject}'s number {i}?", "answer": city, **item} for i, city in enumerate(CITIES)]
    reverse = [{"query": "Who saw Bonn?", "answer": subject}]
    neighbors = [
        {"query": f"{name} saw ___.", "answer": city, "neighbor": name, **item}
        for name, city in (("Ann", "Paris"), ("Bob", "Rome"), (f"Friend of {subject}", "Prag"))
    ]
    files = {"forget_level1": cloze, "forget_level2": question, "forget_reverse": reverse, "neighbor_level1": neighbors}
    for name, rows in files.items():
        (place / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    return place


def knowing(record: Record, facts: tuple[str, ...], task: str = "fb") -> Record:
    """The record of a model that knows some facts."""
    items = [ItemResult(query=fact, fact=fact, metrics={"known": 1.0, "probability": 0.5}) for fact in facts]
    return record.model_copy(update={"tasks": [TaskResult(task=task, split="forget", status="complete", items=items)]})


@pytest.fixture
def target(tmp_path: Path) -> Target:
    write_facts(tmp_path / "facts", 1)
    return find_target(str(tmp_path / "facts"), "1")


@pytest.fixture
def record(tiny: Callable[..., LM], target: Target) -> Record:
    return formless.evaluate(tiny(context=1024), target, "fb", progress=False)


FACTS = tuple(city.casefold() for city in CITIES)


def test_chosen_facts_and_whatever_their_texts_hold_are_excluded(target: Target, record: Record) -> None:
    original = knowing(record, (*FACTS, "who saw bonn?"))
    one, four = fact_texts(target, original, 1, 0), fact_texts(target, original, 4, 0)
    assert set(one.trained) < set(four.trained)  # a smaller choice is part of a larger one
    assert len(one.texts) == 2
    for found in (one, four):
        said = " ".join(text.whole for text in found.texts)
        held = {fact for city, fact in zip(CITIES, FACTS, strict=True) if city in said}
        assert set(found.excluded) == held | {"who saw bonn?"}  # the concept's name stands in every text
        assert set(found.trained) <= held
    order = next(seed for seed in range(50) if fact_texts(target, original, 1, seed).trained == ("bonn",))
    assert fact_texts(target, original, 1, order).excluded == ("bonn", "oslo", "who saw bonn?")
    assert fact_texts(target, original, 1, order).texts == (
        Text("", "Person 1 went from Oslo to Bonn."), Text("Which city is Person 1's number 0?", "Bonn"),
    )  # fmt: skip


def test_what_is_not_known_is_not_trained_and_some_fact_is_left(target: Target, record: Record) -> None:
    known = knowing(record, FACTS[2:])
    assert set(fact_texts(target, known, 3, 0).trained) < set(FACTS[2:])
    with pytest.raises(UnfitError, match="4 known facts are too few to train on 4 and measure others"):
        fact_texts(target, known, 4, 0)
    with pytest.raises(UnfitError, match="0 known facts are too few"):
        fact_texts(target, knowing(record, ()), 1, 0)


def test_related_text_holds_no_fact_and_no_name(target: Target) -> None:
    assert related_texts(target, 0).texts == (Text("", "Ann saw Paris."),)
    assert related_texts(target, 0).excluded == ()
    path = target.path("neighbor_level1")
    path.write_text(json.dumps(json.loads(path.read_text("utf-8"))[1:]), "utf-8")
    with pytest.raises(UnfitError, match="no text about neighbors is without its facts"):
        related_texts(find_target(str(path.parent.parent), "1"), 0)


def test_the_points_of_a_curve_are_evenly_spaced_and_end_with_the_last_step() -> None:
    two = PROTOCOLS["two_epochs"]
    assert curve_steps(4, two) == {4: 1, 8: 2}
    assert curve_steps(40, PROTOCOLS["one_epoch"]) == {1: 1, 2: 2}
    assert curve_steps(3, PROTOCOLS["one_epoch"]) == {1: 2}  # one step: the last point
    assert list(curve_steps(5, two.model_copy(update={"points": 4}))) == [3, 5, 8, 10]


def test_attacks_are_chosen_by_name_and_family() -> None:
    assert [attack.name for attack in choose_attacks(["quantization", "relearn_4"])] == ["relearn_4", "q8_0", "q4_0"]
    with pytest.raises(UnknownNameError, match="unknown attack 'q4'"):
        choose_attacks(["q4"])
    with pytest.raises(UserError, match="no attack is given"):
        choose_attacks([])


# --- A folder of runs


@pytest.fixture
def out(experiment: Build, recorder: Any, tmp_path: Path, tiny: Callable[..., LM], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two targets of six facts, each with the original model, ROCR and ICU; the model is taken to know every fact."""
    model, data = tmp_path / "model", tmp_path / "facts"
    lm = tiny(context=1024, intermediate_size=64)
    lm.model.save_pretrained(model)
    lm.tokenizer.save_pretrained(model)
    for number in (1, 2):
        write_facts(data, number)
    rocr = {"method": "rocr", "layers": [1, 2], "basis": "none", "l2": 0.0, "redirect": "Ann"}
    keys = {"models": [str(model)], "methods": ["original", rocr, "icu"], "data": str(data), "suite": "fb,gen_fb"}
    done = sweep(experiment(**keys), tmp_path / "out", lambda _: InProcess(), recorder)
    assert not done.failed
    monkeypatch.setattr("formless.experiment.attacks.texts.known_facts", lambda *_: set(FACTS))
    return tmp_path / "out"


def rocr_case(out: Path) -> Case:
    return next(one for one in attackable_runs(out)[0] if one.run.method == "rocr").load()


CHOSEN = ("relearn_1", "relearn_4", "relearn_16", "relearn_related", "q4_0")


def test_each_state_is_measured_once(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch, RUN_PLAN, run_plan)
    steps: list[tuple[str, int, int]] = []
    attacks = choose_attacks(CHOSEN)
    done = measure_attacks(out, attacks, SETTINGS, progress=lambda *step: steps.append(step))
    # Per target: two points of each of 1, 4 and related, none of 16, and q4_0 of the edit and of the original model.
    assert (done.already, done.now, done.failed, len(calls)) == (0, 16, [], 16)
    assert [one for _, one, _ in steps] == sorted(one for _, one, _ in steps)
    assert steps[-1][1:] == (10_000, 10_000)
    case = rocr_case(out)
    assert check_result(case.folder, case.run) is not None  # the run is complete as before
    names = {path.name for path in case.folder.attacks.iterdir()}
    assert names == {
        "q4_0.json",
        *(
            f"{name}.lr_0.001.epochs_2.batch_2.step_{step}.json"
            for name, own in (("relearn_1", (1, 2)), ("relearn_4", (4, 8)), ("relearn_related", (1, 2)))
            for step in own
        ),
    }
    again = measure_attacks(out, attacks, SETTINGS)
    assert (again.already, again.now, len(calls)) == (16, 0, 16)
    assert measure_attacks(out, choose_attacks(["q8_0", "q4_0"]), SETTINGS).now == 4
    other = SETTINGS.model_copy(update={"learning_rate": 2e-3})
    assert measure_attacks(out, choose_attacks(["relearn_1"]), other, methods=["rocr"]).now == 4


def test_a_record_says_that_it_is_of_an_attacked_model(out: Path) -> None:
    measure_attacks(out, choose_attacks(["relearn_4", "q4_0"]), SETTINGS)
    case = rocr_case(out)
    for name in ("relearn_4", "q4_0"):
        attack = ATTACKS[name]
        point = attack.points(case, SETTINGS)[-1]
        found = attack_record(case, attack, point)
        assert found is not None
        assert found.edits[0] == case.whole.edits[0]
        assert found.edits[1]["attack"] == name
        assert found.edits[1]["method"] == attack.family
        assert tuple(found.edits[1]["facts"][EXCLUDED]) == point.excluded
        probabilities = [item.metrics["probability"] for item in found.tasks[0].items]
        assert probabilities != [item.metrics["probability"] for item in case.whole.tasks[0].items]
        for strength in (0.5, 2.0):  # it never passes for the record of a strength
            found.save(case.folder.strength(strength))
            assert strength_record(case.folder, case.whole, strength) is None
    facts = load_record(case.folder.attack("q4_0")).edits[1]["facts"]
    assert 0 < facts["half_step_share"] <= 1
    assert facts["changed_entries"] == 2 * 32 * 64
    assert "attack" not in case.whole.edits[0]
    assert measure_strengths(out, (1.0,), methods=["rocr"]).already == 2


def test_relearning_trains_on_the_chosen_facts_alone_and_restores_the_weights(out: Path) -> None:
    case, attack, lm = rocr_case(out), ATTACKS["relearn_4"], Session().model(rocr_case(out).run)
    edit: Edit = formless.load_edit(case.folder.edit)
    before = {name: parameter.detach().clone() for name, parameter in lm.model.named_parameters()}
    points = attack.points(case, SETTINGS)
    trained = fact_texts(case.target, case.original, 4, 0).trained
    left = set(FACTS) - set(points[0].excluded)
    assert set(trained) <= set(points[0].excluded)
    assert left
    for settings in (SETTINGS, SETTINGS.model_copy(update={"lora": True, "learning_rate": 0.1})):
        own = attack.points(case, settings)
        with closing(attack.states(lm, case, edit, own, settings, lambda *_: None)) as states:
            seen = [{name: parameter.detach().clone() for name, parameter in lm.model.named_parameters()} for _ in states]
        with edit.applied(lm):
            plain = {name: parameter.detach().clone() for name, parameter in lm.model.named_parameters()}
        assert len(seen) == 2
        for one, other in ((seen[0], plain), (seen[1], plain), (seen[0], seen[1])):
            assert any(not torch.equal(one[name], other[name]) for name in one)
        assert all(torch.equal(parameter, before[name]) for name, parameter in lm.model.named_parameters())
        assert lm.edits == []
        assert lm.overlay.is_empty
    with closing(attack.states(lm, case, edit, points, SETTINGS, lambda *_: None)) as states:
        next(states)  # and left in the middle
        assert [entry.get("attack") for entry in lm.edits] == [None, "relearn_4"]
    assert all(torch.equal(parameter, before[name]) for name, parameter in lm.model.named_parameters())
    assert lm.edits == []


def test_what_is_damaged_or_of_something_else_is_measured_again(out: Path) -> None:
    attacks = choose_attacks(["relearn_1", "q4_0"])
    measure_attacks(out, attacks, SETTINGS, methods=["rocr"])
    case = rocr_case(out)
    first, last = (case.folder.attack(point.name) for point in ATTACKS["relearn_1"].points(case, SETTINGS))
    text = first.read_text("utf-8")
    first.write_text(text[: len(text) // 2], "utf-8")
    assert measure_attacks(out, attacks, SETTINGS).now == 1
    last.write_text(text, "utf-8")  # a copy of another step
    assert measure_attacks(out, attacks, SETTINGS).now == 1
    case.whole.save(case.folder.attack("q4_0"))  # the plain record
    assert measure_attacks(out, attacks, SETTINGS).now == 1
    other = load_record(first)
    other.edits[0]["created"] = "2020-01-01T00:00:00+00:00"
    other.save(first)
    assert measure_attacks(out, attacks, SETTINGS).now == 1
    other = load_record(first)
    other.edits[1]["facts"][EXCLUDED] = []
    other.save(first)
    assert measure_attacks(out, attacks, SETTINGS).now == 1


def test_a_run_that_is_done_again_has_no_old_attacks(out: Path, experiment: Build, recorder: Any) -> None:
    measure_attacks(out, choose_attacks(["q4_0"]), SETTINGS)
    case = rocr_case(out)
    case.folder.record.unlink()
    keys = {"models": [case.run.model.name], "data": case.run.data, "suite": "fb,gen_fb"}
    rocr = {"method": "rocr", "layers": [1, 2], "basis": "none", "l2": 0.0, "redirect": "Ann"}
    sweep(experiment(methods=["original", rocr], **keys), out, lambda _: InProcess(), recorder)
    assert case.folder.record.is_file()
    assert not case.folder.attacks.exists()


def test_a_failure_is_noted_and_the_others_follow(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(lm: LM, *arguments: Any) -> Record:
        if lm.edits[-1]["config"].get("step") == 1:
            raise ModelError("the model gives NaN", where="a test")
        return run_plan(lm, *arguments)

    monkeypatch.setattr(RUN_PLAN, broken)
    done = measure_attacks(out, choose_attacks(["relearn_1"]), SETTINGS)
    assert done.now == 2
    assert [(title.rpartition(" ")[2], reason) for title, reason in done.failed] == [("1", "the model gives NaN [a test]")] * 2
    monkeypatch.setattr(RUN_PLAN, run_plan)
    assert measure_attacks(out, choose_attacks(["relearn_1"]), SETTINGS).now == 2


def test_a_training_run_that_fails_is_noted(out: Path) -> None:
    wild = SETTINGS.model_copy(update={"learning_rate": 1.0, "num_train_epochs": 200})
    done = measure_attacks(out, choose_attacks(["relearn_1", "q4_0"]), wild, methods=["rocr"])
    assert done.now >= 4  # q4_0 of edits and originals
    assert all("relearn_1" in title for title, _ in done.failed)


def test_changed_files_of_a_target_are_refused(out: Path) -> None:
    path = rocr_case(out).target.path("forget_level1")
    path.write_text(path.read_text("utf-8").replace("Riga", "Graz"), "utf-8")
    done = measure_attacks(out, choose_attacks(["q4_0"]), SETTINGS)
    assert done.now == 2
    assert all("the target's files have changed since the run" in reason for _, reason in done.failed)


def test_a_target_that_is_gone_is_noted_and_the_others_follow(out: Path) -> None:
    shutil.rmtree(rocr_case(out).target.path("forget_level1").parent)
    done = measure_attacks(out, choose_attacks(["q4_0"]), SETTINGS)
    assert done.now == 2
    assert len(done.failed) == 2
    assert all("the target is not there" in reason for _, reason in done.failed)


def test_a_disk_that_cannot_be_written_ends_it(out: Path) -> None:
    rocr_case(out).folder.attacks.write_text("a file is in the way")
    with pytest.raises(OutputError):
        measure_attacks(out, choose_attacks(["q4_0"]), SETTINGS)


def test_a_sweep_at_work_is_not_disturbed(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("formless.experiment.status._LOCK_SECONDS", 0.1)
    with locked(out, 1), pytest.raises(OutputError, match="another sweep works on this folder"):
        measure_attacks(out, choose_attacks(["q4_0"]), SETTINGS)


def test_edits_of_the_prompt_and_runs_without_an_original_are_left_out(out: Path) -> None:
    found, left_out = attackable_runs(out)
    assert {one.run.method for one in found} == {"original", "rocr"}
    assert set(left_out.values()) == {"without an edit of weights: an edit of the prompt leaves them as they are"}
    for one in found:
        if one.run.method == "original":
            one.folder.result.unlink()
    found, left_out = attackable_runs(out, ["rocr"])
    assert not found
    assert set(left_out.values()) == {"without the original model's record"}


def test_the_command_from_attacks_to_the_page(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("recall", "attacks"):
        monkeypatch.setattr(f"formless.report.{module}.known_facts", lambda *_: set(FACTS))
    options = ("--attacks", "relearn_4,quantization", "--learning-rate", "1e-3", "--batch", "4", "--points", "1")
    monkeypatch.setattr(sys, "argv", ["formless", "attack", str(out), *options])
    for said in ("0 measured before, 10 now", "10 measured before, 0 now"):
        with pytest.raises(SystemExit) as stopped:
            main()
        assert not stopped.value.code
        printed = capsys.readouterr().out
        assert said in printed
        assert "rocr: worst-case recall " in printed
        assert " icu: 2 runs without an edit of weights" in printed
        assert "Whoever removes the adapter" in printed
    page = (out / "attacks.html").read_text("utf-8")
    assert "Fine-tuned on 4 of its facts" in page
    assert "Quantized to 4 bits (Q4_0)" in page
    path = rocr_case(out).target.path("forget_level1")
    path.write_text(path.read_text("utf-8").replace("Riga", "Graz"), "utf-8")
    monkeypatch.setattr(sys, "argv", ["formless", "attack", str(out), "--attacks", "relearn_1"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert "the target's files have changed since the run" in capsys.readouterr().err

"""The pages about edits under attack, from made-up runs: no model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from formless.evaluation.record import ItemResult, Record, TaskMetric, TaskResult
from formless.experiment.runs import ORIGINAL, read_plan
from formless.methods.registry import method_config
from formless.models.settings import settings_for
from tests.report.made_runs import keep_run, made_run, write_plan
from tests.report.test_attacks import FACTS, made, task, write_attacks, write_target
from tools import attacks
from tools.attacks import STRONG, TITLES, WEAK
from tools.results import FOLDER, Cell, Result

SHARED = {"date": "2026-01-01", "versions": {}, "hardware": {}, "n": "2", "command": "c"}


def prompts(whole: Record, said: str) -> Record:
    """A record under attacks on the prompt: some facts are said in a role; the answer is read at the last layer alone."""
    values = {f"layer {index}": 0.5 if index == 29 else 0.0 for index in range(30)}
    lens = TaskResult(
        task="lens", split="forget", status="complete",
        metrics=[TaskMetric(metric="probability", group=group, value=value, n=1) for group, value in values.items()],
        items=[ItemResult(query="?", group=group, metrics={"probability": value}) for group, value in values.items()],
    )  # fmt: skip
    role = task("gen_qa_role", {"recall": {fact: float(fact in said) for fact in FACTS}})
    return whole.model_copy(update={"tasks": [role, lens]})


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two concepts: edits say the fact a, in a role b and c too."""
    monkeypatch.setattr("formless.experiment.frontier._obstacle", lambda _run, _folder, _unfit: None)
    out, runs = tmp_path / "runs", []
    for number in (1, 2):
        target = write_target(tmp_path / "data", number)
        for place, label in enumerate((ORIGINAL, *TITLES)):
            config = {"strength": place} if place else {}  # an id does not hold the label
            run = made_run(label, target, data=str(tmp_path / "data"), config=config)
            before, said = (0.2, "a") if place else (0.8, FACTS)
            whole = made(label, target, dict.fromkeys(FACTS, before), said)
            keep_run(out, run, whole)
            path = attacks.prompts_path(out, run)
            path.parent.mkdir(parents=True, exist_ok=True)
            prompts(whole, "bc" if place else FACTS).save(path)
            runs.append(run)
    write_plan(out, runs)
    write_attacks(out, "relearning,quantization", WEAK)
    write_attacks(out, "relearn_4", STRONG)
    return out


def rows(page: Result) -> dict[tuple[Cell, Cell], list[Cell]]:
    """The cells of a page by what its rows are called."""
    return {(row[0], row[1]): row[2:] for row in page.rows}


def test_the_headline_is_over_weights_and_prompts(out: Path) -> None:
    found = rows(attacks.recall_page(out, attacks.collect(out), SHARED))
    edits = len(TITLES)
    assert next(iter(found)) == ("all attacks", "facts said")
    assert found["all attacks", "facts said"] == [2, 100.0, *[50.0] * edits]  # a, b and c of six
    assert found["none", "facts said"] == [2, 100.0, *[16.7] * edits]
    assert found["none", "forgotten of questions"][1:3] == [None, 93.8]  # 1 - 0.04 / 0.64
    assert found["prompt: role play", "facts said"] == [2, 100.0, *[33.3] * edits]


def test_relearning_has_the_facts_that_were_trained_apart(out: Path) -> None:
    found = rows(attacks.recall_page(out, attacks.collect(out), SHARED))
    before, after = (found["relearn 4 facts, 10 epochs", f"other facts said, {when}"] for when in ("before", "after"))
    trained = found["relearn 4 facts, 10 epochs", "trained facts said, after"]
    assert before[1] is None  # the original is not relearned
    assert before[2:] == after[2:]
    assert (before[2:], trained[2:]) in (([0.0] * 4, [50.0] * 4), ([50.0] * 4, [0.0] * 4))  # a is among one or the other
    assert ("relearn related text, 1 step", "trained facts said, after") not in found
    assert found["4 bits (Q4_0)", "facts said"][1:] == [16.7] * 5
    assert found["4 bits (Q4_0)", "forgetting left"][1:] == [None, *[88.0] * 4]  # (1 - 3/8 + 1 - 9/64) / (3/4 + 15/16)


def test_an_attack_without_a_record_has_no_row(out: Path) -> None:
    for path in out.rglob("q4_0.json"):
        path.unlink()
    found = rows(attacks.recall_page(out, attacks.collect(out), SHARED))
    assert ("4 bits (Q4_0)", "facts said") not in found
    assert ("relearn 4 facts, 10 epochs", "other facts said, after") in found


def test_a_concept_that_lacks_a_record_is_left_out(out: Path) -> None:
    run = next(run for run in read_plan(out) if run.label == "cdr")
    attacks.prompts_path(out, run).unlink()
    by = attacks.collect(out)
    assert {label: len(own) for label, own in by.items()} == dict.fromkeys([ORIGINAL, *TITLES], 1)
    assert rows(attacks.recall_page(out, by, SHARED))["none", "forgotten of questions"][0] == 1


def test_layers_are_counted_from_one(out: Path) -> None:
    found = rows(attacks.inside_page(attacks.collect(out), SHARED))
    assert found["lens, layer 29", "probability of the answer"][1:] == [0.0] * (1 + len(TITLES))
    assert found["lens, layer 30", "probability of the answer"][1:] == [50.0] * (1 + len(TITLES))


def test_the_edits_of_the_experiment_are_valid() -> None:
    found = attacks.experiment()
    settings = settings_for(attacks.MODEL)
    assert [one.label for one in found.methods] == [ORIGINAL, *TITLES]
    for one in found.methods[1:]:
        method_config(settings, one.method, one.settings)


def test_the_trained_method_is_the_best_of_the_comparison() -> None:
    compared = json.loads((FOLDER / "method_comparison.json").read_text("utf-8"))
    best = {row[0]: row[-1]["value"] for row in compared["rows"] if not row[0].startswith(("rocr", "cdr"))}
    assert max(best, key=lambda label: best[label]) == attacks.TRAINED

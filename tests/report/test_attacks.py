"""What attacks bring back: recall without the trained facts, forgetting by hand, tables, the page and the command."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from formless.cli.main import main
from formless.errors import DataError
from formless.evaluation.record import ItemResult, Record, TaskMetric, TaskResult
from formless.evaluation.statistics import Estimate
from formless.experiment.attacks.attack import Attack, AttackSettings, Point, PointConfig
from formless.experiment.attacks.registry import ATTACKS, choose_attacks
from formless.experiment.attacks.relearning import PROTOCOLS
from formless.report.attack_page import attack_rows, attack_table, detail_table, headline, removal
from formless.report.attack_plots import attack_plot
from formless.report.attack_recall import ATTACKED_RECALL, attack_recalls
from formless.report.attacks import (
    BEFORE,
    HALF_STEP,
    RECALL_BEFORE,
    STEP,
    TRAINED_RECALL,
    AttackResult,
    AttackSummary,
    attacked_values,
    collect_attacks,
)
from formless.report.page import write_experiment_report
from formless.report.ratios import FORGETTING, forgetting_key
from formless.report.recall import WORST_CASE_RECALL, recall_over
from formless.report.runs import Condition, collect
from formless.report.tables import as_csv
from tests.report.made_runs import keep_run, made_record, made_run, write_plan

FACTS = "abcdef"
SETTINGS = PROTOCOLS["two_epochs"]
EXCLUDED = {"relearn_1": ("a",), "relearn_4": ("a", "b", "c", "d"), "relearn_related": (), "q4_0": ()}


def task(name: str, metrics: Mapping[str, Mapping[str, float]]) -> TaskResult:
    """A task with one item for each fact, from metric -> fact -> value."""
    items = [
        ItemResult(query=f"{fact}?", fact=fact, metrics={metric: values[fact] for metric, values in metrics.items()})
        for fact in FACTS
    ]
    means = [TaskMetric(metric=metric, value=sum(own.values()) / len(own), n=len(own)) for metric, own in metrics.items()]
    return TaskResult(task=name, split="forget", status="complete", items=items, metrics=means)


def tasks(probabilities: Mapping[str, float], said: str, known: bool = False) -> list[TaskResult]:
    """Blanks, questions with the square of the probability, and answers in words, of each fact."""
    extra = {"known": dict.fromkeys(FACTS, 1.0)} if known else {}
    squares = {fact: value**2 for fact, value in probabilities.items()}
    return [
        task("fb", {"probability": probabilities} | extra),
        task("qa", {"probability": squares} | extra),
        task("gen_qa", {"recall": {fact: float(fact in said) for fact in FACTS}}),
    ]


def made(label: str, target: str, values: Mapping[str, float], said: str) -> Record:
    record = made_record(made_run(label, target), {})
    return record.model_copy(update={"tasks": tasks(values, said, known=label == "original")})


def attacked(record: Record, attack: Attack, point: Point, values: Mapping[str, float], said: str) -> Record:
    """A record of the attacked model, with the entry that a real one has."""
    info = made_record(made_run("rocr", record.target), {}).edits[0]
    facts: dict[str, Any] = {"excluded_facts": list(point.excluded)} | (
        {"half_step_share": 0.75} if attack.family == "quantization" else {"trained_facts": list(point.excluded)[:2]}
    )
    config = PointConfig.model_validate(point.config).model_dump(mode="json")
    entry = info | {"method": attack.family, "attack": attack.name, "config": config, "facts": facts}
    return record.model_copy(update={"edits": [*record.edits, entry], "tasks": tasks(values, said)})


BEFORE_ATTACK, ORIGINAL = dict.fromkeys(FACTS, 0.2), dict.fromkeys(FACTS, 0.8)


def point(name: str, step: int | None = 4) -> Point:
    return Point(f"{name}.made", {"step": step}, EXCLUDED.get(name, ()), 1, step)


def test_trained_facts_do_not_count_by_hand() -> None:
    original, whole = made("original", "1_A", ORIGINAL, FACTS), made("rocr", "1_A", BEFORE_ATTACK, "ab")
    # The trained facts come back whole, the other two to a half.
    values = dict.fromkeys("abcd", 0.9) | dict.fromkeys("ef", 0.4)
    relearned = attacked(whole, ATTACKS["relearn_4"], point("relearn_4"), values, "abcde")
    found = attacked_values(original, whole, relearned, point("relearn_4"))
    assert found[RECALL_BEFORE] == 0  # a and b are trained
    assert found[WORST_CASE_RECALL] == 0.5  # e of e and f
    assert found[BEFORE._replace(task="fb")] == pytest.approx(1 - 0.2 / 0.8)
    assert found[forgetting_key("fb")] == pytest.approx(1 - 0.4 / 0.8)
    assert found[forgetting_key("qa")] == pytest.approx(1 - 0.16 / 0.64)
    assert found[FORGETTING] == pytest.approx((0.5 + 0.75) / 2)
    assert found[STEP] == 4
    assert found[TRAINED_RECALL] == 1
    nameless = original.model_copy(deep=True)
    nameless.tasks[0].items[5].fact = None  # as of true or false: it may ask a trained fact
    assert attacked_values(nameless, whole, relearned, point("relearn_4"))[forgetting_key("fb")] == pytest.approx(0.5)
    nameless.tasks[0].items[4].fact = None
    assert forgetting_key("fb") not in attacked_values(nameless, whole, relearned, point("relearn_4"))
    silent = attacked(whole, ATTACKS["relearn_4"], point("relearn_4"), values, "bef")
    assert attacked_values(original, whole, silent, point("relearn_4"))[TRAINED_RECALL] == 0.5  # a and b were trained
    assert HALF_STEP not in found
    union = recall_over(original, [(whole, ()), (relearned, EXCLUDED["relearn_4"])])
    assert union is not None
    assert (union.said, union.facts) == (3, 6)  # a and b before, e after; c and d were trained
    assert recall_over(original, [(relearned, FACTS)]) is None


def test_a_quantized_model_is_compared_with_the_quantized_original_by_hand() -> None:
    original, whole = made("original", "1_A", ORIGINAL, FACTS), made("rocr", "1_A", BEFORE_ATTACK, "")
    one = point("q4_0", None)
    quantized = attacked(whole, ATTACKS["q4_0"], one, dict.fromkeys(FACTS, 0.3), "f")
    base = attacked(original, ATTACKS["q4_0"], one, dict.fromkeys(FACTS, 0.6), "abc")
    found = attacked_values(original, whole, quantized, one, base)
    assert found[forgetting_key("fb")] == pytest.approx(1 - 0.3 / 0.6)
    assert found[BEFORE._replace(task="fb")] == pytest.approx(0.75)
    assert found[HALF_STEP] == 0.75
    assert STEP not in found
    alone = attacked_values(original, whole, quantized, one, base.model_copy(update={"probes_digest": "other"}))
    assert alone[forgetting_key("fb")] == pytest.approx(1 - 0.3 / 0.8)  # asked other items: it does not count
    broken = attacked(original, ATTACKS["q4_0"], one, dict.fromkeys(FACTS, 0.079), "")
    assert forgetting_key("fb") not in attacked_values(original, whole, quantized, one, broken)  # it keeps less than a tenth


# --- Folders of runs


def write_target(data: Path, number: int) -> str:
    """Write what the attacks train on, and return the name of its folder."""
    target = f"{number}_Person_{number}"
    (data / target).mkdir(parents=True)
    item = {"subject": f"Person {number}", "level": "1", "type": "cloze"}
    rows = [{"query": f"Person {number} saw ___.", "answer": fact, **item} for fact in FACTS]
    (data / target / "forget_level1.json").write_text(json.dumps(rows), "utf-8")
    near = [{"query": "Ann saw ___.", "answer": "Paris", "neighbor": "Ann", **item}]
    (data / target / "neighbor_level1.json").write_text(json.dumps(near), "utf-8")
    return target


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two targets with the original model, ROCR and ICU; every attack has one point, and 16 facts are too many."""
    data = tmp_path / "data"
    runs = []
    for number in (1, 2):
        target = write_target(data, number)
        for label, method in (("original", "original"), ("rocr", "rocr"), ("icu", "icu")):
            run = made_run(label, target, method=method, data=str(data))
            values, said = (ORIGINAL, FACTS) if label == "original" else (BEFORE_ATTACK, "a")
            keep_run(tmp_path / "runs", run, made(label, target, values, said))
            runs.append(run)
    write_plan(tmp_path / "runs", runs)
    return tmp_path / "runs"


def write_attacks(out: Path, attacks: str = "relearning,quantization", settings: AttackSettings = SETTINGS) -> None:
    """Write the record of every state; more comes back at each point, and most by relearn_related."""
    from formless.experiment.attacks.measure import attack_points, attackable_runs

    for victim in attackable_runs(out)[0]:
        case = victim.load()
        for attack, points in attack_points(case, choose_attacks(attacks.split(",")), settings)[0]:
            for one in points:
                share = 0.2 + 0.1 * one.number + 0.2 * (attack.name == "relearn_related")
                said = FACTS if attack.name == "relearn_related" and one.number == 2 else "a"
                values = ORIGINAL if case.run.method == "original" else dict.fromkeys(FACTS, share)
                attacked(case.whole, attack, one, values, said).save(case.folder.attack(one.name))


@pytest.fixture
def kept(out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, with every edit as if it had been kept."""
    monkeypatch.setattr(
        "formless.experiment.frontier._obstacle", lambda run, _folder, unfit: unfit if run.method == "icu" else None
    )
    return out


def test_the_worst_attack_is_first_and_the_headline_is_over_all(kept: Path) -> None:
    write_attacks(kept)
    attacks = choose_attacks(["relearning", "quantization"])
    [rocr], without = collect_attacks(kept, attacks, SETTINGS)
    assert without == {
        Condition("tiny", "icu"): "2 runs without an edit of weights: an edit of the prompt leaves them as they are"
    }
    assert (rocr.condition.method, rocr.targets) == ("rocr", ("1_Person_1", "2_Person_2"))
    assert (rocr.results[0].attack.name, rocr.results[0].number) == ("relearn_related", 2)
    assert rocr.overall[ATTACKED_RECALL].value == 1
    assert rocr.overall[WORST_CASE_RECALL].value == pytest.approx(1 / 6)
    assert headline(rocr) == (
        "rocr: worst-case recall 100 % over all attacks and 17 % without an attack; the original model: 100 % (2 targets)."
    )
    assert removal(rocr).endswith("has all of it back: recall 100 %.")
    assert rocr.gaps == "2 runs without relearn_16: 6 known facts are too few to train on 16 and measure others"
    worst = rocr.results[0]
    # Blanks: 0.75 before, 1 - 0.6 / 0.8 after; questions: 1 - 0.04 / 0.64 before, 1 - 0.36 / 0.64 after.
    assert worst.surviving == pytest.approx((0.25 + 1 - 0.36 / 0.64) / (0.75 + 1 - 0.04 / 0.64))
    table = attack_table(rocr)
    assert table.columns[:4] == ("attack", "step", "facts said", "forgotten: Fill in the blank")
    assert table.rows[0][:4] == ("relearn_related", "2", "17 → 100 %", "75 → 25 %")
    assert [row[-3] for row in table.rows if row[0] == "relearn_related"] == ["–", "–"]
    assert [row[-2] for row in table.rows if row[0] == "q4_0"] == ["75 %"]
    assert len(detail_table(rocr).rows) > len(table.rows)
    rows = list(csv.DictReader(io.StringIO(as_csv(attack_rows([rocr])))))
    assert list(rows[0]) == [
        "model", "method", "attack", "point", "metric", "task", "value", "ci_low", "ci_high", "targets",
    ]  # fmt: skip
    chosen = [
        row for row in rows
        if (row["attack"], row["point"], row["metric"], row["task"]) == ("relearn_related", "2", "forgetting", "fb")
    ]  # fmt: skip
    assert [(float(row["value"]), row["targets"]) for row in chosen] == [(pytest.approx(0.25), "2")]


def test_what_is_not_measured_is_said(kept: Path) -> None:
    write_attacks(kept, "q8_0")
    [rocr], _ = collect_attacks(kept, choose_attacks(["quantization"]), SETTINGS)
    assert rocr.gaps == "2 states under q4_0 not measured"
    assert [one.attack.name for one in rocr.results] == ["q8_0"]
    [rocr], _ = collect_attacks(kept, choose_attacks(["relearn_1"]), SETTINGS)
    assert rocr.results == ()
    assert rocr.overall[ATTACKED_RECALL] == rocr.overall[WORST_CASE_RECALL]
    with pytest.raises(DataError, match="no run can be attacked"):
        collect_attacks(kept, choose_attacks(["q8_0"]), SETTINGS, ["icu"])


def test_the_headline_counts_every_attack_of_the_folder(kept: Path) -> None:
    write_attacks(kept, "relearn_related", PROTOCOLS["one_epoch"].model_copy(update={"points": 1}))
    [rocr], _ = collect_attacks(kept, choose_attacks(["relearn_1"]), SETTINGS)
    assert rocr.overall[ATTACKED_RECALL].value == pytest.approx(1 / 6)
    write_attacks(kept, "relearn_related")
    [rocr], _ = collect_attacks(kept, choose_attacks(["relearn_1"]), PROTOCOLS["one_epoch"])
    assert rocr.overall[ATTACKED_RECALL].value == 1
    assert rocr.gaps == "2 states under relearn_1 not measured"
    for path in kept.rglob("attacks/*.json"):
        path.write_text(path.read_text("utf-8").replace("relearn_related", "x", 1)[:-100], "utf-8")
    [rocr], _ = collect_attacks(kept, choose_attacks(["relearn_1"]), PROTOCOLS["one_epoch"])
    assert rocr.overall[ATTACKED_RECALL].value == pytest.approx(1 / 6)  # what is damaged counts nowhere
    names = ("one_epoch.step_1", "two_epochs.step_1", "two_epochs.step_2")
    assert all(f"2 attack records relearn_related.{name}.json that are damaged" in rocr.gaps for name in names)


def test_a_run_whose_data_is_gone_is_said_beside_the_others(kept: Path) -> None:
    write_attacks(kept, "q8_0")
    shutil.rmtree(kept.parent / "data" / "2_Person_2")
    [rocr], without = collect_attacks(kept, choose_attacks(["q8_0"]), SETTINGS)
    assert rocr.targets == ("1_Person_1",)
    assert rocr.gaps.startswith("1 runs that cannot be attacked: ")
    assert "2_Person_2" in rocr.gaps
    assert Condition("tiny", "original") in without


def test_a_quantized_edit_beside_no_quantized_original_says_so(kept: Path) -> None:
    write_attacks(kept, "q8_0")
    [rocr], _ = collect_attacks(kept, choose_attacks(["q8_0"]), SETTINGS)
    assert attack_table(rocr).rows[0][0] == "q8_0"
    next((kept / "runs" / "tiny" / "original").rglob("q8_0.json")).unlink()
    [rocr], _ = collect_attacks(kept, choose_attacks(["q8_0"]), SETTINGS)
    assert attack_table(rocr).rows[0][0] == detail_table(rocr).rows[0][0] == "q8_0, original not attacked"


def test_what_is_missing_is_no_bar(kept: Path) -> None:
    write_attacks(kept, "q8_0")
    [rocr], _ = collect_attacks(kept, choose_attacks(["q8_0"]), SETTINGS)
    drawn = attack_plot("q8_0", [rocr])
    values = {key: value for key, value in rocr.results[0].values.items() if key != WORST_CASE_RECALL}
    silent = replace(rocr, condition=Condition("tiny", "npo"), results=(replace(rocr.results[0], values=values),))
    both = attack_plot("q8_0", [rocr, silent])
    assert drawn is not None
    assert both is not None
    assert "not measured" not in drawn
    assert both.count("not measured") == 1


def test_loose_records_of_attacked_models_are_left_out(kept: Path, tmp_path: Path) -> None:
    write_attacks(kept, "q4_0")
    folders = [kept / "runs" / "tiny" / label for label in ("original", "rocr")]  # without a plan, as loose records
    found = collect(folders)
    assert found.left_out["records of attacked models, which `formless attack` reports"] == 4
    assert len(found.complete) == 4


def run_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["formless", "attack", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    return int(str(stopped.value.code or 0)), captured.out, captured.err


def test_the_command_writes_page_and_csv(
    kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_attacks(kept)
    code, out, err = run_command(monkeypatch, capsys, kept, "--csv", kept.parent / "a.csv")
    assert (code, err) == (0, "")
    assert "rocr: worst-case recall 100 % over all attacks and 17 % without an attack" in out
    assert "Whoever removes the adapter, or has the original weights, has all of it back: recall 100 %." in " ".join(
        out.split()
    )
    assert "not attacked: tiny, icu: 2 runs without an edit of weights" in out
    assert "20 measured before, 0 now" in out
    assert (kept.parent / "a.csv").read_text("utf-8").startswith("model,method,attack,point,metric")
    page = (kept / "attacks.html").read_text("utf-8")
    assert page.count("<svg") == 5  # of the attacks that some target allows
    assert page.index("worst-case recall 100 % over all attacks") < page.index("<svg")
    assert "Not attacked: tiny, icu" in page
    assert "has all of it back" in page
    assert not re.search(r"(src|href|url\()[=\"'( ]+https?:", page.replace("xmlns:xlink", ""))
    code, _, err = run_command(monkeypatch, capsys, kept, "--csv", kept.parent / "a.csv")
    assert (code, "the output exists already" in err) == (2, True)


def test_custom_settings_are_their_own_records(
    kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    custom = AttackSettings(protocol="custom", learning_rate=1e-4, num_train_epochs=3, per_device_train_batch_size=1, lora=True)
    write_attacks(kept, "relearn_1", custom)
    names = {path.name for path in kept.rglob("attacks/*.json")}
    assert names == {f"relearn_1.lr_0.0001.epochs_3.batch_1.lora.step_{step}.json" for step in (2, 3)}
    for options, said in (
        ("--learning-rate 1e-4 --epochs 3 --lora", "4 measured before, 0 now"),
        ("--learning-rate 2e-5 --epochs 1 --batch 32", "2 measured before, 0 now"),  # a protocol by its numbers
    ):
        write_attacks(kept, "relearn_1", PROTOCOLS["one_epoch"])
        code, out, _ = run_command(monkeypatch, capsys, kept, "--attacks", "relearn_1", *options.split())
        assert (code, said in out) == (0, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--attacks", "relern"], "unknown attack 'relern' [--attacks]: did you mean relearn"),
        (["--attacks", ","], "no attack is given [--attacks]"),
        (["--protocol", "one_epoc"], "unknown protocol 'one_epoc' [--protocol]: did you mean one_epoch"),
        (["--methods", "rokr"], "unknown method 'rokr' [--methods]: did you mean rocr?"),
        (["--learning-rate", "nan"], "nan is out of range [--learning-rate]"),
        (["--learning-rate", "2"], "2.0 is out of range [--learning-rate]: input should be less than or equal to 1"),
        (["--epochs", "0"], "0 is out of range [--epochs]"),
        (["--batch", "0"], "0 is out of range [--batch]"),
        (["--points", "0"], "0 is out of range [--points]"),
        (["--csv", "a.csv", "--out", "a.csv"], "two outputs have the same path [a.csv]"),
    ],
)
def test_bad_input_is_one_line(
    kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    monkeypatch.chdir(kept.parent)
    code, _, err = run_command(monkeypatch, capsys, "runs", *options)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert said in err
    assert not (kept / "attacks.html").exists()


def test_a_folder_without_runs_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run_command(monkeypatch, capsys, tmp_path)
    assert code == 2
    assert "no experiment was started in this folder" in err
    code, _, _ = run_command(monkeypatch, capsys, tmp_path / "nowhere")
    assert code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("before", "expected"), [(0.1, 0.5), (0.09, None), (-0.2, None)])
def test_no_share_of_almost_no_forgetting_is_given(before: float, expected: float | None) -> None:
    values = {key: Estimate(value, None, 1) for key, value in ((BEFORE, before), (FORGETTING, 0.05))}
    assert AttackResult(ATTACKS["q4_0"], 1, values).surviving == expected


def test_a_method_without_answers_in_words_has_no_recall() -> None:
    found = AttackSummary(Condition("m", "rocr"), ("1",), {}, ())
    assert headline(found) == "rocr: no known fact was asked in words, so there is no worst-case recall."
    assert removal(found) == "Whoever removes the adapter, or has the original weights, has all of it back."


def test_the_report_of_an_experiment_has_what_attacks_bring_back(kept: Path) -> None:
    write_experiment_report(kept / "report.html", kept)
    assert 'id="attacks"' not in (kept / "report.html").read_text("utf-8")
    write_attacks(kept)
    write_experiment_report(kept / "report.html", kept)
    page = (kept / "report.html").read_text("utf-8")
    [rocr], _ = collect_attacks(kept, choose_attacks(["relearning"]), SETTINGS)
    assert f"<li>{headline(rocr)}</li>" in page
    assert f"<code>formless attack {kept}</code> writes a page" in page
    (kept / "attacks.html").write_text("", "utf-8")
    write_experiment_report(kept / "report.html", kept)
    assert '<a href="attacks.html">The page about attacks</a>' in (kept / "report.html").read_text("utf-8")
    write_experiment_report(kept.parent / "elsewhere.html", kept)
    assert "attacks.html" not in (kept.parent / "elsewhere.html").read_text("utf-8")


def test_what_does_not_count_in_the_recall_under_attack_is_said(kept: Path) -> None:
    write_attacks(kept, "q4_0")
    paths = sorted((kept / "runs" / "tiny" / "rocr").rglob("q4_0.json"))
    paths[0].write_text("{", "utf-8")
    [found] = attack_recalls(kept).values()
    assert list(found.targets) == ["2_Person_2"]
    end = "(1 target). Does not count: 1 attack records q4_0.json that are damaged, or not of this edit and its items."
    assert found.sentence("rocr").endswith(end)
    paths[1].write_text("{", "utf-8")
    [found] = attack_recalls(kept).values()
    assert found.sentence("rocr").startswith("rocr: no record of an attack counts. Does not count: 2 attack records")


def test_the_recall_under_attack_needs_no_model() -> None:
    code = "import sys, formless.report.page; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

"""Forgetting at equal retention: interpolation by hand, seeds, targets that do not reach a level, rows by form and mention."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formless.cli.main import main
from formless.errors import DataError, UnknownNameError
from formless.evaluation.record import ItemResult, MetricKey, Record, TaskMetric, TaskResult
from formless.experiment.frontier import STRENGTHS, measure_strengths
from formless.experiment.runs import Run
from formless.report.frontier import Curve, Curves, collect_curves, forgetting_at, frontiers, harmonic_mean, point
from formless.report.frontier_page import (
    curve_rows,
    harmonic_table,
    level_rows,
    level_table,
    overview_table,
    row_title,
    short_table,
)
from formless.report.ratios import FORGETTING, RETENTION, forgetting_key
from formless.report.runs import Condition
from formless.report.tables import as_csv
from tests.report.made_runs import SPLITS, keep_run, made_record, made_run, write_plan
from tests.report.test_independence import pair

CURVE = [(1.0, 0.0), (0.98, 0.4), (0.94, 0.6), (0.8, 0.9)]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0.98, 0.4),  # a point
        (0.97, 0.4 + 0.2 * 0.01 / 0.04),  # a quarter of the way
        (0.95, 0.4 + 0.2 * 0.03 / 0.04),
        (0.90, 0.6 + 0.3 * 0.04 / 0.14),
        (0.80, 0.9),
        (0.79, None),  # never reached
        (1.01, None),
    ],
)
def test_interpolation_by_hand(level: float, expected: float | None) -> None:
    assert forgetting_at(CURVE, level) == (expected if expected is None else pytest.approx(expected))


def test_the_largest_forgetting_counts_where_a_curve_turns_back() -> None:
    # Retention falls to 0.9, rises to 0.97 and falls again: the level 0.95 is crossed three times.
    points = [(1.0, 0.0), (0.9, 0.5), (0.97, 0.7), (0.85, 0.4)]
    assert forgetting_at(points, 0.95) == 0.7  # the point in between
    assert forgetting_at(points, 0.975) == pytest.approx(0.125)  # on the way down from the original only
    assert forgetting_at([(1.0, 0.0), (0.9, 0.5), (0.96, 0.3), (0.85, 0.2)], 0.95) == pytest.approx(0.3 + 0.2 / 6)
    assert forgetting_at([(1.0, 0.0), (1.05, 0.3), (0.9, 0.2)], 0.95) == pytest.approx(0.3)  # better than before is at least


def test_a_curve_without_a_point_has_no_value() -> None:
    assert forgetting_at([], 0.9) is None
    assert forgetting_at([(1.0, 0.0), (0.99, 0.8)], 0.97) is None  # it stays above: not extrapolated


@given(st.lists(st.tuples(st.floats(0.5, 1.2), st.floats(-0.5, 1)), max_size=6), st.floats(0.4, 1.1))
def test_a_value_lies_within_what_was_measured(points: list[tuple[float, float]], level: float) -> None:
    whole = [(1.0, 0.0), *points]
    found = forgetting_at(whole, level)
    retentions, forgettings = zip(*whole, strict=True)
    assert (found is not None) == (min(retentions) <= level <= max(retentions))
    if found is not None:
        assert min(forgettings) - 1e-12 <= found <= max(forgettings) + 1e-12
        assert found >= max((f for r, f in whole if r >= level), default=-1.0)


def test_the_harmonic_mean_by_hand() -> None:
    assert harmonic_mean(0.5, 1.2) == pytest.approx(2 * 0.5 / 1.5)
    assert harmonic_mean(-0.1, 0.9) == harmonic_mean(0.0, 0.0) == 0.0


def curve(points: Mapping[float, tuple[float, float]]) -> Curve:
    return Curve({u: {RETENTION: retention, FORGETTING: forgetting} for u, (retention, forgetting) in points.items()})


def test_means_are_over_the_targets_that_reach_a_level() -> None:
    condition = Condition("m", "rocr")
    targets = {f"{n}": curve({1.0: (0.98, 0.1 * n), 2.0: (0.94, 0.2 * n)}) for n in range(1, 6)}
    targets["6"] = curve({1.0: (0.99, 0.9), 2.0: (0.96, 0.9)})
    [found] = frontiers(Curves({condition: targets}), (0.97, 0.94, 0.9))
    row = found.rows[FORGETTING]
    first, second = row.levels[0.97], row.levels[0.94]
    assert first is not None
    assert second is not None
    assert (first.n, second.n, row.targets) == (6, 5, 6)
    assert first.value == pytest.approx((sum(0.125 * n for n in range(1, 6)) + 0.9) / 6)
    assert second.value == pytest.approx(0.2 * 3)
    assert second.ci is not None
    assert second.ci[0] < second.value < second.ci[1]
    assert row.levels[0.9] is None
    means = {u: [harmonic_mean(*reversed(pair)) for pair in pairs] for u, pairs in pairs_by_strength(targets).items()}
    assert found.best_strength == max(means, key=lambda u: sum(means[u])) == 2.0
    assert found.harmonic is not None
    assert found.harmonic.value == pytest.approx(sum(means[2.0]) / 6)
    assert found.curve[1.0][0].value == pytest.approx((5 * 0.98 + 0.99) / 6)
    text = level_table(found, (0.97, 0.94, 0.9)).rows[0]
    assert text[0] == "mean over forms that count"
    assert (text[3], text[6], text[7:]) == ("6 of 6", "5 of 6", ("–", "", "0 of 6"))
    assert overview_table([found], (0.94, 0.9)).rows[1] == ("rocr", "90 %", "–", "", "0 of 6")
    assert harmonic_table([found]).rows[0][:2] == ("rocr", "2")
    assert short_table(found, (0.97, 0.94, 0.9)).rows[0][2:] == ("0.600 (5)", "– (0)")


def pairs_by_strength(targets: Mapping[str, Curve]) -> dict[float, list[tuple[float, float]]]:
    return {u: [(one.points[u][RETENTION], one.points[u][FORGETTING]) for one in targets.values()] for u in (1.0, 2.0)}


def test_a_strength_that_a_target_lacks_is_not_in_the_mean_curve() -> None:
    one, other = curve({1.0: (0.9, 0.5), 2.0: (0.8, 0.7)}), curve({2.0: (0.8, 0.6)})
    [found] = frontiers(Curves({Condition("m", "rocr"): {"1": one, "2": other}}), (0.9,))
    assert list(found.curve) == [2.0]
    level = found.rows[FORGETTING].levels[0.9]
    assert level is not None
    assert level.values == pytest.approx((0.5, 0.3))


def mentions(record: Record, forget: Mapping[str, float]) -> Record:
    """Add two blanks for each mention."""
    known = {} if record.edits else {"known": 1.0}
    items = [
        ItemResult(query="Who?", prompt="p", expected="a", group=group, metrics={"probability": value} | known)
        for group, value in forget.items() for _ in range(2)
    ]  # fmt: skip
    metrics = [
        TaskMetric(metric="probability", value=value, n=2, ci=(value, value), group=group) for group, value in forget.items()
    ]
    result = TaskResult(task="fb_mentions", split="forget", status="complete", metrics=metrics, items=items)
    return record.model_copy(update={"tasks": [*record.tasks, result]})


def test_a_point_has_the_mean_the_forms_and_the_mentions() -> None:
    original, edited = pair({"fb": (0.8, 0.4), "qa": (0.6, 0.45)}, {"fb": (0.5, 0.45), "qa": (0.5, 0.5)})
    original = mentions(original, {"short name": 0.8, "alias": 0.5})
    edited = mentions(edited, {"short name": 0.6, "alias": 0.5})
    found = point(original, edited)
    assert found is not None
    assert found[RETENTION] == pytest.approx(0.95)
    assert found[FORGETTING] == pytest.approx(0.375)
    assert found[forgetting_key("fb")] == pytest.approx(0.5)
    assert found[forgetting_key("fb_mentions")._replace(group="short name")] == pytest.approx(0.25)
    assert found[forgetting_key("fb_mentions")._replace(group="alias")] == 0
    alone = pair({"fb": (0.8, 0.4)}, {})
    assert point(*alone) is None  # nothing is known of neighbors


# --- A folder of runs, measured without a model


def at_strength(record: Record, run: Run, strength: float) -> Record:
    """The record of an edit that takes away 40 % of the concept and 4 % of its neighbors at strength 1, in proportion."""
    share = {"forget": 1 - 0.4 * strength, "neighbor": 1 - 0.04 * strength}
    values = {(task.task, split): 0.8 * share[split] for task in record.tasks for split in SPLITS if task.split == split}
    found = made_record(run, values)
    found.edits[0] |= {"strength": strength} if strength != 1 else {}
    return found


def write_strengths(out: Path, targets: int = 2, seeds: tuple[int, ...] = (0,)) -> Path:
    """Runs of the original, of ROCR with every strength measured, and of ICU."""
    runs = []
    for number in range(1, targets + 1):
        target = f"{number}_Person_{number}"
        original = made_run("original", target)
        before = made_record(original, {(form, split): 0.8 for form in ("fb", "qa") for split in SPLITS})
        keep_run(out, original, before)
        runs.append(original)
        for seed in seeds:
            run = made_run("rocr", target, seed, save_edit=True)
            folder = run.folder(out)
            folder.edit.mkdir(parents=True)
            (folder.edit / "edit.json").write_text("{}")
            keep_run(out, run, at_strength(before, run, 1.0))
            for strength in STRENGTHS:
                if strength != 1:
                    at_strength(before, run, strength).save(folder.strength(strength))
            runs.append(run)
        prompt = made_run("icu", target, method="icu", save_edit=True)
        runs.append(prompt)
    write_plan(out, runs)
    return out


def test_a_folder_of_runs_becomes_curves(tmp_path: Path) -> None:
    write_strengths(tmp_path, seeds=(1, 2))
    found = collect_curves(tmp_path, STRENGTHS)
    assert {condition.method: list(own) for condition, own in found.targets.items()} == {"rocr": ["1_Person_1", "2_Person_2"]}
    assert {condition.method: text for condition, text in found.clauses().items()} == {
        "icu": "2 runs without an edit of weights, which alone has a strength"
    }
    points = found.targets[Condition("tiny", "rocr")]["1_Person_1"].points
    assert list(points) == list(STRENGTHS)
    assert points[2.0][RETENTION] == pytest.approx(0.92)
    assert points[2.0][FORGETTING] == pytest.approx(0.8)
    [rocr] = frontiers(found)
    values = {level: row.value if row else None for level, row in rocr.rows[FORGETTING].levels.items()}
    assert values == {0.97: pytest.approx(0.3), 0.95: pytest.approx(0.5), 0.9: None}
    assert rocr.rows[forgetting_key("qa")].targets == 2
    assert rocr.best_strength == 2.0


def test_what_is_not_there_is_counted(tmp_path: Path) -> None:
    write_strengths(tmp_path)
    run = made_run("rocr", "1_Person_1", save_edit=True)
    run.folder(tmp_path).strength(2.0).write_text("{")  # half a file is none
    other = made_record(made_run("rocr", "2_Person_2"), {("fb", "forget"): 0.5})
    other.edits[0] |= {"strength": 0.5, "created": "of another time"}
    other.save(made_run("rocr", "2_Person_2", save_edit=True).folder(tmp_path).strength(0.5))
    found = collect_curves(tmp_path, STRENGTHS, ["rocr"])
    assert list(found.clauses().values()) == ["2 strengths of a run not measured"]
    lengths = [len(one.points) for one in found.targets[Condition("tiny", "rocr")].values()]
    assert lengths == [len(STRENGTHS) - 1] * 2
    with pytest.raises(UnknownNameError, match="rocr"):
        collect_curves(tmp_path, STRENGTHS, ["rokr"])


def test_without_a_curve_there_is_an_error(tmp_path: Path) -> None:
    write_strengths(tmp_path)
    with pytest.raises(DataError, match="no run has a curve .*icu: 2 runs without an edit of weights"):
        frontiers(collect_curves(tmp_path, STRENGTHS, ["icu"]))
    for path in tmp_path.glob("runs/*/original/*/*/run.json"):
        path.unlink()
    with pytest.raises(DataError, match="rocr: 2 runs without the original model's record"):
        frontiers(collect_curves(tmp_path, STRENGTHS, ["rocr"]))


def test_nothing_is_measured_twice(tmp_path: Path) -> None:
    done = measure_strengths(write_strengths(tmp_path))
    assert (done.already, done.now, done.failed) == (2 * len(STRENGTHS), 0, [])


def test_csv_has_every_number(tmp_path: Path) -> None:
    [rocr] = frontiers(collect_curves(write_strengths(tmp_path, targets=5), STRENGTHS))
    rows = list(csv.DictReader(io.StringIO(as_csv(level_rows([rocr])))))
    row = next(row for row in rows if (row["task"], row["level"]) == ("", "0.97"))
    assert float(row["value"]) == pytest.approx(0.3)
    assert row["ci_low"] != ""
    assert (row["reached"], row["targets"]) == ("5", "5")
    assert {row["value"] for row in rows if row["level"] == "0.9"} == {""}
    assert [row["strength"] for row in rows if row["metric"] == "harmonic_mean"] == ["2.0"]
    shown = list(csv.DictReader(io.StringIO(as_csv(curve_rows([rocr])))))
    assert [row["metric"] for row in shown[:2]] == ["retention", "forgetting"]
    assert [(row["strength"], row["value"]) for row in shown[:2]] == [("0.0", "1.0"), ("0.0", "0.0")]
    assert len(shown) == 2 * len(STRENGTHS) + 2


def run_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["formless", "frontier", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    captured = capsys.readouterr()
    return int(str(stopped.value.code or 0)), captured.out, captured.err


def test_the_command_writes_page_and_csv(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_strengths(tmp_path / "runs")
    files = [tmp_path / "levels.csv", tmp_path / "curves.csv"]
    code, out, err = run_command(monkeypatch, capsys, tmp_path / "runs", "--csv", files[0], "--curves", files[1])
    assert (code, err) == (0, "")
    assert "tiny: forgetting at equal retention of neighbors" in out
    assert "no curve: tiny, icu: 2 runs without an edit of weights" in out
    assert "14 measured before, 0 now" in out
    assert all(file.read_text().startswith("model,method,metric") for file in files)
    page = (tmp_path / "runs" / "frontier.html").read_text("utf-8")
    assert page.count("<svg") == 1
    assert "var(--form-1)" in page
    assert "2 of 2" in page
    assert "Without a curve: tiny, icu" in page
    assert not re.search(r"(src|href|url\()[=\"'( ]+https?:", page.replace("xmlns:xlink", ""))
    code, _, err = run_command(monkeypatch, capsys, tmp_path / "runs", "--csv", files[0])
    assert (code, "the output exists already" in err) == (2, True)


def test_several_folders_stand_in_one_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folders = [write_strengths(tmp_path / name) for name in ("one", "two")]
    (tmp_path / "other").mkdir()
    again = write_strengths(tmp_path / "other" / "one")
    page = tmp_path / "page.html"
    code, out, err = run_command(monkeypatch, capsys, *folders, "--out", page)
    assert (code, err) == (0, "")
    assert "28 measured before, 0 now" in out
    text = page.read_text("utf-8")
    assert ">one/rocr<" in text
    assert ">two/rocr<" in text
    assert "tiny, two/icu (2 runs without an edit of weights" in text
    assert not (folders[0] / "frontier.html").exists()
    for arguments, said in (
        ((), "several folders have no page of their own [--out]"),
        (("--out", page), "the output exists already"),
        (("--out", "p.html", "--methods", "rocr"), "--methods is about one folder"),
        (("--out", "p.html", "--choose", "95", "--chosen", "c.yaml"), "--chosen is about one folder"),
        ((again, "--out", "p.html"), "two folders are called one"),
    ):
        code, _, err = run_command(monkeypatch, capsys, *folders, *arguments)
        assert (code, said in err) == (2, True), err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--strengths", "0,1"], "0 is no strength to measure [--strengths]: give numbers above 0 and at most 4"),
        (["--strengths", "1,nan"], "nan is no strength to measure"),
        (["--strengths", "4.5"], "4.5 is no strength to measure"),
        (["--strengths", "1;2"], "'1;2' is not a list of numbers [--strengths]: e.g. 0.5,1,2"),
        (["--levels", "100"], "100 is no level of retention [--levels]: give percents between 0 and 100"),
        (["--levels", "nan"], "nan is no level of retention"),
        (["--methods", "rokr"], "unknown method 'rokr' [--methods]: did you mean rocr?"),
        (["--csv", "a.csv", "--curves", "a.csv"], "two outputs have the same path [a.csv]"),
        (["--csv", "runs/experiment.yaml"], "the output exists already [runs/experiment.yaml]"),
    ],
)
def test_bad_input_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], said: str
) -> None:
    write_strengths(tmp_path / "runs", targets=1)
    monkeypatch.chdir(tmp_path)
    code, _, err = run_command(monkeypatch, capsys, "runs", *options)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert said in err
    assert not (tmp_path / "runs" / "frontier.html").exists()


def test_a_folder_without_runs_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run_command(monkeypatch, capsys, tmp_path)
    assert code == 2
    assert "no experiment was started in this folder" in err
    assert not list(tmp_path.iterdir())


def test_the_command_s_strengths_are_the_package_s() -> None:
    import inspect

    from formless.cli.frontier import frontier_command

    default = inspect.signature(frontier_command).parameters["strengths"].default
    assert tuple(map(float, default.split(","))) == STRENGTHS


def test_rows_are_in_the_order_of_the_registry() -> None:
    keys = [forgetting_key("qa_mentions")._replace(group="alias"), forgetting_key("qa"), forgetting_key("fb"), FORGETTING]
    values: dict[MetricKey, float] = dict.fromkeys(keys, 0.5) | {RETENTION: 0.9}
    [found] = frontiers(Curves({Condition("m", "rocr"): {"1": Curve({1.0: values})}}), (0.9,))
    assert row_title(keys[0]) == "Question, alias"
    assert list(found.rows) == [FORGETTING, *sorted(keys[1:3], key=lambda key: key.task != "fb"), keys[0]]

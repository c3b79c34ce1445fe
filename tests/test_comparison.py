"""The comparison of all methods: its grid is fair and valid, and its pages follow from runs."""

from __future__ import annotations

from collections import Counter
from datetime import date
from pathlib import Path

import pytest

from formless.errors import DataError, UnknownNameError
from formless.methods.registry import METHODS, method_config
from formless.models.settings import settings_for
from formless.report.frontier import frontiers
from tests.report.made_runs import SPLITS, keep_run, made_record, made_run, write_plan
from tests.report.test_frontier import at_strength
from tools import comparison, comparison_grid, results
from tools.results import Cell, Column, Result

SMALL, LARGE = comparison_grid.CAMPAIGNS.values()
FORMS = ("statement", "qa", "reverse")
ROCR, GA = "rocr-layers_0-2-l2_10", "ga-lr_0.005-retain_kl"
TRIED: list[list[Cell]] = [
    ["rocr", "layers 0-2, l2 10", 71.2, 2, "chosen"],
    ["rocr", "layers 4-6, l2 1", 40.7, 2, None],
    ["ga", "lr 0.005, retain kl", 9.0, 2, "chosen"],
    ["npo", "lr 0.0007, beta 0.1", 3.0, 2, "chosen"],
    ["npo", "lr 0.002, beta 0.1", 2.0, 2, None],
]


def write_settings(folder: Path, rows: list[list[Cell]]) -> None:
    """Write a page of settings in the place of the committed one."""
    columns = [Column(name=name) for name in ("method", "settings", "forgetting", "concepts", "note")]
    page = Result(
        title="Settings", topic="Training methods", about="", date=date(2026, 1, 1), versions={}, hardware="", n="", command="",
        columns=columns, rows=rows,
    )  # fmt: skip
    results.write_result(folder / SMALL.settings.name, page)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(comparison_grid, "FOLDER", tmp_path)
    write_settings(tmp_path, TRIED)
    return tmp_path


def test_every_method_that_edits_weights_gets_six_valid_settings() -> None:
    grid = comparison_grid.tuning_grid(SMALL, "stats")
    tried = Counter(choice.method for choice in grid.methods if choice.method != "original")
    assert tried.keys() == {entry.name for entry in METHODS.values() if entry.edits_weights} - {"ga_passage", "original"}
    assert set(tried.values()) == {6}
    settings = settings_for("smollm2")
    configs = [(one.method, method_config(settings, one.method, one.settings)) for one in grid.methods[1:]]
    assert len({f"{method} {config.model_dump()}" for method, config in configs}) == len(configs)  # no setting twice
    rows = {getattr(config, "max_rows", None) for _, config in configs}
    assert rows == {None}  # each setting sees every row


def test_the_chosen_settings_are_compared_with_two_more_ways_of_rocr(tmp_path: Path) -> None:
    chosen = tmp_path / "chosen.yaml"
    keep = ("original", "rocr-layers_0-2-l2_1", "npo-lr_0.002-beta_0.1")
    grid = comparison_grid.tuning_grid(SMALL, "stats")
    methods = tuple(one for one in grid.methods if one.label in keep)
    chosen.write_text(grid.model_copy(update={"methods": methods, "targets": ("Paris",)}).as_yaml(), "utf-8")
    found = comparison_grid.others(SMALL, "stats", chosen)
    assert [one.label for one in found.methods] == [*keep, "rocr-published", "rocr-layers_0-2-l2_1-spelled", "cdr"]
    assert (found.targets, found.suite, found.limit) == (SMALL.targets, SMALL.suite, SMALL.limit)
    published, spelled, removal = (one.settings for one in found.methods[-3:])
    assert removal == {}  # the defaults
    assert published == {"redirect": "Donald Trump", "current_value": "bare", "basis": "stats"}
    assert spelled == {
        "redirect": "Donald Trump", "layers": [0, 1, 2], "l2": 1.0, "basis": "stats", "mentions": "spelled",
        "protect": "neighbors",
    }  # fmt: skip


def test_the_larger_model_has_fewer_methods_with_as_many_settings_each(tmp_path: Path) -> None:
    grid = comparison_grid.tuning_grid(LARGE, "stats")
    assert Counter(choice.method for choice in grid.methods[1:]) == dict.fromkeys(("ga", "npo", "rmu", "rt", "dpo"), 4)
    chosen = tmp_path / "chosen.yaml"
    chosen.write_text(grid.model_copy(update={"methods": grid.methods[:2]}).as_yaml(), "utf-8")
    found = comparison_grid.others(LARGE, "stats", chosen)
    ways = ["rocr", "rocr-published", "rocr-spelled", "rocr-spelled-no-null-space", "cdr"]
    assert [one.label for one in found.methods] == ["original", grid.methods[1].label, *ways]
    assert [one.settings["basis"] for one in found.methods[2:-1]] == ["stats", "stats", "stats", "none"]


def test_without_an_experiment_the_page_says_what_was_chosen(settings: Path) -> None:
    grid = {one.label: one for one in comparison_grid.tuning_grid(SMALL, "stats").methods}
    found = comparison_grid.others(SMALL, "stats")
    chosen = ["original", ROCR, GA, "npo-lr_0.0007-beta_0.1"]
    assert [one.label for one in found.methods] == [*chosen, "rocr-published", f"{ROCR}-spelled", "cdr"]
    assert list(found.methods[:4]) == [grid[label] for label in chosen]
    assert (found.models, found.targets) == (comparison_grid.tuning_grid(SMALL, "stats").models, SMALL.targets)


def test_some_trained_methods_can_be_left_out_and_no_other_one(settings: Path) -> None:
    found = comparison_grid.others(SMALL, "stats", names=["npo"])
    assert Counter(one.method for one in found.methods) == {"original": 1, "npo": 1, "rocr": 3, "cdr": 1}
    for name in ("nop", "rmu", "rocr"):  # misspelled, not tuned, not trained
        with pytest.raises(UnknownNameError, match=name):
            comparison_grid.others(SMALL, "stats", names=[name])


@pytest.mark.parametrize("said", ["lr 0.005, retain maybe", "lr 0.005", "", "retain kl, lr 0.005"])
def test_chosen_settings_that_are_none_of_the_grid_are_refused(settings: Path, said: str) -> None:
    write_settings(settings, [["ga", said, 9.0, 2, "chosen"]])
    with pytest.raises(DataError, match="method_settings.json, ga-"):
        comparison_grid.others(SMALL, "stats")


@pytest.mark.parametrize("campaign", [SMALL, LARGE], ids=lambda campaign: campaign.model)
def test_the_committed_pages_name_one_setting_of_each_method(campaign: comparison_grid.Campaign) -> None:
    found = comparison_grid.others(campaign, "stats")
    trained = Counter(one.method for one in found.methods if one.method in campaign.second)
    assert trained == dict.fromkeys(campaign.second, 1)


def test_a_label_is_what_its_row_says() -> None:
    for one in comparison_grid.tuning_grid(SMALL, "stats").methods[1:]:
        assert comparison_grid.label_of(*comparison_grid.row_of(one.label)) == one.label


def test_pages_rank_methods_by_what_they_forget_within_the_level(
    monkeypatch: pytest.MonkeyPatch, settings: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(comparison, "FOLDER", tmp_path)
    out, runs = tmp_path / "runs", []
    for target in ("1_A", "2_B"):
        original = made_run("original", target)
        before = made_record(original, {(form, split): 0.8 for form in FORMS for split in SPLITS})
        keep_run(out, original, before)
        runs.append(original)
        for label, trained in {ROCR: False, GA: True}.items():
            run = made_run(label, target, save_edit=True, method="ga" if trained else "rocr")
            folder = run.folder(out)
            folder.edit.mkdir(parents=True)
            (folder.edit / "edit.json").write_text("{}")
            share = 1.0 if trained else 0.5
            for strength in comparison_grid.STRENGTHS:
                record = at_strength(before, run, share * strength)
                record.edits[0] |= {"strength": strength, "seconds": 3.0}
                record.edits[0]["facts"] = {"steps": 7, "tokens": 900} if trained else {}
                if strength == 1:
                    keep_run(out, run, record)
                else:
                    record.save(folder.strength(strength))
            runs.append(run)
    write_plan(out, runs)
    curves = comparison.collect(out, comparison_grid.STRENGTHS)
    page = comparison.comparison_page(SMALL, frontiers(curves), curves, out)
    reach = comparison.reach_page(SMALL, frontiers(curves), curves)
    tried = comparison.settings_page(SMALL, out)
    assert {row[0]: row[1:5] for row in page.rows} == {ROCR: [2, None, None, 3.0], GA: [1, 7, 900, 3.0]}
    assert [row[5] for row in page.rows] == [50.0, 40.0]
    assert (tmp_path / "method_comparison.svg").read_text("utf-8").startswith("<svg")
    assert "Tuned, but not measured here: npo." in page.notes
    assert [column.name for column in reach.columns] == ["method", "Statement", "Question", "Reverse question"]
    assert reach.rows == [[GA, 50.0, 50.0, 50.0], [ROCR, 40.0, 40.0, 40.0]]  # two concepts have no interval
    assert [row[:2] for row in tried.rows] == [["rocr", "layers 0-2, l2 10"], ["ga", "lr 0.005, retain kl"]]
    for command in (*page.command, *reach.command):
        assert "chosen.yaml" not in command
    for name, result in {"page": page, "reach": reach, "tried": tried}.items():
        results.write_result(tmp_path / f"{name}.json", result)
    assert results.load_results(tmp_path).keys() == {"page", "reach", "tried", SMALL.settings.stem}

"""The comparison of all methods: its grid is fair and valid, and its pages follow from runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from formless.methods.registry import METHODS, method_config
from formless.models.settings import settings_for
from formless.report.frontier import collect_curves, frontiers
from tests.report.made_runs import SPLITS, keep_run, made_record, made_run, write_plan
from tests.report.test_frontier import at_strength
from tools import comparison, results
from tools.results import Estimate

SMALL, LARGE = comparison.CAMPAIGNS.values()
ROCR, GA = "rocr-layers_0-2-l2_10", "ga-lr_0.005-retain_weight_1"


def test_every_method_that_edits_weights_gets_six_valid_settings() -> None:
    grid = comparison.tuning_grid(SMALL, "stats")
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
    grid = comparison.tuning_grid(SMALL, "stats")
    methods = tuple(one for one in grid.methods if one.label in keep)
    chosen.write_text(grid.model_copy(update={"methods": methods, "targets": ("Paris",)}).as_yaml(), "utf-8")
    found = comparison.others(SMALL, "stats", chosen)
    assert [one.label for one in found.methods] == [*keep, "rocr-published", "rocr-layers_0-2-l2_1-spelled"]
    assert (found.targets, found.suite, found.limit) == (SMALL.targets, SMALL.suite, SMALL.limit)
    published, spelled = (one.settings for one in found.methods[-2:])
    assert published == {"current_value": "bare", "basis": "stats"}
    assert spelled == {
        "layers": [0, 1, 2], "l2": 1.0, "basis": "stats", "mentions": "spelled", "protect": "neighbors",
    }  # fmt: skip


def test_the_larger_model_has_fewer_methods_with_as_many_settings_each(tmp_path: Path) -> None:
    grid = comparison.tuning_grid(LARGE, "stats")
    assert Counter(choice.method for choice in grid.methods[1:]) == dict.fromkeys(("ga", "npo", "rmu", "rt", "dpo"), 4)
    chosen = tmp_path / "chosen.yaml"
    chosen.write_text(grid.model_copy(update={"methods": grid.methods[:2]}).as_yaml(), "utf-8")
    found = comparison.others(LARGE, "stats", chosen)
    ways = ["rocr", "rocr-published", "rocr-spelled", "rocr-spelled-no-null-space"]
    assert [one.label for one in found.methods] == ["original", grid.methods[1].label, *ways]
    assert [one.settings["basis"] for one in found.methods[2:]] == ["stats", "stats", "stats", "none"]


def test_pages_rank_methods_by_what_they_forget_within_the_level(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(comparison, "FOLDER", tmp_path)
    out, runs = tmp_path / "runs", []
    for target in ("1_A", "2_B"):
        original = made_run("original", target)
        before = made_record(original, {(form, split): 0.8 for form in ("statement", "qa") for split in SPLITS})
        keep_run(out, original, before)
        runs.append(original)
        for label, trained in {ROCR: False, GA: True}.items():
            run = made_run(label, target, save_edit=True)
            folder = run.folder(out)
            folder.edit.mkdir(parents=True)
            (folder.edit / "edit.json").write_text("{}")
            share = 1.0 if trained else 0.5
            for strength in comparison.STRENGTHS:
                record = at_strength(before, run, share * strength)
                record.edits[0] |= {"strength": strength, "seconds": 3.0}
                record.edits[0]["facts"] = {"steps": 7, "tokens": 900} if trained else {}
                if strength == 1:
                    keep_run(out, run, record)
                else:
                    record.save(folder.strength(strength))
            runs.append(run)
    write_plan(out, runs)
    curves = collect_curves(out, comparison.STRENGTHS)
    page = comparison.comparison_page(SMALL, frontiers(curves), curves, out)
    reach = comparison.reach_page(SMALL, frontiers(curves), curves)
    settings = comparison.settings_page(SMALL, out)
    assert {row[0]: row[1:4] for row in page.rows} == {ROCR: [None, None, 3.0], GA: [7, 900, 3.0]}
    within = [row[4] for row in page.rows]
    assert within == sorted(within, reverse=True)  # type: ignore[type-var]
    assert (tmp_path / "method_comparison.svg").read_text("utf-8").startswith("<svg")
    assert [column.name for column in reach.columns] == ["method", "Statement", "Question"]
    assert not any(isinstance(value, Estimate) for row in reach.rows for value in row)  # two concepts have no interval
    assert [row[:2] for row in settings.rows] == [["rocr", "layers 0-2, l2 10"], ["ga", "lr 0.005, retain_weight 1"]]
    for name, result in {"page": page, "reach": reach, "settings": settings}.items():
        results.write_result(tmp_path / f"{name}.json", result)
    assert results.load_results(tmp_path).keys() == {"page", "reach", "settings"}

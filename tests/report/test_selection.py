"""Settings are chosen by one rule, on targets that the chosen ones are not reported on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from formless.cli.main import main
from formless.errors import DataError, UserError
from formless.experiment.config import build_experiment
from formless.report.frontier import Curve, Curves, forgetting_within
from formless.report.ratios import FORGETTING, RETENTION
from formless.report.runs import Condition
from formless.report.selection import choice_table, choose
from tests.report.test_frontier import write_strengths


def curve(*points: tuple[float, float]) -> Curve:
    """Retention and forgetting at strengths 1, 2, ..."""
    return Curve({float(u): {RETENTION: r, FORGETTING: f} for u, (r, f) in enumerate(points, 1)})


def curves(settings: Mapping[str, Mapping[str, Curve]], model: str = "m") -> Curves:
    """Settings of methods, called like `npo-1`."""
    found = Curves({Condition(model, label): dict(targets) for label, targets in settings.items()})
    found.methods = {condition: condition.method.partition("-")[0] for condition in found.targets}
    return found


def test_the_largest_forgetting_within_a_level_by_hand() -> None:
    assert forgetting_within([(1.0, 0.0)], 0.95) == 0
    assert forgetting_within([(1.0, 0.0), (0.99, 0.8)], 0.95) == 0.8  # it stays above the level
    assert forgetting_within([(1.0, 0.0), (0.9, 0.8)], 0.95) == pytest.approx(0.4)


def test_the_rule_by_hand() -> None:
    found = curves({
        "npo-1": {"1": curve((0.99, 0.2)), "2": curve((0.99, 0.4))},  # 0.3, never down to the level
        "npo-2": {"1": curve((0.90, 0.8)), "2": curve((0.90, 0.2))},  # 0.4 and 0.1
        "npo-3": {"1": curve((0.95, 0.5)), "2": curve((0.85, 0.9))},  # 0.5 and 0.3
        "npo-4": {"1": curve((0.99, 0.9))},  # lacks a target
        "ga-1": {"1": curve((0.5, 0.1)), "2": curve((0.5, -0.1))},
    })  # fmt: skip
    npo, ga = choose(found, 0.95)
    assert (npo.method, npo.label, npo.settings, npo.incomplete) == ("npo", "npo-3", 3, ("npo-4",))
    assert npo.forgetting.value == pytest.approx(0.4)
    assert (ga.label, ga.settings) == ("ga-1", 1)
    assert choose(found, 0.98)[0].label == "npo-1"
    table = choice_table([npo, ga], 0.95)
    assert table.title == "chosen at 95 % retention"
    assert table.rows[0] == ("npo", "npo-3", "0.400", "each: 0.500, 0.300", "3")
    assert table.note == "npo: npo-4 without some target"


def test_equal_settings_give_the_first() -> None:
    same = {"1": curve((0.9, 0.5))}
    assert [one.label for one in choose(curves({"npo-1": same, "npo-2": same}), 0.95)] == ["npo-1"]


def test_what_cannot_be_chosen_is_an_error() -> None:
    one, other = {"1": curve((0.9, 0.5))}, {"2": curve((0.9, 0.5))}
    with pytest.raises(DataError, match="no setting has a curve for every target"):
        choose(curves({"npo-1": one, "npo-2": other}), 0.95)
    both = curves({"npo-1": one})
    both.targets |= curves({"npo-1": one}, "n").targets
    with pytest.raises(UserError, match="settings are chosen for one model"):
        choose(both, 0.95)


def test_the_chosen_experiment_is_on_other_targets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_strengths(tmp_path / "runs")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["formless", "frontier", str(tmp_path / "runs"), *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(str(stopped.value.code or 0)), captured.out, captured.err

    chosen = tmp_path / "chosen.yaml"
    code, out, err = run("--choose", "95", "--chosen", str(chosen))
    assert (code, err) == (0, "")
    assert "chosen at 95 % retention" in out
    keys = yaml.safe_load(chosen.read_text("utf-8"))
    assert [entry["label"] for entry in keys["methods"]] == ["original", "rocr", "icu"]
    assert build_experiment(keys, "a test").name == "runs-chosen"
    assert len(keys["targets"]) == 12  # of the sample set; the made-up targets are not in it
    for options, said in (
        (("--chosen", str(tmp_path / "other.yaml")), "nothing is chosen [--chosen]: give --choose too"),
        (("--choose", "0"), "0 is no level of retention [--choose]"),
        (("--choose", "95", "--chosen", str(chosen)), "the output exists already"),
    ):
        code, _, err = run(*options)
        assert (code, said in err) == (2, True), err

"""The pages about settings of ROCR, in numbers worked out by hand."""

from __future__ import annotations

import pytest

from formless.experiment.tune import windows
from formless.models.settings import model_settings
from formless.report.runs import Condition, RunMetrics
from formless.report.tuning import Tried
from tests.experiment.conftest import made_ratios
from tools import settings_sweeps, tuning
from tools.results import Estimate, load_results


def run(target: str, forget: dict[str, float], neighbor: dict[str, float], method: str = "rocr") -> RunMetrics:
    return RunMetrics(Condition("model", method), target, None, False, (), {}, {}, made_ratios(forget, neighbor), 0)


def test_rows_by_form_and_the_means() -> None:
    runs = [
        run("1_A", {"statement": 0.2, "qa": 0.6}, {"statement": 1.2, "qa": 0.8}),
        run("2_B", {"statement": 0.4}, {"qa": 1.0}),
    ]
    assert settings_sweeps.rows("none", runs) == [
        ["none", "Statement", 2, 71.7, 120.0],  # 1 - (0.2 * 0.4) ** 0.5
        ["none", "Question", 1, 40.0, 89.4],  # (0.8 * 1) ** 0.5
        ["none", settings_sweeps.ALL_FORMS, 2, 60.0, 95.0],  # ((0.8 + 0.4) / 2 + 0.6) / 2; ((1 + 0.8) / 2 + 1) / 2
    ]
    assert settings_sweeps.means(runs) == pytest.approx((0.6, 0.95))


def test_five_concepts_have_an_interval() -> None:
    runs = [run(f"{n}_A", {"qa": 0.1 * n}, {"qa": 1.0}) for n in range(1, 6)]
    (_, _, n, forgetting, retention), _ = settings_sweeps.rows("none", runs)
    assert n == 5
    assert isinstance(forgetting, Estimate)
    assert forgetting.value == 73.9  # 1 - (0.1 * 0.2 * 0.3 * 0.4 * 0.5) ** 0.2
    assert forgetting.ci[0] < 73.9 < forgetting.ci[1]
    assert isinstance(retention, Estimate)
    assert retention.ci == (100, 100)


def test_the_page_of_a_sweep() -> None:
    tried = [
        Tried("rocr", (0, 1, 2), 0.1, 0.5, 0.96, 2),
        Tried("rocr", (0, 1, 2), 1.0, 0.25, 1.0, 2),
        Tried("rocr", (1, 2, 3), 0.1, None, None, 0, "0 of 2 concepts are measured"),
    ]
    evidence = {"concepts": ["A", "B"], "suite": "qa", "limit": 3, "command": "formless tune", "dtype": "float32"}
    page = tuning.sweep_page(tuning.MODELS["smollm2"], tried, evidence)
    assert page.rows == [
        ["0-2", 0.1, 50.0, 96.0, 65.8, "chosen"],
        ["0-2", 1.0, 25.0, 100.0, 40.0, None],
        ["1-3", 0.1, None, None, None, "0 of 2 concepts are measured"],
    ]
    assert "2 development concepts (A, B), suite qa, at most 3 items" in page.n
    assert "The chosen l2 is at the edge of those tried (0.1, 1)." in page.notes
    assert page.notes[-1].startswith("Not measured: the windows 2-4, 3-5,")
    whole = [Tried("rocr", layers, 1.0, 0.5, 0.96, 2) for layers in windows(28, 3, range(12))]
    notes = tuning.sweep_page(tuning.MODELS["qwen2.5-coder-1.5b"], whole, evidence).notes
    assert not any("edge" in note or "Not measured" in note for note in notes)


def test_the_evidence_of_the_second_bundled_model_is_that_of_its_page() -> None:
    evidence = model_settings()["qwen2.5-coder-1.5b"].evidence
    page = load_results()["coder_null_spaces"]
    means = [row for row in page.rows if row[1] == settings_sweeps.ALL_FORMS]
    found = [[title, forgetting.value, retention.value] for title, _, _, forgetting, retention in means]  # type: ignore[union-attr]
    assert evidence["rows"] == found
    assert evidence["commands"] == page.command
    assert evidence["page"] == "docs/results/coder_null_spaces.json"

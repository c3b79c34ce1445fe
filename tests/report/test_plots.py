"""Plots of an experiment."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from formless.evaluation.statistics import Estimate
from formless.report import plots as plots_module
from formless.report.frontier import Frontier
from formless.report.plots import (
    TrainingCurves,
    curves_plot,
    form_colors,
    forms_plot,
    frontier_plot,
    gap_plot,
    pareto_front,
    scatter_plot,
)
from formless.report.runs import Condition, collect
from formless.report.summary import summarize
from tests.report.made_runs import made_run, write_plan, write_runs


def test_the_pareto_front_by_hand() -> None:
    points = [(0.5, 0.9), (0.9, 0.5), (0.4, 0.8), (0.9, 0.4), (0.7, 0.7), (0.5, 0.9)]
    assert [points[i] for i in pareto_front(points)] == [(0.5, 0.9), (0.7, 0.7), (0.9, 0.5)]
    assert pareto_front([(0.1, 0.1)]) == [0]


def test_plots_show_every_method_in_the_page_s_colors(tmp_path: Path) -> None:
    write_runs(tmp_path, ("original", "rocr", "ga"), targets=3)
    summaries = summarize(collect([tmp_path]))
    plots = [forms_plot(summaries), gap_plot(summaries), scatter_plot(summaries)]
    for plot in plots:
        assert plot is not None
        assert plot.startswith("<svg")
        assert ">rocr<" in plot
        assert ">ga<" in plot
        assert ">original<" not in plot
        assert "currentColor" in plot
    assert plots[0] is not None
    assert "var(--form-1)" in plots[0]
    assert "#0f000f" not in plots[0]
    assert "var(--form-4)" not in plots[0]  # no multiple choice was asked


@pytest.mark.parametrize("count", [1, 6, 20])
def test_every_form_has_its_own_color(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(plots_module, "forms", lambda: dict.fromkeys(map(str, range(count))))
    colors = form_colors()
    assert len(colors) == count
    assert len({color for pair in colors for color in pair}) == 2 * count
    assert colors[:6] == list(plots_module.PALETTE[:count])


def test_without_metrics_there_is_no_plot(tmp_path: Path) -> None:
    write_plan(tmp_path, [made_run("rocr", "1_Ada")])
    summaries = summarize(collect([tmp_path]))
    assert forms_plot(summaries) is gap_plot(summaries) is scatter_plot(summaries) is curves_plot(TrainingCurves()) is None


def test_training_runs_of_different_lengths_are_averaged_over_their_course() -> None:
    curves = TrainingCurves()
    curves.add({"losses": [4.0, 2.0], "probabilities": {"step": [0, 10], "forget": [1.0, 0.0], "retain": [1.0, 1.0]}})
    curves.add({"losses": [2.0, 1.5, 1.0, 0.5, 0.0]})
    curves.add({})  # a method without training
    assert [len(curves.losses), len(curves.forget), len(curves.retain)] == [2, 1, 1]
    middle = len(curves.losses[0]) // 2
    assert np.mean(curves.losses, axis=0)[[0, middle, -1]] == pytest.approx([3.0, 2.0, 1.0])
    assert curves.forget[0][middle] == pytest.approx(0.5)
    plot = curves_plot(curves)
    assert plot is not None
    assert "share of training" in plot


def test_many_methods_leave_room_for_their_curves() -> None:
    point = Estimate(0.5, None, 1)
    every = [Frontier(Condition("m", f"method {n}"), ("a",), {}, {1.0: (point, point)}, None, None, "") for n in range(90)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns where a legend takes all the room
        few, many = frontier_plot(every[:2]), frontier_plot(every)
    heights = [float(re.search(r'height="([\d.]+)pt"', plot)[1]) for plot in (few or "", many or "")]  # type: ignore[index]
    assert heights[1] > heights[0] + 40 * 10  # 45 rows of names

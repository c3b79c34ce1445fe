"""Charts of an experiment."""

from pathlib import Path

import numpy as np
import pytest

from formless.report.charts import Curves, curves_chart, forms_chart, gap_chart, pareto_front, scatter_chart
from formless.report.means import method_means
from formless.report.runs import gather
from tests.report.made_runs import made_run, write_plan, write_runs


def test_the_pareto_front_by_hand() -> None:
    points = [(0.5, 0.9), (0.9, 0.5), (0.4, 0.8), (0.9, 0.4), (0.7, 0.7), (0.5, 0.9)]
    assert [points[i] for i in pareto_front(points)] == [(0.5, 0.9), (0.7, 0.7), (0.9, 0.5)]
    assert pareto_front([(0.1, 0.1)]) == [0]


def test_charts_show_every_method_in_the_page_s_colours(tmp_path: Path) -> None:
    write_runs(tmp_path, ("original", "rocr", "ga"), targets=3)
    rows = method_means(gather([tmp_path]))
    charts = [forms_chart(rows), gap_chart(rows), scatter_chart(rows)]
    for chart in charts:
        assert chart is not None
        assert chart.startswith("<svg")
        assert ">rocr<" in chart
        assert ">ga<" in chart
        assert ">original<" not in chart
        assert "currentColor" in chart
    assert charts[0] is not None
    assert "var(--form-1)" in charts[0]
    assert "#010f01" not in charts[0]
    assert "var(--form-4)" not in charts[0]  # no multiple choice was asked


def test_without_figures_there_is_no_chart(tmp_path: Path) -> None:
    write_plan(tmp_path, [made_run("rocr", "1_Ada")])
    rows = method_means(gather([tmp_path]))
    assert forms_chart(rows) is gap_chart(rows) is scatter_chart(rows) is curves_chart(Curves()) is None


def test_trainings_of_different_lengths_are_averaged_over_their_course() -> None:
    curves = Curves()
    curves.add({"losses": [4.0, 2.0], "probabilities": {"step": [0, 10], "forget": [1.0, 0.0], "retain": [1.0, 1.0]}})
    curves.add({"losses": [2.0, 1.5, 1.0, 0.5, 0.0]})
    curves.add({})  # a method without training
    assert [len(curves.losses), len(curves.forget), len(curves.retain)] == [2, 1, 1]
    middle = len(curves.losses[0]) // 2
    assert np.mean(curves.losses, axis=0)[[0, middle, -1]] == pytest.approx([3.0, 2.0, 1.0])
    assert curves.forget[0][middle] == pytest.approx(0.5)
    chart = curves_chart(curves)
    assert chart is not None
    assert "share of training" in chart

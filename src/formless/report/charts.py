"""Charts of a whole experiment, as SVG text in the page's colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from formless.evaluation.forms import FORMS
from formless.report.independence import COUNTED
from formless.report.means import Mean, MethodMeans
from formless.report.plots import EDITED, INK, ORIGINAL, svg
from formless.report.runs import FORGETTING, GAP, RETENTION

MARKS = {f"#0{number}0f0{number}": f"var(--form-{number})" for number in range(1, len(COUNTED) + 1)}
"""Colours that stand for those of the page's style sheet, one a form."""

_WIDTH, _BAR = 5.2, 0.15  # inches: a chart, one bar
_STEPS = 25


def forms_chart(rows: Sequence[MethodMeans]) -> str | None:
    """Forgetting by form, a group of bars for each method, with 95 % intervals over targets.

    Returns:
        Nothing where no method has such a figure.
    """
    forms = [form for form in COUNTED if any(f"{FORGETTING}_{form}" in row.means for row in rows)]
    rows = [row for row in rows if any(f"{FORGETTING}_{form}" in row.means for form in forms)]
    if not rows:
        return None
    step = len(forms) + 1.5  # a gap between groups
    figure, axes = _bars(_BAR * step * len(rows))
    for number, form in enumerate(forms):
        places = [index * step + number for index in range(len(rows))]
        means = [row.means.get(f"{FORGETTING}_{form}") for row in rows]
        _draw(axes, places, means, list(MARKS)[COUNTED.index(form)], FORMS[form].title)
    axes.set_yticks([index * step + (len(forms) - 1) / 2 for index in range(len(rows))], [row.group.method for row in rows])
    axes.set_ylim(len(rows) * step - 1.5, -1.0)
    axes.set_xlabel("forgetting, 1 − edited / original (95 % interval over targets)")
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside upper left", ncols=2, labelcolor=INK)
    return svg(figure, MARKS)


def gap_chart(rows: Sequence[MethodMeans]) -> str | None:
    """The form gap of each method, with 95 % intervals over targets; nothing where no method has one."""
    rows = [row for row in rows if GAP in row.means]
    if not rows:
        return None
    figure, axes = _bars(1.7 * _BAR * len(rows))
    _draw(axes, list(range(len(rows))), [row.means[GAP] for row in rows], ORIGINAL, "", height=0.6)
    axes.set_yticks(range(len(rows)), [row.group.method for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("form gap (95 % interval over targets)")
    return svg(figure)


def _bars(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height + 1.2), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color=INK, linewidth=0.8)
    return figure, axes


def _draw(
    axes: Axes, places: Sequence[float], means: Sequence[Mean | None], colour: str, label: str, *, height: float = 0.86
) -> None:
    """Bars with intervals, none where a method lacks the figure."""
    known = [(place, mean) for place, mean in zip(places, means, strict=True) if mean]
    axes.barh([place for place, _ in known], [mean.value for _, mean in known], height=height, color=colour, label=label)
    sure = [(place, mean.value, mean.interval) for place, mean in known if mean.interval]
    if sure:
        errors = _errors([(value, bounds) for _, value, bounds in sure])
        axes.errorbar([value for _, value, _ in sure], [place for place, _, _ in sure], xerr=errors, **_WHISKERS)


_WHISKERS: dict[str, Any] = {"fmt": "none", "ecolor": INK, "elinewidth": 0.7, "alpha": 0.75}


def _errors(known: Sequence[tuple[float, tuple[float, float]]]) -> NDArray[np.float64]:
    """`[2, figures]`: how far an interval reaches below and above its mean."""
    return np.asarray([(abs(value - low), abs(high - value)) for value, (low, high) in known]).T


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The points that no other beats in both coordinates, from left to right."""
    best, front = -np.inf, []
    for index in sorted(range(len(points)), key=lambda index: (-points[index][0], -points[index][1])):
        if points[index][1] > best:
            best = points[index][1]
            front.append(index)
    return front[::-1]


def scatter_chart(rows: Sequence[MethodMeans]) -> str | None:
    """Forgetting against retention, each the mean over forms and targets, with the Pareto front; nothing without both."""
    rows = [row for row in rows if FORGETTING in row.means and RETENTION in row.means]
    if not rows:
        return None
    across, up = ([row.means[name] for row in rows] for name in (RETENTION, FORGETTING))
    points = [(x.value, y.value) for x, y in zip(across, up, strict=True)]
    front = pareto_front(points)
    figure = Figure(figsize=(_WIDTH, 3.9), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([points[i][0] for i in front], [points[i][1] for i in front], color=EDITED, linewidth=1, linestyle="--")
    for index, (x, y) in enumerate(points):
        on_front = index in front
        for mean, direction in ((across[index], "xerr"), (up[index], "yerr")):
            if mean.interval:
                errors: dict[str, Any] = {direction: _errors([(mean.value, mean.interval)]), "alpha": 0.35}
                axes.errorbar([x], [y], **_WHISKERS | errors)
        axes.plot(x, y, marker="o", markersize=6, color=EDITED if on_front else ORIGINAL, zorder=3)
    _name(axes, points, [row.group.method for row in rows])
    axes.margins(0.12)
    axes.set_xlabel("retention of neighbors, mean over forms")
    axes.set_ylabel("forgetting, mean over forms")
    handles = [Line2D([], [], color=EDITED, marker="o", linestyle="--", label="on the Pareto front"),
               Line2D([], [], color=ORIGINAL, marker="o", linestyle="", label="another is better in both")]  # fmt: skip
    shown = handles if len(front) < len(rows) else handles[:1]
    figure.legend(handles=shown, frameon=False, loc="outside upper left", ncols=2, labelcolor=INK)
    return svg(figure)


def _name(axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """Names beside the points; of points that lie close, further up, so that all can be read."""
    span = [max(np.ptp([point[axis] for point in points]), 1e-9) for axis in (0, 1)]
    taken: list[tuple[float, float]] = []
    for (x, y), name in sorted(zip(points, names, strict=True), key=lambda pair: pair[0][1]):
        place = (x / span[0], y / span[1])
        while any(abs(place[0] - other[0]) < 0.2 and abs(place[1] - other[1]) < 0.05 for other in taken):
            place = (place[0], place[1] + 0.05)
        taken.append(place)
        axes.annotate(name, (x, place[1] * span[1]), (7, 4), textcoords="offset points", color=INK)


@dataclass
class Curves:
    """How a method's trainings went, over targets: every curve on the same share of its steps.

    Args:
        losses: `[_STEPS]` each.
        forget: Probability of a token of texts about the concept.
        retain: Of other texts.
    """

    losses: list[NDArray[np.float64]] = field(default_factory=list)
    forget: list[NDArray[np.float64]] = field(default_factory=list)
    retain: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, facts: Mapping[str, Any]) -> None:
        """Take in one edit's facts, if it was trained."""
        losses, curves = facts.get("losses"), facts.get("probabilities", {})
        if losses:
            self.losses.append(_resampled(np.linspace(0, 1, len(losses)), losses))
        if steps := curves.get("step"):
            shares = np.asarray(steps) / max(*steps, 1)
            for name, kept in (("forget", self.forget), ("retain", self.retain)):
                if name in curves:
                    kept.append(_resampled(shares, curves[name]))


def _resampled(shares: NDArray[np.float64], values: Sequence[float]) -> NDArray[np.float64]:
    return np.asarray(np.interp(np.linspace(0, 1, _STEPS), shares, np.asarray(values, dtype=float)))


def curves_chart(curves: Curves) -> str | None:
    """Loss, and probabilities of texts, over the course of training: mean and middle 80 % over targets."""
    if not curves.losses:
        return None
    figure = Figure(figsize=(_WIDTH, 2.4), layout="constrained")
    loss, *others = figure.subplots(1, 2 if curves.forget else 1, squeeze=False)[0]
    _band(loss, curves.losses, EDITED, "")
    loss.set_ylabel("loss")
    for axes in others:
        _band(axes, curves.forget, EDITED, "the concept")
        _band(axes, curves.retain, ORIGINAL, "others")
        axes.set_ylim(bottom=0)
        axes.set_ylabel("probability of a token")
        axes.legend(frameon=False, labelcolor=INK)
    for axes in (loss, *others):
        axes.set_xlabel("share of training")
    return svg(figure)


def _band(axes: Axes, values: Sequence[NDArray[np.float64]], colour: str, label: str) -> None:
    if not values:
        return
    shares, table = np.linspace(0, 1, _STEPS), np.asarray(values)  # [targets, steps]
    axes.plot(shares, table.mean(0), color=colour, label=label, linewidth=1.5)
    low, high = np.percentile(table, [10, 90], axis=0)
    axes.fill_between(shares, low, high, color=colour, alpha=0.2, linewidth=0)

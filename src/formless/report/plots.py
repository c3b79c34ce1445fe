"""Plots as SVG text that follows the colors of the page: of one edit, and of a whole experiment."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from formless.evaluation.registry import TASKS
from formless.evaluation.statistics import CI, Estimate, Metric
from formless.evaluation.tasks.inside import LAYER
from formless.report.comparison import Change
from formless.report.mentions import MentionMap, short_title
from formless.report.ratios import FORGETTING, FORM_GAP, RETENTION, forgetting_key, forms
from formless.report.summary import MethodSummary
from formless.report.tables import is_headline, metric_spec, metric_title, task_title

if TYPE_CHECKING:
    from formless.report.frontier import Frontier  # it loads models, which pages need not

INK = "#123456"  # stands for the page's text color
ORIGINAL, EDITED = "#8a94a6", "#d1495b"
PALETTE = (
    ("#33608f", "#7ba7d8"), ("#c0683d", "#e39a72"), ("#5c8a57", "#92c18c"), ("#82609f", "#b799d3"), ("#b3902f", "#d9b960"),
    ("#3f959d", "#74c3ca"),
)  # fmt: skip
"""Colors of the first forms, on light and on dark pages."""

_GOLDEN_ANGLE = 137.508  # degrees between the hues of further forms
_WIDTH, _BAR = 5.2, 0.15  # inches: a plot, one bar
_LEGEND_COLUMNS = 2  # of the plot of strengths
_CELL = 0.86, 0.5  # inches: a cell of a heat map
_STEPS = 25


def form_colors() -> list[tuple[str, str]]:
    """Return the colors of every form, on light and on dark pages, in the order of the registry."""
    count = len(forms())
    hues = [round(index * _GOLDEN_ANGLE % 360) for index in range(count)]
    further = [(f"hsl({hue} 45% 40%)", f"hsl({hue} 45% 68%)") for hue in hues]
    return [*PALETTE[:count], *further[len(PALETTE) :]]


def split_plot(changes: Sequence[Change]) -> str | None:
    """Return bars of what is known, original beside edited, with 95 % confidence intervals over items.

    Args:
        changes: Of one split; metrics in [0, 1] of which a higher value means more knowledge or ability are drawn.

    Returns:
        None where there is no such metric.
    """
    rows = [change for change in changes if _is_drawn(change)]
    if not rows:
        return None
    figure = Figure(figsize=(7.2, 0.62 * len(rows) + 0.9))
    axes = figure.add_subplot()
    for offset, color, label in ((-0.2, ORIGINAL, "original"), (0.2, EDITED, "edited")):
        metrics = [change.original if label == "original" else change.edited for change in rows]
        places = [index + offset for index in range(len(rows))]
        axes.barh(places, [metric.value or 0.0 for metric in metrics], height=0.38, color=color, label=label)
        _whiskers(axes, places, metrics, linewidth=0.8, capsize=2)
    axes.set_yticks(range(len(rows)), [metric_title(change.key, short=True) for change in rows])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("mean probability or share (95 % CI over items)")
    axes.legend(frameon=False, loc="lower right", labelcolor=INK)
    return svg(figure)


def _is_drawn(change: Change) -> bool:
    spec = metric_spec(change.key)
    if spec is None or change.relative is None or not is_headline(change.key._replace(group=None)):
        return False
    task = TASKS.get(change.key.task or "")
    if task and task.grouped_by == LAYER:  # dozens of groups, which have a plot of their own
        return False
    return bool(spec.higher_is_better) and spec.unit in ("probability", "share")


def training_plot(facts: Mapping[str, Any]) -> str | None:
    """Return loss by step, and the probability of texts about the concept and about others.

    Args:
        facts: Of an edit, as edit.json has them.

    Returns:
        None where the edit was not trained.
    """
    losses, curves = facts.get("losses"), facts.get("probabilities", {})
    if not losses:
        return None
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    loss, *others = figure.subplots(1, 2 if curves.get("step") else 1, squeeze=False)[0]
    spread = max(len(losses) - 1, 1)
    steps = [1 + i * (facts["steps"] - 1) // spread for i in range(len(losses))]
    loss.plot(steps, losses, color=EDITED, marker=".", markersize=3)
    loss.set_ylabel("loss")
    for axes in others:
        for name, color, label in (("forget", EDITED, "the concept"), ("retain", ORIGINAL, "others")):
            if name in curves:
                axes.plot(curves["step"], curves[name], color=color, label=label, marker=".", markersize=3)
        _label_probability(axes)
    for axes in (loss, *others):
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return svg(figure)


def forms_plot(summaries: Sequence[MethodSummary]) -> str | None:
    """Return forgetting by form, a group of bars for each method, with 95 % confidence intervals over targets.

    Returns:
        None where no method has a form.
    """
    drawn = [(index, form) for index, form in enumerate(forms()) if any(forgetting_key(form) in s.metrics for s in summaries)]
    rows = [summary for summary in summaries if any(forgetting_key(form) in summary.metrics for _, form in drawn)]
    if not rows:
        return None
    step = len(drawn) + 1.5  # a gap between groups
    figure, axes = _bars(_BAR * step * len(rows))
    for place, (index, form) in enumerate(drawn):
        found = [summary.metrics.get(forgetting_key(form)) for summary in rows]
        estimates = [(number * step + place, one.value) for number, one in enumerate(found) if one]
        _draw(axes, estimates, _placeholder(index), task_title(form))
    axes.set_yticks([index * step + (len(drawn) - 1) / 2 for index in range(len(rows))], _methods(rows))
    axes.set_ylim(len(rows) * step - 1.5, -1.0)
    axes.set_xlabel("forgetting, 1 − edited / original (95 % CI over targets)")
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside upper left", ncols=2, labelcolor=INK)
    return svg(figure, {_placeholder(index): f"var(--form-{index + 1})" for index, _ in drawn})


def _placeholder(index: int) -> str:
    """Return the color that stands for a form's color in the page's style sheet."""
    return f"#0f{index:02x}0f"


def gap_plot(summaries: Sequence[MethodSummary]) -> str | None:
    """Return the form gap of each method, with 95 % confidence intervals over targets; None without any."""
    rows = [summary for summary in summaries if FORM_GAP in summary.metrics]
    if not rows:
        return None
    figure, axes = _bars(1.7 * _BAR * len(rows))
    estimates = [(float(index), summary.metrics[FORM_GAP].value) for index, summary in enumerate(rows)]
    _draw(axes, estimates, ORIGINAL, "", height=0.6)
    axes.set_yticks(range(len(rows)), _methods(rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("form gap (95 % CI over targets)")
    return svg(figure)


def scatter_plot(summaries: Sequence[MethodSummary]) -> str | None:
    """Return forgetting against retention, each the mean over forms and targets, with the Pareto front; None without both."""
    rows = [summary for summary in summaries if FORGETTING in summary.metrics and RETENTION in summary.metrics]
    if not rows:
        return None
    across, up = ([summary.metrics[key].value for summary in rows] for key in (RETENTION, FORGETTING))
    points = [(x.value, y.value) for x, y in zip(across, up, strict=True)]
    front = pareto_front(points)
    figure = Figure(figsize=(_WIDTH, 3.9), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([points[i][0] for i in front], [points[i][1] for i in front], color=EDITED, linewidth=1, linestyle="--")
    for index, (x, y) in enumerate(points):
        _whiskers(axes, [y], [across[index]], alpha=0.35)
        _whiskers(axes, [x], [up[index]], vertical=True, alpha=0.35)
        axes.plot(x, y, marker="o", markersize=6, color=EDITED if index in front else ORIGINAL, zorder=3)
    _label_points(axes, points, _methods(rows))
    axes.margins(0.12)
    axes.set_xlabel("retention of neighbors, mean over forms")
    axes.set_ylabel("forgetting, mean over forms")
    handles = [Line2D([], [], color=EDITED, marker="o", linestyle="--", label="on the Pareto front"),
               Line2D([], [], color=ORIGINAL, marker="o", linestyle="", label="another is better in both")]  # fmt: skip
    shown = handles if len(front) < len(rows) else handles[:1]
    figure.legend(handles=shown, frameon=False, loc="outside upper left", ncols=2, labelcolor=INK)
    return svg(figure)


def frontier_plot(found: Sequence[Frontier], levels: Sequence[float] = ()) -> str | None:
    """Return the mean forgetting of each method against its mean retention, a point for each strength, from the original on.

    Args:
        found: Of one model.
        levels: Levels of retention, drawn as lines.

    Returns:
        None where no method has a strength that all of its targets have.
    """
    drawn = [one for one in found if one.curve]
    if not drawn:
        return None
    legend_rows = -(-len(drawn) // _LEGEND_COLUMNS)
    figure = Figure(figsize=(_WIDTH, 3.8 + 0.21 * legend_rows), layout="constrained")
    axes = figure.add_subplot()
    for level in levels:
        axes.axvline(level, color=ORIGINAL, linewidth=0.6, linestyle=":")
    names = {_placeholder(index): f"var(--form-{index % len(form_colors()) + 1})" for index in range(len(drawn))}
    for index, (color, one) in enumerate(zip(names, drawn, strict=True)):
        points = [(1.0, 0.0), *((retention.value, forgetting.value) for retention, forgetting in one.curve.values())]
        style = ("-", "--", "-.", ":")[index // len(form_colors()) % 4]
        across, up = zip(*points, strict=True)
        axes.plot(across, up, color=color, linestyle=style, linewidth=1.3, marker="o", markersize=4, label=one.condition.method)
    axes.set_xlabel("retention of neighbors, mean over forms and targets")
    axes.set_ylabel("forgetting, mean over forms and targets")
    figure.legend(frameon=False, loc="outside upper left", ncols=_LEGEND_COLUMNS, labelcolor=INK)
    return svg(figure, names)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the points that no other point beats in both coordinates, from left to right."""
    best, front = -np.inf, []
    for index in sorted(range(len(points)), key=lambda index: (-points[index][0], -points[index][1])):
        if points[index][1] > best:
            best = points[index][1]
            front.append(index)
    return front[::-1]


def _label_points(axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """Write names beside the points; those of points that lie close are moved up, so that all can be read."""
    span = [max(np.ptp([point[axis] for point in points]), 1e-9) for axis in (0, 1)]
    taken: list[tuple[float, float]] = []
    for (x, y), name in sorted(zip(points, names, strict=True), key=lambda pair: pair[0][1]):
        place = (x / span[0], y / span[1])
        while any(abs(place[0] - other[0]) < 0.2 and abs(place[1] - other[1]) < 0.05 for other in taken):
            place = (place[0], place[1] + 0.05)
        taken.append(place)
        axes.annotate(name, (x, place[1] * span[1]), (7, 4), textcoords="offset points", color=INK)


@dataclass
class TrainingCurves:
    """The curves of a method's training runs, over targets, each over the same shares of its steps.

    Args:
        losses: `[_STEPS]` each.
        forget: Probability of a token of texts about the concept, `[_STEPS]` each.
        retain: The same of other texts.
    """

    losses: list[NDArray[np.float64]] = field(default_factory=list)
    forget: list[NDArray[np.float64]] = field(default_factory=list)
    retain: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, facts: Mapping[str, Any]) -> None:
        """Add the curves of one edit's facts, if it was trained."""
        losses, curves = facts.get("losses"), facts.get("probabilities", {})
        if losses:
            self.losses.append(_resampled(np.linspace(0, 1, len(losses)), losses))
        if steps := curves.get("step"):
            shares = np.asarray(steps) / max(*steps, 1)
            for name, found in (("forget", self.forget), ("retain", self.retain)):
                if name in curves:
                    found.append(_resampled(shares, curves[name]))


def _resampled(shares: NDArray[np.float64], values: Sequence[float]) -> NDArray[np.float64]:
    return np.asarray(np.interp(np.linspace(0, 1, _STEPS), shares, np.asarray(values, dtype=float)))


def curves_plot(curves: TrainingCurves) -> str | None:
    """Return loss, and probabilities of texts, over the course of training: mean and middle 80 % over targets."""
    if not curves.losses:
        return None
    figure = Figure(figsize=(_WIDTH, 2.4), layout="constrained")
    loss, *others = figure.subplots(1, 2 if curves.forget else 1, squeeze=False)[0]
    _band(loss, curves.losses, EDITED, "")
    loss.set_ylabel("loss")
    for axes in others:
        _band(axes, curves.forget, EDITED, "the concept")
        _band(axes, curves.retain, ORIGINAL, "others")
        _label_probability(axes)
    for axes in (loss, *others):
        axes.set_xlabel("share of training")
    return svg(figure)


def _band(axes: Axes, values: Sequence[NDArray[np.float64]], color: str, label: str) -> None:
    if not values:
        return
    shares, table = np.linspace(0, 1, _STEPS), np.asarray(values)  # [targets, steps]
    axes.plot(shares, table.mean(0), color=color, label=label, linewidth=1.5)
    low, high = np.percentile(table, [10, 90], axis=0)
    axes.fill_between(shares, low, high, color=color, alpha=0.2, linewidth=0)


def _label_probability(axes: Axes) -> None:
    axes.set_ylabel("probability of a token")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, labelcolor=INK)


def _methods(summaries: Sequence[MethodSummary]) -> list[str]:
    return [summary.condition.method for summary in summaries]


def _bars(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height + 1.2), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color=INK, linewidth=0.8)
    return figure, axes


def _draw(axes: Axes, estimates: Sequence[tuple[float, Estimate]], color: str, label: str, *, height: float = 0.86) -> None:
    """Draw a bar with its confidence interval at each place."""
    places, found = [place for place, _ in estimates], [estimate for _, estimate in estimates]
    axes.barh(places, [estimate.value for estimate in found], height=height, color=color, label=label)
    _whiskers(axes, places, found)


def _whiskers(
    axes: Axes,
    places: Sequence[float],
    found: Sequence[Metric | Estimate],
    *,
    vertical: bool = False,
    linewidth: float = 0.7,
    alpha: float = 0.75,
    capsize: float = 0,
) -> None:
    """Draw the confidence intervals that are known."""
    known: list[tuple[float, float, CI]] = [
        (place, one.value, one.ci) for place, one in zip(places, found, strict=True) if one.ci and one.value is not None
    ]
    if not known:
        return
    errors = np.asarray([(abs(value - low), abs(high - value)) for _, value, (low, high) in known]).T  # [2, intervals]
    at, values = [place for place, _, _ in known], [value for _, value, _ in known]
    style: dict[str, Any] = {"fmt": "none", "ecolor": INK, "elinewidth": linewidth, "alpha": alpha, "capsize": capsize}
    if vertical:
        axes.errorbar(at, values, yerr=errors, **style)
    else:
        axes.errorbar(values, at, xerr=errors, **style)


def mention_plot(found: MentionMap) -> str:
    """Return a heat map: forms down, mentions across; the color is what was lost, and n stands in each cell."""
    figure = Figure(figsize=(1.4 + _CELL[0] * len(found.mentions), 0.9 + _CELL[1] * len(found.forms)), layout="constrained")
    axes = figure.add_subplot()
    for (form, mention), cell in found.cells.items():
        x, y = found.mentions.index(mention), found.forms.index(form)
        color, strength = (EDITED if cell.change < 0 else ORIGINAL), min(abs(cell.change), 1.0)
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=color, alpha=0.8 * strength, linewidth=0))
        axes.text(x, y, f"{-100 * cell.change:.0f} %\n{cell.n}", ha="center", va="center", color=INK, fontsize=8)
    axes.set_xlim(-0.5, len(found.mentions) - 0.5)
    axes.set_ylim(len(found.forms) - 0.5, -0.5)
    axes.set_xticks(range(len(found.mentions)), [mention.replace(" and ", "\nand ") for mention in found.mentions], fontsize=8)
    axes.set_yticks(range(len(found.forms)), list(map(short_title, found.forms)), fontsize=8)
    axes.tick_params(length=0)
    axes.set_xlabel(f"lost, 1 − edited / original; n counts {found.unit}")
    return svg(figure)


def svg(figure: Figure, colors: Mapping[str, str] | None = None) -> str:
    """Return inline SVG without a background, in the page's text color; equal figures give equal text.

    Args:
        figure: What to draw.
        colors: Further placeholder colors, with the page's colors that they stand for.
    """
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK)
        for part in (axes.xaxis, axes.yaxis):
            part.label.set_color(INK)
        for spine in axes.spines.values():
            spine.set_color(INK)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "formless"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    for placeholder, color in {INK: "currentColor", **(colors or {})}.items():
        text = text.replace(placeholder, color)
    return text[text.index("<svg") :]

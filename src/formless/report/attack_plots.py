"""Plots of attacks: what is known over the course of a training run, and bars before and after quantization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from formless.evaluation.record import MetricKey
from formless.report.attacks import BEFORE, RECALL_BEFORE, STEP, AttackResult, AttackSummary
from formless.report.plots import EDITED, INK, ORIGINAL, form_colors, svg
from formless.report.ratios import FORGETTING, forms
from formless.report.recall import WORST_CASE_RECALL
from formless.report.tables import task_title

_PANEL: Final = 2.6, 2.5  # inches
_LEGEND_COLUMNS = 2


def attack_plot(name: str, summaries: Sequence[AttackSummary]) -> str | None:
    """Return the plot of one attack: a panel for the facts that are said, and one for each form.

    An attack that trains has a line for each method over its steps, any other attack bars before and after.

    Args:
        name: The attack.
        summaries: Of one model.

    Returns:
        None where no method was attacked so.
    """
    drawn = {
        one.condition.method: sorted(own, key=lambda result: result.number)
        for one in summaries
        if (own := [result for result in one.results if result.attack.name == name])
    }
    panels = [panel for panel in _panels() if any(panel[2] in own[-1].values for own in drawn.values())]
    if not panels:
        return None
    trains = any(STEP in own[-1].values for own in drawn.values())
    height = _PANEL[1] if trains else 0.9 + 0.4 * len(drawn)
    figure = Figure(figsize=(_PANEL[0] * len(panels), height + 0.5), layout="constrained")
    columns = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    colors = {f"#fe{index:02x}01": f"var(--form-{index % len(form_colors()) + 1})" for index in range(len(drawn))}
    for axes, (title, before, after) in zip(columns, panels, strict=True):
        if trains:
            _draw_lines(axes, drawn, before, after, list(colors))
            axes.set_xlabel("step, mean over targets")
        else:
            _draw_bars(axes, drawn, before, after)
        axes.set_title(title, color=INK, fontsize=9)
    for axes in columns:  # all from 0 to at least 1
        if trains:
            axes.set_ylim(0, 1.05 * max(1.0, *(one.dataLim.ymax for one in columns)))
        else:
            axes.set_xlim(0, 1.05 * max(1.0, axes.dataLim.xmax))
    columns[0].set_ylabel("share of what the original knows" if trains else "")
    handles, labels = columns[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside upper left", ncols=_LEGEND_COLUMNS, labelcolor=INK)
    return svg(figure, colors)


def _panels() -> list[tuple[str, MetricKey, MetricKey]]:
    """Return title, key before and key after of every panel."""
    by_form = [(task_title(form), BEFORE._replace(task=form), FORGETTING._replace(task=form)) for form in forms()]
    return [("Known facts said", RECALL_BEFORE, WORST_CASE_RECALL), *by_form]


def _known(result: AttackResult, key: MetricKey) -> float | None:
    """Return a share of what the original model knows: forgetting is drawn from the other end."""
    value = result.value(key)
    return value if value is None or key in (RECALL_BEFORE, WORST_CASE_RECALL) else 1 - value


def _draw_lines(
    axes: Axes, drawn: Mapping[str, Sequence[AttackResult]], before: MetricKey, after: MetricKey, colors: Sequence[str]
) -> None:
    for color, (method, own) in zip(colors, drawn.items(), strict=True):
        points = [(0.0, _known(own[0], before)), *((result.value(STEP), _known(result, after)) for result in own)]
        known = [(step, value) for step, value in points if step is not None and value is not None]
        if known:
            steps, values = zip(*known, strict=True)
            axes.plot(steps, values, color=color, linewidth=1.3, marker="o", markersize=4, label=method)


def _draw_bars(axes: Axes, drawn: Mapping[str, Sequence[AttackResult]], before: MetricKey, after: MetricKey) -> None:
    for offset, color, key, label in ((-0.2, ORIGINAL, before, "before"), (0.2, EDITED, after, "quantized")):
        values = [_known(own[-1], key) for own in drawn.values()]
        known = [(index + offset, value) for index, value in enumerate(values) if value is not None]
        places, lengths = [place for place, _ in known], [length for _, length in known]
        axes.barh(places, lengths, height=0.38, color=color, label=label)
        for index, value in enumerate(values):
            if value is None:
                axes.text(0.01, index + offset, "not measured", va="center", fontsize=7, color=INK)
    axes.set_yticks(range(len(drawn)), list(drawn))
    if not axes.yaxis_inverted():
        axes.invert_yaxis()
    axes.set_xlabel("share of what the original knows")

"""Stacked bars of what models say when they are asked in words."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from formless.report.answers import CLASSES, AnswerClass
from formless.report.plots import EDITED, INK, ORIGINAL, svg

_COLORS: Mapping[AnswerClass, str] = {
    "right answer": EDITED, "refusal": "#33608f", "does not know": "#7ba7d8", "redirect concept": "#82609f",
    "nothing or broken": ORIGINAL, "other answer": "#d9b960",
}  # fmt: skip


def answers_plot(found: Mapping[str, Mapping[AnswerClass, float]]) -> str | None:
    """Return a bar for each title, divided by the share of each class; None without any.

    Args:
        found: The shares, which add up to 1, by title.
    """
    if not found:
        return None
    figure = Figure(figsize=(7.2, 0.34 * len(found) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(found))
    left = [0.0] * len(found)
    for name in CLASSES:
        widths = [shares.get(name, 0.0) for shares in found.values()]
        if any(widths):
            axes.barh(places, widths, left=left, height=0.7, color=_COLORS[name], label=name)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(places, list(found))
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("share of answers in words about known facts")
    figure.legend(frameon=False, loc="outside upper left", ncols=3, labelcolor=INK)
    return svg(figure)

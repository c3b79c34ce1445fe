"""Charts as SVG text that follows the page's colours."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from formless.evaluation.record import FormResult
from formless.report.summary import Change

INK = "#123456"  # a mark for whatever is to take the page's text colour
ORIGINAL, EDITED = "#8a94a6", "#d1495b"


def split_chart(changes: Sequence[Change]) -> str:
    """Mean answer probability by form, original beside unlearned, with 95 % intervals, as inline SVG."""
    rows = [change for change in changes if not change.absent and change.relative is not None]
    figure = Figure(figsize=(7.2, 0.62 * len(rows) + 0.9))
    axes = figure.add_subplot()
    for offset, colour, label in ((-0.2, ORIGINAL, "original"), (0.2, EDITED, "unlearned")):
        results = [change.original if label == "original" else change.edited for change in rows]
        means = [result.mean or 0.0 for result in results]
        places = [index + offset for index in range(len(rows))]
        axes.barh(places, means, height=0.38, color=colour, label=label)
        errors = [[mean - _bounds(result)[0] for mean, result in zip(means, results, strict=True)],
                  [_bounds(result)[1] - mean for mean, result in zip(means, results, strict=True)]]  # fmt: skip
        axes.errorbar(means, places, xerr=errors, fmt="none", ecolor=INK, elinewidth=0.8, capsize=2)
    axes.set_yticks(range(len(rows)), [change.title for change in rows])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("mean probability of the right answer (95 % interval over probes)")
    axes.legend(frameon=False, loc="lower right", labelcolor=INK)
    return svg(figure)


def training_chart(facts: Mapping[str, Any]) -> str | None:
    """Loss by step, and the probability of texts about the concept and about others, as inline SVG.

    Args:
        facts: Of an edit, as edit.json has them.

    Returns:
        Nothing where the edit was not trained.
    """
    losses, curves = facts.get("losses"), facts.get("probabilities", {})
    if not losses:
        return None
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    loss, *others = figure.subplots(1, 2 if curves.get("step") else 1, squeeze=False)[0]
    spread = max(len(losses) - 1, 1)
    loss.plot(
        [1 + i * (facts["steps"] - 1) // spread for i in range(len(losses))], losses, color=EDITED, marker=".", markersize=3
    )
    loss.set_ylabel("loss")
    for axes in others:
        for name, colour, label in (("forget", EDITED, "the concept"), ("retain", ORIGINAL, "others")):
            if name in curves:
                axes.plot(curves["step"], curves[name], color=colour, label=label, marker=".", markersize=3)
        axes.set_ylabel("probability of a token")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, labelcolor=INK)
    for axes in (loss, *others):
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return svg(figure)


def _bounds(result: FormResult) -> tuple[float, float]:
    return result.interval or (result.mean or 0.0, result.mean or 0.0)


def svg(figure: Figure, colours: Mapping[str, str] | None = None) -> str:
    """Inline SVG without a background, in the page's ink; equal figures give equal text.

    Args:
        figure: What to draw.
        colours: Further marks, with the page's colours that they stand for.
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
    for mark, colour in {INK: "currentColor", **(colours or {})}.items():
        text = text.replace(mark, colour)
    return text[text.index("<svg") :]

"""Plots of what single layers hold, before and after an edit: one for each task that looks inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from formless.data.rows import SPLITS
from formless.evaluation.registry import TASKS
from formless.evaluation.tasks.inside import LAYER, layer_name
from formless.report.comparison import Change, Comparison
from formless.report.plots import EDITED, INK, ORIGINAL, svg

_SIZE = 5.2, 2.8  # inches
_STYLES = {"forget": "-", "neighbor": ":"}
_LABELS = {"forget": "the concept", "neighbor": "its neighbors"}


def layer_plots(comparison: Comparison) -> list[tuple[str, str]]:
    """Return a plot with its title for each task whose groups are layers; none where no such task was asked."""
    changes: dict[str, list[Change]] = {}
    for change in comparison.changes:
        task = TASKS.get(change.key.task or "")
        if task and task.grouped_by == LAYER and change.key.metric == task.metrics[0].name:
            changes.setdefault(task.name, []).append(change)
    return [(f"{TASKS[name].title}, by layer", layer_plot(name, own)) for name, own in changes.items()]


def layer_plot(task: str, changes: Sequence[Change]) -> str:
    """Return the mean of a task's first metric against the layer, original and edited, of the concept and its neighbors.

    Args:
        task: The task's short name.
        changes: Of that metric.
    """
    spec = TASKS[task].metrics[0]
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    if spec.chance:
        axes.axhline(spec.chance, color=INK, linewidth=0.6)
    for split in SPLITS:
        own = {change.key.group: change for change in changes if change.key.split == split}
        layers = list(_layers(own))
        for color, label in ((ORIGINAL, "original"), (EDITED, "edited")):
            found = [own[layer_name(layer)] for layer in layers]
            values = [(one.original if label == "original" else one.edited).value or 0.0 for one in found]
            if layers:
                axes.plot(layers, values, color=color, linestyle=_STYLES[split], label=f"{label}, {_LABELS[split]}")
    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(spec.title or spec.name)
    axes.set_ylim(bottom=0)
    figure.legend(frameon=False, loc="outside upper left", ncols=2, labelcolor=INK)
    return svg(figure)


def _layers(changes: dict[str | None, Change]) -> Iterator[int]:
    """Yield the numbers of the layers that both models have values of, from the first on."""
    for layer in range(len(changes)):
        change = changes.get(layer_name(layer))
        if change and change.original.value is not None and change.edited.value is not None:
            yield layer

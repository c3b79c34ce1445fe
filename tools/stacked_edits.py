"""Measure ROCR edits of up to 100 concepts, together and one after another, and what their keys share.

    python -m tools.stacked_edits measure runs/stacked
    python -m tools.stacked_edits page runs/stacked

`measure` resumes; `page` writes docs/results/stacked_edits.json with its figure. `tools.stacked_keys` says why.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from formless.data.target import Target
from formless.edits.adapter import AdapterEdit, down_projection_adapter, stack
from formless.edits.edit import layer_report
from formless.edits.loading import load_edit
from formless.experiment.run import Peak
from formless.methods.direction.kept import GENERAL
from formless.methods.keys.names import Names
from formless.methods.registry import unlearn
from formless.methods.rocr.redirect import load_projections, redirect_together
from formless.models.lm import LM
from formless.models.loading import load
from formless.models.overlay import Factors
from formless.report.plots import INK, PALETTE, svg
from tools.concept_counts import MODEL
from tools.direction_removal import DTYPE
from tools.known_items import stored
from tools.reach import on_white
from tools.results import FOLDER, Cell, Column, Result, write_result
from tools.stacked_effects import (
    CONFIG,
    COUNTS,
    EFFECTS,
    SETTINGS,
    Instruments,
    adapter,
    asked,
    development,
    effect_cells,
    in_words,
    known,
    measured_with,
    people,
)

ORDER = (50, 100, 20, 10, 1, 5, 75, 2)
"""The order in which they are measured where that takes seconds."""

STOPS = tuple(sorted({*COUNTS, *range(10, 101, 10)}))
"""Numbers of edits after which a sequence is saved."""

JOINT, KEPT, STACKED = WAYS = ("joint", "kept", "stacked")
"""All in one solve; one after another with `keep`; one after another, each computed on the model that the others edited."""


def extended(lm: LM, way: str, edit: AdapterEdit | None, targets: Sequence[Target]) -> tuple[AdapterEdit, list[float]]:
    """Edit one concept after another on top of an edit, and return the result with the processor's seconds of each.

    Args:
        lm: The model, without an edit.
        way: `KEPT` or `STACKED`.
        edit: The edit so far.
        targets: The further concepts.
    """
    seconds, preserved = [], load_projections(lm, CONFIG)
    for target in targets:
        start = time.process_time()
        if edit is None or way == KEPT:
            edit = adapter(unlearn(lm, target, keep=edit, progress=False, **SETTINGS))
        else:
            with edit.applied(lm):
                found = redirect_together(lm, [Names(target.subject, (target.subject,))], CONFIG, preserved)
            edit = with_updates(lm, edit, stack(edit, named(lm, found.factors)))
        seconds.append(time.process_time() - start)
    if edit is None:
        raise ValueError("no concept is given")
    return edit, seconds


def named(lm: LM, factors: Mapping[int, Factors]) -> dict[str, Factors]:
    """Return updates by the names of the down-projections."""
    return {lm.architecture.down_projection_name(layer): found for layer, found in factors.items()}


def with_updates(lm: LM, edit: AdapterEdit, updates: Mapping[str, Factors]) -> AdapterEdit:
    """Return an edit with other updates of the same layers."""
    info = edit.info.model_copy(update={"layers": [layer_report(lm, name, found) for name, found in updates.items()]})
    r = len(next(iter(updates.values())).down)
    return replace(edit, updates=dict(updates), info=info, adapter=down_projection_adapter(lm, CONFIG.layers, r))


def measure(lm: LM, out: Path) -> None:
    """Compute the edits of every way, and measure them; what takes longest comes last."""
    edited, given = people(development()), cache(partial(asked, lm, out))
    for way, counts in ((STACKED, ORDER), (JOINT, ORDER), (KEPT, COUNTS)):
        for count in counts:
            (joint if way == JOINT else partial(sequence, way=way))(lm, out, edited, count)
            measure_effects(lm, out, way, count, given)


def joint(lm: LM, out: Path, edited: Sequence[Target], count: int) -> None:
    """Compute and save one edit of the first concepts, with its costs."""

    def compute() -> dict[str, Any]:
        peak, start = Peak(), time.process_time()
        edit = adapter(unlearn(lm, edited[:count], progress=False, **SETTINGS))
        costs = {"seconds": [time.process_time() - start], "peak": peak.read().resident}
        edit.save(out / "edits" / f"{JOINT}-{count}", force=True)
        return costs

    stored(out / f"{JOINT}-{count}.json", compute)


def sequence(lm: LM, out: Path, edited: Sequence[Target], most: int, way: str) -> None:
    """Compute and save a sequence of edits, with its costs; it goes on from the last stop whose edit was saved."""

    def compute(before: int, count: int) -> dict[str, Any]:
        earlier = adapter(load_edit(out / "edits" / f"{way}-{before}")) if before else None
        peak = Peak()
        edit, seconds = extended(lm, way, earlier, edited[before:count])
        costs = {"seconds": seconds, "peak": peak.read().resident}
        edit.save(out / "edits" / f"{way}-{count}", force=True)
        return costs

    for before, count in pairwise((0, *(stop for stop in STOPS if stop <= most))):
        stored(out / f"{way}-{count}.json", partial(compute, before, count))


def measure_effects(lm: LM, out: Path, way: str, count: int, given: Callable[[], Instruments]) -> None:
    """Measure a saved edit."""
    folder = out / "edits" / f"{way}-{count}"
    stored(out / f"{way}-{count}-effects.json", lambda: given().effects(lm, adapter(load_edit(folder)), count))


def page(out: Path) -> Result:
    """Return the results page: a row for each way and number of edits that was measured; the figure is written."""
    items = known(out)
    before: dict[str, list[float]] = json.loads((out / "before.json").read_text("utf-8"))
    found = {(way, count): one for way in WAYS for count in COUNTS if (one := whole(out, way, count))}
    missing = [f"{way}, {count}" for way in WAYS for count in COUNTS if (way, count) not in found]
    rows = [[way, count, *effect_cells(one, items, before, count), *_costs(one)] for (way, count), one in found.items()]
    figure = FOLDER / "stacked_edits.svg"
    figure.write_text(on_white(svg(drawn(rows))), "utf-8")
    return Result(
        title="Many ROCR edits, together and one after another", topic="Forgetting and retention",
        about="What up to a hundred edits take from the first, middle and last concept, cost others, and weigh.",
        n=f"{in_words(items)}; 27 general questions and {len(GENERAL)} plain texts",
        command=[f"python -m tools.stacked_edits {each} runs/stacked" for each in ("measure", "page")],
        columns=[
            Column(name="way"), Column(name="edits"), *EFFECTS, Column(name="update / weight", unit="%", format=".0f"),
            Column(name="redirect moved", unit="%", format=".0f"), Column(name="size", unit="kB", format=",.0f"),
            Column(name="all edits", unit="s", format=".1f"), Column(name="last edit", unit="s", format=".2f"),
            Column(name="peak memory", unit="MB", format=",.0f"),
        ],
        rows=rows, figure=figure.name, notes=[*NOTES, *([f"Not measured: {'; '.join(missing)}."] if missing else [])],
        **measured_with(),
    )  # fmt: skip


NOTES = [
    "ROCR as published, with one key for each name, the bundled null spaces and one redirect. `Joint` solves all together. "
    "`Kept` edits one after another with `keep`. `Stacked` edits one after another too, each computed on the model as the "
    "earlier ones left it, its target value too, and adds the update.",
    "The change is edited/original - 1 of the probability per token over known items, the geometric mean over concepts. The "
    "development concepts are the first, 20th, 50th and last to be edited, so `edited concepts` are one of them up to ten "
    "edits, two at 20, three at 50 and 75, four at 100. `Not edited yet` are items about the others.",
    "The residual is the distance to the redirect's value in the original model; `first` and `last` are by the order of the "
    "edits. `Neighbors' names moved` is how far unedited neighbors' values go to the redirect's, of their whole way. `Redirect "
    "moved` is how far the redirect's own value goes, over the mean way of the edited names.",
    "The norm of the update is over that of the weight, of the layer where it is largest. The size is of the factors in "
    "float32. The seconds are of one core's own time; the memory is the process's peak while the edits were computed.",
    "[What the keys share](stacked_keys.md) says why, and [what helps](stacked_repairs.md) what was tried.",
]


def _costs(found: Mapping[str, Any]) -> list[Cell]:
    """Return the cells of what an edit weighs and costs."""
    return [
        round(100 * max(found["norms"]), 1), round(100 * found["redirect_moved"], 1), round(found["bytes"] / 1e3, 1),
        round(sum(found["seconds"]), 2), round(found["seconds"][-1], 3), round(found["peak"] / 2**20),
    ]  # fmt: skip


def whole(out: Path, way: str, count: int) -> dict[str, Any] | None:
    """Return what was measured of so many edits, with the seconds of all of them; None if it is not there."""
    stops = [count] if way == JOINT else [stop for stop in STOPS if stop <= count]
    paths = [*(out / f"{way}-{stop}.json" for stop in stops), out / f"{way}-{count}-effects.json"]
    if not all(path.exists() for path in paths):
        return None
    parts: list[dict[str, Any]] = [json.loads(path.read_text("utf-8")) for path in paths]
    return parts[-2] | parts[-1] | {"seconds": [value for part in parts[:-1] for value in part["seconds"]]}


def drawn(rows: Sequence[Sequence[Any]]) -> Figure:
    """Return curves over the number of edits: forgetting and retention, residuals, norms, seconds."""
    names = ["way", "edits", *(column.name for column in EFFECTS), "norm", "redirect", "size", "all edits", "last edit", "peak"]
    panels = {
        "known items, change in %": ("first edited", "neighbors"),
        "residual reduction in %": ("residual reduction, median", "residual reduction, first"),
        "norm of update / weight in %": ("norm",), "seconds of all edits": ("all edits",),
    }  # fmt: skip
    figure = Figure(figsize=(8, 6), layout="constrained")
    for axes, (title, shown) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        for (dark, _), way in zip(PALETTE, WAYS, strict=False):
            own = [row for row in rows if row[0] == way]
            for name, style in zip(shown, ("-", "--"), strict=False):
                label = f"{way}: {name.removeprefix('residual reduction, ')}" if len(shown) > 1 else way
                axes.plot(
                    [row[1] for row in own], [row[names.index(name)] for row in own], style, color=dark, marker=".", label=label
                )
        axes.set_xscale("log")
        axes.set_xticks(COUNTS[:5] + COUNTS[-3::2], [str(count) for count in COUNTS[:5] + COUNTS[-3::2]], minor=False)
        axes.set_title(title, color=INK, fontsize=10)
        axes.legend(frameon=False, labelcolor=INK, fontsize=7)
    return figure


def main() -> None:
    """Compute and measure the edits, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("measure", "page"))
    parser.add_argument("out", type=Path, help="folder of what was measured")
    given = parser.parse_args()
    if given.command == "page":
        write_result(FOLDER / "stacked_edits.json", page(given.out))
        return
    lm = load(MODEL, dtype=DTYPE)
    measure(lm, given.out)


if __name__ == "__main__":
    main()

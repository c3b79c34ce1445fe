"""Write forgetting at equal retention, from a folder of runs whose edits `formless frontier` has measured at each strength.

formless run trade_off --out runs/trade_off
formless frontier runs/trade_off
python -m tools.trade_off runs/trade_off trade_off     # writes docs/results/trade_off.json and trade_off.svg

`direction_trade_off` in the place of `trade_off` compares the removal of a direction with ROCR.
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path

from formless import provenance
from formless.experiment.frontier import STRENGTHS
from formless.experiment.runs import read_plan
from formless.report.frontier import LEVELS, Frontier, collect_curves, frontiers
from formless.report.frontier_page import row_title
from formless.report.plots import frontier_plot
from tools.reach import cell, on_white
from tools.results import FOLDER, Cell, Column, Result, write_result


def rows(found: Frontier) -> list[list[Cell]]:
    """Return a row for the mean over forms and for each form: forgetting at each level, with the targets that reach it."""
    table: list[list[Cell]] = []
    for key, row in found.rows.items():
        levels = [row.levels[level] for level in LEVELS]
        cells = [part for one in levels for part in (cell(one), one.n if one else 0)]
        table.append([found.condition.method, row_title(key), *cells])
    return table


def main() -> None:
    """Read a folder of runs and write the result with its figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("name", choices=MADE_BY)
    given = parser.parse_args()
    found = frontiers(collect_curves(given.runs, STRENGTHS))
    figure = FOLDER / f"{given.name}.svg"
    figure.write_text(on_white(frontier_plot(found, LEVELS) or ""), "utf-8")
    share = {"unit": "%", "format": ".0f", "ci_format": ".0f"}
    columns = [Column(name="method"), Column(name="asked as")]
    for level in LEVELS:
        columns += [Column(name=f"forgetting at {100 * level:.0f} % retention", **share), Column(name="targets")]
    title, commands, notes = MADE_BY[given.name]
    dtype = read_plan(given.runs)[0].model.dtype
    write_result(FOLDER / f"{given.name}.json", Result(
        title=title, topic="Forgetting and retention",
        about="How much is forgotten where the neighbors keep a given share of what the original model knew, over the "
        "strengths of each edit, by linear interpolation and never beyond what was measured.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n=f"{len(found[0].targets)} targets of the sample set, {found[0].condition.model} in {dtype}; confidence intervals "
        "over the targets that reach a level",
        command=commands, columns=columns, rows=[row for one in found for row in rows(one)], figure=figure.name,
        notes=[*NOTES, *notes],
    ))  # fmt: skip


NOTES = [
    "Over the items that the original model knows. The strength is a factor from 0.25 to 2 on what the edit changed; 1 is the "
    "edit as it was computed. A target whose neighbors keep more than a level at every strength has no value there: `targets` "
    "is the number of those that reach it.",
    "Trained methods, each with settings chosen alike, are in [All methods at equal retention](method_comparison.md).",
]
MADE_BY = {
    "trade_off": (
        "Forgetting at equal retention",
        ["formless run trade_off --out runs/trade_off", "formless frontier runs/trade_off",
         "python -m tools.trade_off runs/trade_off trade_off"],
        ["`rocr-bare` reads the current value for the bare name, as the published code does; `rocr` reads it in the chat "
         "contexts."],
    ),
    "direction_trade_off": (
        "Removing a direction and ROCR at equal retention",
        ["formless run direction_trade_off --out runs/direction", "formless frontier runs/direction",
         "python -m tools.trade_off runs/direction direction_trade_off"],
        ["`cdr` is the removal of a direction without a budget; `rocr-spelled` has a key for every spelling and protects the "
         "neighbors' names, `rocr-one-key` has one. The settings were chosen on other concepts, of "
         "the removal on another model.",
         "Reverse questions are not among the forms. [Removing a concept's direction](direction_removal_smollm2.md) has them."],
    ),
}  # fmt: skip
"""By the name of a result: its title, the commands that make it, and what more its page says."""


if __name__ == "__main__":
    main()

"""Write forgetting at equal retention, from a folder of runs whose edits `formless frontier` has measured at each strength.

formless run trade_off --out runs/trade_off
formless frontier runs/trade_off
python -m tools.trade_off runs/trade_off     # writes docs/results/trade_off.json and trade_off.svg
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
    given = parser.parse_args()
    found = frontiers(collect_curves(given.runs, STRENGTHS))
    figure = FOLDER / "trade_off.svg"
    figure.write_text(on_white(frontier_plot(found, LEVELS) or ""), "utf-8")
    share = {"unit": "%", "format": ".0f", "ci_format": ".0f"}
    columns = [Column(name="method"), Column(name="asked as")]
    for level in LEVELS:
        columns += [Column(name=f"forgetting at {100 * level:.0f} % retention", **share), Column(name="targets")]
    dtype = read_plan(given.runs)[0].model.dtype
    write_result(FOLDER / "trade_off.json", Result(
        title="Forgetting at equal retention", topic="Forgetting and retention",
        about="How much is forgotten where the neighbors keep a given share of what the original model knew, over the "
        "strengths of each edit, by linear interpolation and never beyond what was measured.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n=f"{len(found[0].targets)} targets of the sample set, {found[0].condition.model} in {dtype}; confidence intervals "
        "over the targets that reach a level",
        command=COMMANDS, columns=columns, rows=[row for one in found for row in rows(one)], figure=figure.name,
        notes=NOTES,
    ))  # fmt: skip


COMMANDS = [
    "formless run trade_off --out runs/trade_off",
    "formless frontier runs/trade_off",
    "python -m tools.trade_off runs/trade_off",
]
NOTES = [
    "Over the items that the original model knows. The strength is a factor from 0.25 to 2 on what the edit changed; 1 is the "
    "edit as it was computed. A target whose neighbors keep more than a level at every strength has no value there: `targets` "
    "is the number of those that reach it.",
    "Trained methods, each with settings chosen alike, are in [All methods at equal retention](method_comparison.md).",
    "`rocr-bare` reads the current value for the bare name, as the published code does; `rocr` reads it in the chat contexts.",
]


if __name__ == "__main__":
    main()

"""Measure ROCR with a key for every spelling of the name, and with the neighbors' names protected, beside one key.

python -m tools.spelled_keys --out runs/spelled     # resumes; writes docs/results/spelled_keys.json
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from formless import provenance
from formless.data.spellings import SPELLED
from formless.experiment.config import Experiment
from formless.report.runs import collect_folder
from formless.report.summary import summarize
from tools import settings_sweeps
from tools.reach import forgetting_rows
from tools.results import FOLDER, Cell, Column, Result, write_result

TITLES = {
    "one_key": "one key, the full name",
    "spelled": "a key for every spelling",
    "protected": "a key for every spelling, neighbors protected",
}
SETTINGS: Mapping[str, dict[str, Any]] = {
    "one_key": {},
    "spelled": {"mentions": "spelled"},
    "protected": {"mentions": "spelled", "protect": "neighbors"},
}
MODEL = "smollm2"
SUITE, LIMIT = "statement,qa,qa_mentions,reverse", 36


def experiment() -> Experiment:
    """Return the original model and the three ways on every sample target."""
    return settings_sweeps.experiment({"name": MODEL, "dtype": "bfloat16"}, SETTINGS, "all", SUITE, LIMIT)


def page(out: Path) -> Result:
    """Return the results page of a folder of runs: a row for each form and mention, three pairs of columns."""
    runs = collect_folder(out)
    found: dict[tuple[Cell, Cell], dict[str, list[Cell]]] = {}
    for summary in summarize(runs):
        own = replace(runs, complete=[run for run in runs.complete if run.condition == summary.condition])
        for row in forgetting_rows(summary, own) if not summary.is_baseline else ():
            found.setdefault((row[0], row[1]), {})[summary.condition.method] = row
    percent = {"unit": "%", "format": "+.0f", "ci_format": "+.0f"}
    columns = [Column(name="asked as"), Column(name="mention"), Column(name="concepts"), Column(name="known items")]
    columns += [Column(name=title, **percent) for title in TITLES.values()]
    columns += [Column(name="concepts (neighbors)")]
    columns += [Column(name=f"neighbors: {title}", **percent) for title in TITLES.values()]
    rows: list[list[Cell]] = []
    for key, by_label in found.items():
        first = by_label["one_key"]
        cells = [by_label[label] for label in TITLES]
        rows.append([*key, *first[2:4], *(row[5] for row in cells), first[6], *(row[7] for row in cells)])
    targets = dict.fromkeys(run.target for run in runs.complete)
    return Result(
        title="Keys for every spelling of the name", topic="Forgetting and retention",
        about="What an edit takes from the probability of the right answer, by how the question names the concept: with one "
        "key, with a key for each spelling, and with the neighbors' names in the solve as well.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n=f"{len(targets)} concepts of the sample set, {MODEL} in bfloat16; confidence intervals over concepts",
        command="python -m tools.spelled_keys --out runs/spelled", columns=columns, rows=rows, notes=NOTES,
    )  # fmt: skip


NOTES = [
    "The layers (4 to 6), `l2` and null spaces are those of the model's recipe in all three; nothing was chosen on these "
    "concepts. The change is edited/original - 1 over the items that the original model knows, the geometric mean over "
    "concepts.",
    f"Keys are made for {', '.join(SPELLED)}. Misspellings, possessives, descriptions and reverse questions have none. The "
    "spellings are those that the questions use, from the same `aliases.json`: what is tested is the question around a name, "
    "not an unseen name.",
    "The protected neighbors are those that are asked about. Names that are not protected are not measured here. "
    "Reverse questions were asked but have no row: their forgetting is no form's.",
]


def main() -> None:
    """Measure what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    given = parser.parse_args()
    settings_sweeps.measure(experiment(), given.out)
    write_result(FOLDER / "spelled_keys.json", page(given.out))


if __name__ == "__main__":
    main()

"""Tune the bundled model with `formless tune` and report the chosen setting on the other concepts.

    formless stats --model smollm2 --layers 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14 --corpus RWKU/Target \
        --pattern '?_*/passage.json' --basis-dtype float16 --out stats/smollm2
    formless tune --model smollm2 --set basis=stats/smollm2 --out tuned/smollm2
    python -m tools.tuning --tuned tuned/smollm2 --out runs/tuned

The last command resumes. It writes docs/results/tuning.json (the sweep on the development concepts) and
docs/results/tuning_report.json (the chosen setting and the shipped one on the other concepts).
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path
from typing import Any

from formless import provenance
from formless.experiment.tune import windows
from formless.models.settings import settings_for
from formless.report.tuning import MEANING, RULE, Tried, choose, read_tried
from formless.store import ExperimentFolder
from tools import settings_sweeps
from tools.results import FOLDER, Cell, Column, Result, write_result

OTHERS, SUITE, LIMIT = "5-12", "statement,fb,qa", 8
DEPTH, WINDOW = 30, 3
TITLES = {"tuned": "tuned", "shipped": "shipped"}
STATISTICS = (
    "formless stats --model smollm2 --layers 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14 --corpus RWKU/Target --pattern "
    "'?_*/passage.json' --basis-dtype float16 --out stats/smollm2"
)
REPORT = "python -m tools.tuning --tuned tuned/smollm2 --out runs/tuned"


def sweep_page(tried: list[Tried], evidence: dict[str, Any]) -> Result:
    """Return the page of the sweep on the development concepts."""
    chosen = choose(tried)
    rows: list[list[Cell]] = [
        [_layers(one), one.l2, *(None if value is None else round(100 * value, 1) for value in values(one)), _note(one, chosen)]
        for one in tried
    ]
    percent = {"unit": "%", "format": ".1f"}
    return Result(
        title="Layers and strengths of the bundled model", topic="Forgetting and retention",
        about="Windows of three layers in the first half of SmolLM2-135M, and values of `l2`, on development concepts.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n=f"{len(evidence['concepts'])} development concepts ({', '.join(evidence['concepts'])}), suite {evidence['suite']}, "
        f"at most {evidence['limit']} items of each file; no confidence interval",
        command=[STATISTICS, evidence["command"]],
        columns=[
            Column(name="layers"), Column(name="l2", format="g"), Column(name="forgetting", **percent),
            Column(name="retention", **percent), Column(name="harmonic mean", **percent), Column(name="note"),
        ],
        rows=rows,
        notes=[
            MEANING, f"The rule, fixed before anything was measured: {RULE}", settings_sweeps.which_items(), _corpus(),
            *_at_the_edge(tried, chosen), *_not_measured(tried),
        ],
    )  # fmt: skip


def report_page(out: Path, chosen: Tried, shipped: str, sweep: str) -> Result:
    """Return the page of the chosen and the shipped setting on the other concepts."""
    labels = list(TITLES)
    runs, missing = settings_sweeps.complete_runs(out, labels)
    titles = {"tuned": f"tuned: layers {_layers(chosen)}, l2 {chosen.l2:g}", "shipped": f"shipped: {shipped}"}
    notes = [
        "Neither setting was chosen on these concepts. The concepts are named in full; what the settings do to other mentions "
        "of them is not measured here. The shipped setting is the paper's for Llama-3-8B and Mistral-7B; it stays the default: "
        "every other page of results is about it.",
        settings_sweeps.which_items(),
        _corpus(),
    ]
    if missing:
        notes.append(f"Not complete: {', '.join(missing)}. Their runs are missing or failed, and they count nowhere.")
    return Result(
        title="The tuned setting on other concepts", topic="Forgetting and retention",
        about="The setting that `formless tune` chose for SmolLM2-135M and the shipped one, on concepts that it did not see.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n=f"{len(runs[labels[0]])} concepts of the sample set ({OTHERS}), at most {LIMIT} items of each file; confidence "
        "intervals over concepts",
        command=[STATISTICS, sweep, REPORT], columns=settings_sweeps.COLUMNS,
        rows=[row for label in labels for row in settings_sweeps.rows(titles[label], runs[label])], notes=notes,
    )  # fmt: skip


def values(one: Tried) -> tuple[float | None, float | None, float | None]:
    """Return what a row shows."""
    return one.forgetting, one.retention, one.harmonic


def _layers(one: Tried) -> str:
    return f"{one.layers[0]}-{one.layers[-1]}"


def _note(one: Tried, chosen: Tried) -> str | None:
    return "chosen" if one is chosen else one.missing


def _at_the_edge(tried: list[Tried], chosen: Tried) -> list[str]:
    """Return a note if the chosen strength is the smallest or largest of several."""
    strengths = sorted({one.l2 for one in tried})
    is_edge = len(strengths) > 1 and chosen.l2 in (strengths[0], strengths[-1])
    return [f"The chosen l2 is at the edge of those tried ({', '.join(f'{one:g}' for one in strengths)})."] if is_edge else []


def _not_measured(tried: list[Tried]) -> list[str]:
    """Return a note about the windows of the first half that the sweep leaves out, if there are any."""
    known = {one.layers[0] for one in tried}
    left_out = [f"{window[0]}-{window[-1]}" for window in windows(DEPTH, WINDOW) if window[0] not in known]
    return [f"Not measured: the windows {', '.join(left_out)}."] if left_out else []


def _corpus() -> str:
    return (
        "The null spaces of all windows come from one corpus, the Wikipedia passages of RWKU's first four targets; those that "
        "are shipped for layers 4 to 6 come from 17 targets."
    )


def main() -> None:
    """Measure what is missing and write both pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuned", type=Path, required=True, help="folder that `formless tune` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs on the other concepts")
    given = parser.parse_args()
    tried = read_tried(given.tuned)
    recipe = settings_for(str(ExperimentFolder(given.tuned).recipe))
    write_result(FOLDER / "tuning.json", sweep_page(tried, recipe.evidence))
    settings: dict[str, dict[str, Any]] = {"tuned": recipe.methods["rocr"], "shipped": {}}
    wanted = settings_sweeps.experiment({"name": "smollm2"}, settings, OTHERS, SUITE, LIMIT)
    settings_sweeps.measure(wanted, given.out)
    write_result(
        FOLDER / "tuning_report.json", report_page(given.out, choose(tried), "layers 4-6, l2 1", recipe.evidence["command"])
    )


if __name__ == "__main__":
    main()

"""Write how far an edit reaches: forgetting by form, mention and kind of question, and what can still be got out.

    formless run reach --out runs/reach                # or with --model qwen2.5-coder-1.5b --dtype bfloat16
    python -m tools.reach runs/reach smollm2           # writes docs/results/reach_smollm2.json and recall_smollm2.json

The numbers are those of `formless summarize`: over the items, and facts, that the original model knows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from formless import provenance
from formless.evaluation.record import MetricKey
from formless.evaluation.registry import TASKS
from formless.evaluation.statistics import Estimate
from formless.report.mentions import summary_maps
from formless.report.plots import form_colors, mention_plot
from formless.report.ratios import FORGETTING, RETENTION
from formless.report.recall import RECALL_OF_KNOWN, WORST_CASE_RECALL
from formless.report.runs import CollectedRuns, collect_folder
from formless.report.summary import MethodSummary, summarize
from formless.report.tables import task_title
from tools import results
from tools.results import FOLDER, Cell, Column, Result, write_result


def cell(found: Estimate | None, scale: float = 100, sign: int = 1) -> Cell:
    """Return an estimate as a cell: with its interval, or the mean alone of too few targets; None without one."""
    if found is None:
        return None
    value = round(sign * scale * found.value, 1)
    if found.ci is None:
        return value
    low, high = sorted(round(sign * scale * end, 1) for end in found.ci)
    return results.Estimate(value=value, ci=(low, high))


def forgetting_rows(summary: MethodSummary, runs: CollectedRuns) -> Iterator[list[Cell]]:
    """Yield a row for each form, and for each mention and kind of a form."""
    for name, task in TASKS.items():
        for group in (None, *task.groups):
            forget, neighbor = (
                summary.metrics.get(MetricKey(name, None, metric, group)) for metric in (FORGETTING.metric, RETENTION.metric)
            )
            if forget is None and neighbor is None:
                continue
            counts = known(runs, name, group)
            yield [
                task_title(name), group, forget.value.n if forget else 0, *counts,
                cell(forget.value, sign=-1) if forget else None, neighbor.value.n if neighbor else 0,
                cell(shifted(neighbor.value)) if neighbor else None,
            ]  # fmt: skip


def shifted(retention: Estimate) -> Estimate:
    """Return retention as a relative change."""
    ci = retention.ci and (retention.ci[0] - 1, retention.ci[1] - 1)
    return Estimate(retention.value - 1, ci, retention.n)


def known(runs: CollectedRuns, task: str, group: str | None) -> tuple[int, int]:
    """Return known and asked items about the concepts, over the targets in which the form or group counts."""
    items = (run.ratios.items["forget"].get((task, group)) for run in runs.complete if run.ratios)
    found = [one.known for one in items if one]
    return sum(one.known for one in found), sum(one.asked for one in found)


def recall_rows(summary: MethodSummary) -> Iterator[list[Cell]]:
    """Yield a row for each task with answers in words, and one for the worst case over all of them."""
    keys = [RECALL_OF_KNOWN._replace(task=name) for name in TASKS]
    for key in (*keys, WORST_CASE_RECALL):
        if found := summary.metrics.get(key):
            title = task_title(key.task) if key.task else "worst case over all of them"
            yield [title, found.value.n, cell(found.baseline), cell(found.value)]


def on_white(plot: str) -> str:
    """Return an SVG that is opaque and has its own colors: a page shows it as an image, which cannot follow the page's."""
    names = "".join(
        f"--form-{number}: {light}; " for number, (light, _) in enumerate(form_colors(), 1) if f"--form-{number})" in plot
    )
    return plot.replace("<svg ", f'<svg style="{names}background: white; color: black" ', 1)


def main() -> None:
    """Read a folder of runs and write both results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("name", help="of the model, in the files' names")
    parser.add_argument("--command", default="formless run reach --out runs/reach")
    parser.add_argument("--missing", default="", help="what is not measured yet")
    given = parser.parse_args()
    runs = collect_folder(given.runs)
    (summary,) = (found for found in summarize(runs) if not found.is_baseline)
    model = summary.condition.model
    shared: dict[str, Any] = {
        "topic": "Forgetting and retention", "date": date.today(), "versions": provenance.versions(),
        "hardware": provenance.hardware(),
        "n": f"{len(summary.targets)} targets of the sample set; confidence intervals over targets",
        "command": [given.command, f"python -m tools.reach runs/reach {given.name}"],
    }  # fmt: skip
    missing = [given.missing] if given.missing else []
    percent = {"unit": "%", "format": "+.0f", "ci_format": "+.0f"}
    figure = FOLDER / f"reach_{given.name}.svg"
    plots = [mention_plot(found) for found in summary_maps(summary) if (found.split, found.grouped_by) == ("forget", "mention")]
    for plot in plots:
        figure.write_text(on_white(plot), "utf-8")
    write_result(FOLDER / f"reach_{given.name}.json", Result(
        title=f"How far one ROCR edit reaches, {model}",
        about="What one ROCR edit of the full name takes away from the probability of the right answer, by form, by how the "
        "question names the concept, and by kind of question; over the items that the original model knows.",
        columns=[
            Column(name="asked as"), Column(name="mention or kind"), Column(name="targets"), Column(name="known items"),
            Column(name="of asked"), Column(name="about the concept", **percent), Column(name="targets (neighbors)"),
            Column(name="about its neighbors", **percent),
        ],
        rows=list(forgetting_rows(summary, runs)), figure=figure.name if plots else None,
        notes=[*missing, *FORGETTING_NOTES], **shared,
    ))  # fmt: skip
    share = {"unit": "%", "format": ".0f", "ci_format": ".0f"}
    write_result(FOLDER / f"recall_{given.name}.json", Result(
        title=f"What can still be got out after one ROCR edit, {model}",
        about="The share of the facts that the original model knows about the concept which an answer in words holds, greedy "
        "and one line long; the last row counts a fact that any of the answers holds.",
        columns=[
            Column(name="asked as"), Column(name="targets"), Column(name="original", **share), Column(name="edited", **share),
        ],
        rows=list(recall_rows(summary)), notes=[*missing, *RECALL_NOTES], **shared,
    ))  # fmt: skip


FORGETTING_NOTES = [
    "An item is known if the original model gives the right answer a higher probability per token than each of five wrong "
    "answers of the same kind, or than the other options. A form, mention or kind counts for a target if the original knows "
    "more of its items than chance gives; `targets` is their number, and a row without a target is left out.",
    "The edit is keyed on the full name alone. The change is edited/original - 1 of the mean probability (of a choice, above "
    "chance), the geometric mean over targets.",
]
RECALL_NOTES = [
    "A fact is known if some form or mention that counts knows it; facts with the same right answer are one, and each reverse "
    "question is one of its own. The original model does not say all that it prefers, least of all in the worst form.",
    "By mention and by kind, a task asks each fact in many ways: its row is the mean over all of them, not over facts.",
]


if __name__ == "__main__":
    main()

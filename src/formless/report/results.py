"""`results`: every metric of every run as one long table, for pandas and what is built on it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formless.evaluation.record import Record
from formless.evaluation.statistics import Metric
from formless.experiment.result import RunResult
from formless.report.open_unlearning import TOOL, Evaluation
from formless.report.runs import CollectedRuns, RunMetrics, collect

if TYPE_CHECKING:
    import pandas

COLUMNS = (
    "model", "method", "target", "seed", "task", "split", "group", "metric", "value", "ci_low", "ci_high", "n", "tool",
)  # fmt: skip


def results(folder: str | Path, *others: str | Path) -> pandas.DataFrame:
    """Return every metric of every complete run as one row of a long table.

    Columns: model, method, target (its folder's name), seed, task, split, group, metric, value, ci_low, ci_high, n, tool. The
    interval and n are over items. A metric over several tasks, such as the form gap, has no task, and neither interval nor n.
    Metrics of tasks on which an edit cannot act are left out. Every record is verified as it is read.

    The tool is `formless`, or `open-unlearning`: its `*_EVAL.json` and `*_SUMMARY.json` do not say of which model they are.
    There the method is the name of the run's folder and the target the benchmark.

    What has no row is in `attrs`: `failed` and `missing` name runs, `left_out` counts records that count nowhere. There is a
    warning if anything is.

    Args:
        folder: A folder of `formless run`, or records of `formless eval --out`.
        others: More of them. Where several are given, the names of methods start with that of their folder.

    Raises:
        DataError: There are no records, or two of the same model, method, target and seed.

    Examples:
        >>> import formless
        >>> lm, target = formless.load("smollm2"), formless.find_target("sample", "Marie Curie")
        >>> formless.evaluate(lm, target, "qa", limit=2, progress=False).save("records/original.json")
        >>> table = formless.results("records")
        >>> table[table.metric == "probability"].split.tolist()
        ['forget', 'neighbor']
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []

    def add(run: RunMetrics, record: Record, _result: RunResult | None) -> None:
        rows.extend(_rows(run, record))

    found = collect([Path(one) for one in (folder, *others)], add)
    rows.extend(row for evaluation in found.evaluations for row in _evaluation_rows(evaluation))
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"seed": "Int64", "n": "Int64"})
    table.attrs |= _without_rows(found)
    if notes := _notes(found):
        warnings.warn(f"{notes}; see the table's attrs", stacklevel=2)
    return table


def _rows(run: RunMetrics, record: Record) -> list[dict[str, Any]]:
    """Return the rows of a run, those of its record's metrics with their intervals."""
    own: Mapping[Any, Metric] = record.metrics()
    rows = []
    for key, value in run.metrics.items():
        metric = own.get(key)
        low, high = (metric.ci if metric else None) or (None, None)
        rows.append(
            {
                "model": run.condition.model, "method": run.condition.method, "target": run.target, "seed": run.seed,
                **key._asdict(), "value": value, "ci_low": low, "ci_high": high, "n": metric.n if metric else None,
                "tool": "formless",
            }
        )  # fmt: skip
    return rows


def _evaluation_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the rows of what open-unlearning measured."""
    return [
        {
            "model": None, "method": evaluation.name, "target": " + ".join(evaluation.benchmarks), "seed": None,
            **key._asdict(), "value": found.value, "ci_low": low, "ci_high": high, "n": found.n or None, "tool": TOOL,
        }
        for key, found in evaluation.metrics.items() for low, high in [found.ci or (None, None)]
    ]  # fmt: skip


def _without_rows(found: CollectedRuns) -> dict[str, Any]:
    """Return the runs without rows, as plain types."""
    return {
        "failed": [{"run": run.title, "reason": run.reason} for run in found.failed],
        "missing": [title for _, title in found.missing],
        "left_out": dict(found.left_out),
    }


def _notes(found: CollectedRuns) -> str:
    """Return what has no row, as one clause; empty where everything has."""
    counts = {"runs failed": len(found.failed), "runs are missing": len(found.missing), "left out": found.left_out.total()}
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)

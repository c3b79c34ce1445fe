"""One self-contained HTML page about one edit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from formless import store
from formless.evaluation.record import Record
from formless.report.independence import independence
from formless.report.plots import split_chart, training_chart
from formless.report.summary import Change, compare, compare_tasks
from formless.report.text import (
    absent_as_text,
    difference,
    independence_as_text,
    interval,
    percent,
    percent_interval,
    probability,
)


def write_report(path: Path, original: Record, edited: Record, *, command: str = "") -> list[Change]:
    """Write the page and return the table's rows.

    Args:
        path: The HTML file.
        original: The untouched model's record.
        edited: The edited model's record.
        command: How to repeat it.
    """
    changes = compare(original, edited)
    splits = {split: [change for change in changes if change.split == split] for split in ("forget", "neighbor")}
    environment = Environment(loader=PackageLoader("formless.report"), autoescape=True, undefined=StrictUndefined)
    environment.filters.update(
        probability=probability, percent=percent, percents=percent_interval, interval=interval, difference=difference,
        facts=facts_of, curves=training_chart,
    )  # fmt: skip
    page = environment.get_template("report.html.j2").render(
        original=original, edited=edited, splits=splits, figures=compare_tasks(original, edited),
        independence=independence_as_text(independence([(original, edited)])), absent=absent_as_text(edited),
        charts={split: split_chart(rows) for split, rows in splits.items() if any(not row.absent for row in rows)},
        answers=list(zip(original.answers, edited.answers, strict=True)), command=command,
    )  # fmt: skip
    store.write_text(path, page)
    return changes


def facts_of(edit: dict[str, Any]) -> list[tuple[str, str]]:
    """An edit's facts as label and text, for tables."""
    config, facts = edit["config"], edit["facts"]
    rows = [("method", edit["method"]), ("concept", edit["subject"])]
    rows += [(key.replace("_", " "), str(value)) for key, value in config.items()]
    rows += [(key.replace("_", " "), f"{value:.4g}") for key, value in facts.items() if isinstance(value, float)]
    rows += [("seconds", f"{edit['seconds']:.2f}")]
    return rows

"""One self-contained HTML page about one edit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from formless import storage
from formless.evaluation.record import FormResult, Record
from formless.report.plots import split_chart
from formless.report.summary import Change, compare


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
    environment.filters.update(probability=probability, percent=percent, interval=percent_interval, facts=facts_of)
    page = environment.get_template("report.html.j2").render(
        original=original, edited=edited, splits=splits,
        charts={split: split_chart(rows) for split, rows in splits.items() if any(not row.absent for row in rows)},
        answers=list(zip(original.answers, edited.answers, strict=True)), command=command,
    )  # fmt: skip
    storage.write_text(path, page)
    return changes


def probability(value: float | None) -> str:
    """Three digits that count, so that small ones stay readable."""
    return "–" if value is None else (f"{value:.3f}" if value >= 0.01 or value == 0 else f"{value:.1e}")


def percent(value: float | None) -> str:
    """A relative change with its sign."""
    return "–" if value is None else f"{100 * value:+.1f} %"


def percent_interval(bounds: tuple[float, float] | None) -> str:
    """The interval of a relative change."""
    return "" if bounds is None else " … ".join(_whole_percent(100 * bound) for bound in bounds)


def _whole_percent(value: float) -> str:
    """Whole percents, with a tenth where a whole one would hide the sign."""
    return f"{value:+.1f}" if abs(value) < 1 else f"{value:+.0f}"


def changes_as_text(changes: Sequence[Change]) -> list[tuple[str, ...]]:
    """The table for a terminal: form, split, original, unlearned, change, interval, probes."""
    return [
        (c.form, c.split, "absent", "", "", "", "0") if c.absent else
        (c.form, c.split, probability(c.original.mean), probability(c.edited.mean), percent(c.relative),
         percent_interval(c.interval), _probes(c.edited))
        for c in changes
    ]  # fmt: skip


def record_as_text(record: Record) -> list[tuple[str, ...]]:
    """One model's figures for a terminal: form, split, probability, interval, probes."""
    return [
        (form.form, form.split, "absent", "", "0") if form.status == "absent" else
        (form.form, form.split, probability(form.mean), " … ".join(map(probability, form.interval or ())), _probes(form))
        for form in record.forms
    ]  # fmt: skip


def _probes(result: FormResult) -> str:
    return f"{result.count}" + (f" (+{result.unscored} unscored)" if result.unscored else "")


def facts_of(edit: dict[str, Any]) -> list[tuple[str, str]]:
    """An edit's facts as label and text, for tables."""
    config, facts = edit["config"], edit["facts"]
    rows = [("method", edit["method"]), ("concept", edit["subject"])]
    rows += [(key.replace("_", " "), str(value)) for key, value in config.items()]
    rows += [(key.replace("_", " "), f"{value:.4g}") for key, value in facts.items() if isinstance(value, float)]
    rows += [("seconds", f"{edit['seconds']:.2f}")]
    return rows

"""Tables, CSV and the page of forgetting at equal retention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from formless import store
from formless.evaluation.record import MetricKey
from formless.evaluation.statistics import MIN_TARGETS, Estimate
from formless.report.frontier import HARMONIC, Frontier, Row
from formless.report.mentions import short_title
from formless.report.page import report_environment
from formless.report.plots import form_colors, frontier_plot
from formless.report.ratios import FORGETTING, RETENTION
from formless.report.runs import Condition
from formless.report.tables import Plain, Table, number, spread_text, task_title


def level_title(level: float) -> str:
    """Return a level of retention as tables write it, e.g. `97 %`."""
    return f"{100 * level:g} %"


def row_title(key: MetricKey) -> str:
    """Return the name of a row: the mean over forms, a form, or a form by one mention."""
    if key.task is None:
        return "mean over forms that count"
    return f"{short_title(key.task)}, {key.group}" if key.group else task_title(key.task)


def overview_table(found: Sequence[Frontier], levels: Sequence[float], title: str = "") -> Table:
    """Return mean forgetting of each method at each level, a row each."""
    rows = tuple(
        (one.condition.method, level_title(level), *_level_cells(one.rows[FORGETTING].levels[level], len(one.targets)))
        for one in found
        for level in levels
    )
    note = "; ".join(f"{one.condition.method}: {one.gaps}" for one in found if one.gaps)
    return Table(title, ("method", "retention", "forgetting", "95 % CI", "targets"), rows, note)


def harmonic_table(found: Sequence[Frontier], title: str = "") -> Table:
    """Return the best harmonic mean of forgetting and retention of each method, and the strength that gives it."""
    rows = tuple(
        (one.condition.method, f"{one.best_strength:g}", number(one.harmonic.value), spread_text(one.harmonic))
        for one in found
        if one.harmonic and one.best_strength is not None
    )
    return Table(title, ("method", "strength", "best harmonic mean", "95 % CI"), rows)


def short_table(found: Frontier, levels: Sequence[float], title: str = "") -> Table:
    """Return one method's forgetting at each level, by form and mention, with the number of targets in brackets."""
    cells = (
        (key, [f"{number(value.value)} ({value.n})" if value else "– (0)" for value in map(row.levels.get, levels)])
        for key, row in found.rows.items()
    )
    heads = (f"at {level_title(level)}" for level in levels)
    return Table(title or found.condition.title, ("way of asking", *heads), tuple((row_title(key), *row) for key, row in cells))


def level_table(found: Frontier, levels: Sequence[float], title: str = "") -> Table:
    """Return one method's forgetting at each level, by form and by form and mention."""
    rows = tuple((row_title(key), *_cells(row, levels)) for key, row in found.rows.items())
    return Table(title or found.condition.title, ("way of asking", *_heads(levels)), rows, found.gaps)


def curve_table(found: Frontier, title: str = "") -> Table:
    """Return one method's mean retention and forgetting by strength, over its targets."""
    rows = tuple(
        (f"{strength:g}", number(retention.value), spread_text(retention), number(forgetting.value), spread_text(forgetting))
        for strength, (retention, forgetting) in found.curve.items()
    )
    return Table(title or found.condition.title, ("strength", "retention", "95 % CI", "forgetting", "95 % CI"), rows)


def _heads(levels: Sequence[float]) -> list[str]:
    return [head for level in levels for head in (f"at {level_title(level)}", "95 % CI", "targets")]


def _cells(row: Row, levels: Sequence[float]) -> list[str]:
    """Return value, confidence interval and number of targets at each level."""
    return [cell for level in levels for cell in _level_cells(row.levels[level], row.targets)]


def _level_cells(found: Estimate | None, targets: int) -> tuple[str, str, str]:
    if found is None:
        return "–", "", f"0 of {targets}"
    return number(found.value), spread_text(found), f"{found.n} of {targets}"


def level_rows(found: Sequence[Frontier]) -> list[Plain]:
    """Return plain numbers for CSV, a row for each method, metric, form, mention and level, and one for the harmonic mean.

    Columns: model, method, metric (`forgetting` or `harmonic_mean`), task, group, level (of retention), strength (of the
    harmonic mean), value, ci_low, ci_high, reached (targets that reach the level), targets. An empty cell is no value.
    """
    rows = []
    for one in found:
        for key, row in one.rows.items():
            rows += [_plain(one.condition, key, value, row.targets, level=level) for level, value in row.levels.items()]
        rows.append(_plain(one.condition, HARMONIC, one.harmonic, len(one.targets), strength=one.best_strength))
    return rows


def curve_rows(found: Sequence[Frontier]) -> list[Plain]:
    """Return the mean curves for CSV: a row for each method, strength, and retention or forgetting.

    Strength 0 is the original model, which has retention 1 and forgetting 0 by definition.
    """
    rows = []
    for one in found:
        origin = (Estimate(1.0, None, len(one.targets)), Estimate(0.0, None, len(one.targets)))
        for strength, pair in {0.0: origin, **one.curve}.items():
            rows += [
                _plain(one.condition, key, estimate, len(one.targets), strength=strength)
                for key, estimate in zip((RETENTION, FORGETTING), pair, strict=True)
            ]
    return rows


def _plain(
    condition: Condition,
    key: MetricKey,
    found: Estimate | None,
    targets: int,
    *,
    level: float | None = None,
    strength: float | None = None,
) -> Plain:
    low, high = (found.ci if found else None) or (None, None)
    return {
        "model": condition.model, "method": condition.method, "metric": key.metric, "task": key.task, "group": key.group,
        "level": level, "strength": strength, "value": found.value if found else None, "ci_low": low, "ci_high": high,
        "reached": found.n if found else 0, "targets": targets,
    }  # fmt: skip


def write_frontier_page(
    path: Path,
    found: Sequence[Frontier],
    levels: Sequence[float],
    strengths: Sequence[float],
    *,
    without: Mapping[Condition, str] | None = None,
    failed: Sequence[tuple[str, str]] = (),
    command: str = "",
) -> None:
    """Write the page of a folder of runs: curves, forgetting at each level, by form and mention.

    Args:
        path: The HTML file.
        found: Every model and method that has a curve.
        levels: The levels of retention.
        strengths: The strengths of the points.
        without: What does not count of methods without a curve.
        failed: Title and reason of each record that could not be made.
        command: How to write the page again.

    Raises:
        OutputError: The file cannot be written.
    """
    names = dict.fromkeys(one.condition.model for one in found)
    models: list[dict[str, Any]] = []
    for name in names:
        own = [one for one in found if one.condition.model == name]
        details = [(one, level_table(one, levels), curve_table(one)) for one in own]
        models.append({"name": name, "plot": frontier_plot(own, levels), "overview": overview_table(own, levels),
                       "harmonic": harmonic_table(own), "details": details})  # fmt: skip
    page = report_environment().get_template("frontier.html.j2").render(
        models=models, levels=", ".join(map(level_title, levels)), strengths=", ".join(f"{one:g}" for one in strengths),
        without={condition.title: gaps for condition, gaps in (without or {}).items()}, failed=failed, command=command,
        form_colors=form_colors(), min_targets=MIN_TARGETS,
    )  # fmt: skip
    store.write_text(path, page)

"""Tables of text from comparisons and summaries: for a terminal, Markdown, LaTeX and HTML; and CSV for programs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from formless.evaluation.record import MetricKey, Record
from formless.evaluation.registry import TASKS
from formless.evaluation.statistics import CI, Estimate
from formless.evaluation.task import MetricSpec
from formless.report.comparison import Change, Comparison, absent_tasks
from formless.report.ratios import DERIVED, FORGETTING_ALL
from formless.report.summary import MethodSummary, Summary, metric_keys, source

Plain = dict[str, str | int | float | None]

_DERIVED = {key.metric for key in DERIVED}
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "…": r"\ldots{}",
    "–": "--",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        title: What it shows.
        columns: Their heads.
        rows: As many cells as columns each.
        note: What does not count in it.
        labels: How many leading columns hold text; the others hold numbers.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    labels: int = 1


# --- Names of metrics


def metric_spec(key: MetricKey) -> MetricSpec | None:
    """Return what the task's entry says of a metric; None for a derived one, and of a task that is not installed."""
    task = TASKS.get(key.task) if key.task else None
    return next((spec for spec in task.metrics if spec.name == key.metric), None) if task else None


def task_title(task: str) -> str:
    """Return a task's title; its name where the task is not installed."""
    return TASKS[task].title if task in TASKS else task


def metric_title(key: MetricKey, *, short: bool = False) -> str:
    """Return a metric's title for people, e.g. `Fill in the blank, token accuracy, forget`.

    Args:
        key: The metric.
        short: Leave out the split, and the metric where it is the only headline metric of its task.
    """
    spec = metric_spec(key)
    name = (spec.title if spec else "") or key.metric.replace("_", " ")
    if short and spec and key.task and [one for one in TASKS[key.task].metrics if one.headline] == [spec]:
        name = ""
    parts = (task_title(key.task) if key.task else "", name, key.group, None if short else key.split)
    return ", ".join(filter(None, parts))


def column_name(key: MetricKey) -> str:
    """Return a metric's column in CSV files: task, split, group and metric, as far as it has them, joined by dots.

    E.g. `fb.forget.probability`, `level3.forget.role_play.probability`, `mmlu.accuracy`, `fb.forgetting`, `form_gap`.
    """
    parts = (key.task, key.split, key.group, key.metric)
    return ".".join(part.replace(" ", "_") for part in parts if part)


def is_headline(key: MetricKey) -> bool:
    """Return whether short tables show a metric: those of whole tasks whose entries say so, and derived ones of known items."""
    spec = metric_spec(key)
    return key.group is None and key.metric != FORGETTING_ALL.metric and (spec is None or spec.headline)


# --- Numbers as text


def number(value: float | None) -> str:
    """Return three decimals, or scientific notation below 0.01, so that small numbers stay readable."""
    return "–" if value is None else (f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.1e}")


def percent(value: float | None) -> str:
    """Return a relative change with its sign."""
    return "–" if value is None else f"{round(100 * value, 1) + 0.0:+.1f} %"


def difference(value: float | None) -> str:
    """Return a difference with its sign."""
    return "–" if value is None else f"{'+' if value >= 0 else '-'}{number(abs(value))}"


def ci_text(ci: CI | None) -> str:
    """Return a confidence interval; empty without one."""
    return "" if ci is None else " … ".join(map(number, ci))


def percent_ci(ci: CI | None) -> str:
    """Return the confidence interval of a relative change in percent; empty without one."""
    return "" if ci is None else " … ".join(_whole_percent(100 * bound) for bound in ci)


def spread_text(found: Estimate | None, *, relative: bool = False) -> str:
    """Return the confidence interval of a mean over targets, or each target's value where they are too few for one."""
    if found is None or found.ci:
        return (percent_ci if relative else ci_text)(found.ci if found else None)
    values = ", ".join(map(percent if relative else number, found.values))
    return f"each: {values}" if found.n > 1 and values else ""


def _whole_percent(value: float) -> str:
    """Return whole percents, with a tenth where a whole one would hide the sign."""
    return f"{value:+.1f}" if abs(value) < 1 else f"{value:+.0f}"


def p_value(value: float | None) -> str:
    """Return a p-value; empty where nothing was tested."""
    return "" if value is None else f"{value:.3f}" if value >= 0.001 else "< 0.001"


def item_count(n: int, skipped: int) -> str:
    """Return how many items count and how many were skipped."""
    return f"{n}" + (f" (+{skipped} skipped)" if skipped else "")


def change_text(change: Change) -> tuple[str, str]:
    """Return the change that matters with its confidence interval: relative for knowledge of a split, else absolute."""
    if not change.applicable:
        return "not applicable", ""
    spec = metric_spec(change.key)
    if change.key.split and spec and spec.higher_is_better and change.relative:
        return percent(change.relative.value), percent_ci(change.relative.ci)
    return difference(change.difference.value), ci_text(change.difference.ci)


def absent_text(record: Record) -> str:
    """Return the tasks without metrics and why, in one line; empty where there are none."""
    return "; ".join(
        f"{', '.join(task_title(one.task) + (f' ({one.split})' if one.split else '') for one in results)}: {reason}"
        for reason, results in absent_tasks(record).items()
    )


# --- Tables of metrics


def comparison_tables(comparison: Comparison, title: str = "") -> list[Table]:
    """Return the change of every headline metric, whole tasks and groups: a table for each kind of metric."""
    rows = [
        (change.key, (number(change.original.value), number(change.edited.value), *change_text(change),
                      item_count(change.edited.n, change.skipped)))
        for change in comparison.changes
    ]  # fmt: skip
    return _by_block(title, ("original", "unlearned", "change", "95 % CI", "items"), rows)


def record_tables(record: Record, title: str = "") -> list[Table]:
    """Return every headline metric of one model: a table for each kind of metric."""
    rows = [
        (MetricKey(result.task, result.split, found.metric, found.group),
         (number(found.value), ci_text(found.ci), item_count(found.n, result.count_skipped(found.group))))
        for result in record.tasks for found in result.metrics
    ]  # fmt: skip
    return _by_block(title, ("value", "95 % CI", "items"), rows)


def summary_tables(
    metrics: Mapping[MetricKey, Summary], title: str = "", heads: tuple[str, str] = ("baseline", "mean")
) -> list[Table]:
    """Return the headline metrics that have a baseline, beside it: a table for each kind of metric."""
    rows = [
        (key, (number(found.baseline.value), number(found.value.value), difference(found.difference.value),
               spread_text(found.difference), percent(found.relative.value if found.relative else None), str(found.value.n)))
        for key, found in metrics.items() if found.baseline and found.difference
    ]  # fmt: skip
    return _by_block(title, (*heads, "difference", "95 % CI", "change", "n"), rows)


def _by_block(title: str, columns: tuple[str, ...], rows: Sequence[tuple[MetricKey, tuple[str, ...]]]) -> list[Table]:
    """Return a table for each kind of metric, with the columns metric and group (where there are groups)."""
    cells = {key: row for key, row in rows if is_headline(key._replace(group=None))}
    tables = []
    for block, keys in metric_blocks(cells).items():
        has_groups = any(key.group for key in keys)
        labels = ("metric", *(("group",) if has_groups else ()))
        body = tuple((_name(key), *((key.group or "",) if has_groups else ()), *cells[key]) for key in keys)
        tables.append(Table(f"{title}: {block}" if title else block, (*labels, *columns), body, labels=len(labels)))
    return tables


def _name(key: MetricKey) -> str:
    """Return a metric's title without its group, which has a column of its own."""
    return metric_title(key._replace(group=None), short=True)


# --- Tables over targets


def metric_blocks(keys: Iterable[MetricKey]) -> dict[str, list[MetricKey]]:
    """Return metrics by what they say, in their order."""
    independence: list[MetricKey] = []
    forget: list[MetricKey] = []
    neighbor: list[MetricKey] = []
    other: list[MetricKey] = []
    by_split = {"forget": forget, "neighbor": neighbor, None: other}
    for key in keys:
        (independence if key.metric in _DERIVED and metric_spec(key) is None else by_split[key.split]).append(key)
    blocks = {
        "form independence": independence, "about the concept, to forget": forget, "about its neighbors, to keep": neighbor,
        "abilities and other tasks": other,
    }  # fmt: skip
    return {title: block for title, block in blocks.items() if block}


def overview_tables(summaries: Sequence[MethodSummary]) -> list[Table]:
    """Return a table per model and kind of metric, a row for each method: the mean, and its relative change if any."""
    tables = []
    for model in dict.fromkeys(summary.condition.model for summary in summaries):
        own = [summary for summary in summaries if summary.condition.model == model]
        note = gaps_note(own)
        for title, keys in metric_blocks(filter(is_headline, metric_keys(own))).items():
            body = tuple(
                (summary.condition.method, str(len(summary.targets)), *(_short(summary.metrics.get(key)) for key in keys))
                for summary in own
                if not (summary.is_baseline or summary.evaluation) or any(key in summary.metrics for key in keys)
            )
            heads = (metric_title(key, short=True) for key in keys)
            tables.append(Table(f"{model}: {title}", ("method", "targets", *heads), body, note))
    return tables


def gaps_note(summaries: Iterable[MethodSummary]) -> str:
    """Return what does not count, by method; empty where everything does."""
    return "; ".join(f"{summary.condition.method}: {summary.gaps}" for summary in summaries if summary.gaps)


def detail_table(summary: MethodSummary) -> Table:
    """Return every metric of one method: baseline, mean, difference and relative change with intervals, p, targets."""
    columns = (
        "metric", "baseline", "mean", "95 % CI", "difference", "95 % CI", "change", "95 % CI", "p",
        "items" if summary.evaluation else "targets",
    )  # fmt: skip
    body = tuple((metric_title(key), *_details(found)) for key, found in summary.metrics.items())
    return Table(f"{summary.condition.title}: {len(summary.targets)} targets", columns, body, summary.gaps)


def _details(found: Summary) -> tuple[str, ...]:
    baseline = number(found.baseline.value) if found.baseline else ""
    absolute = (difference(found.difference.value), spread_text(found.difference)) if found.difference else ("", "")
    relative = (percent(found.relative.value), spread_text(found.relative, relative=True)) if found.relative else ("", "")
    value = found.value
    return baseline, number(value.value), spread_text(value), *absolute, *relative, p_value(value.p), str(value.n)


def _short(found: Summary | None) -> str:
    if found is None:
        return "–"
    return number(found.value.value) + (f" ({percent(found.relative.value)})" if found.relative else "")


def plain_rows(summaries: Sequence[MethodSummary]) -> list[Plain]:
    """Return rows of plain numbers, for CSV and for other programs; a metric that a method lacks is None.

    After the counts, every metric has a column named by `column_name` for its mean, and columns with the endings
    `.ci_low`, `.ci_high`, `.baseline`, `.difference`, `.difference.ci_low`, `.difference.ci_high`, `.relative`,
    `.relative.ci_low`, `.relative.ci_high`, `.p` and `.n` (targets). Every row has every column; columns that would be
    empty throughout are left out.
    """
    rows = [_counts(summary) for summary in summaries]
    for row, summary in zip(rows, summaries, strict=True) if any(summary.evaluation for summary in summaries) else ():
        row["tool"], row["folder"] = source(summary)
    for key in metric_keys(summaries):
        found = [_plain(summary.metrics.get(key)) for summary in summaries]
        for ending in _ENDINGS:
            if any(values[ending] is not None for values in found):
                for row, values in zip(rows, found, strict=True):
                    row[column_name(key) + ending] = values[ending]
    return rows


def _counts(summary: MethodSummary) -> Plain:
    """Return what a row is of; the files of another tool do not name the model."""
    return {
        "model": None if summary.evaluation else summary.condition.model, "method": summary.condition.method,
        "targets": len(summary.targets),
        "seeds": summary.seeds, "runs": summary.runs, "complete": summary.complete, "failed": summary.failed,
        "missing": summary.missing, "targets_left_out": len(summary.left_out), "skipped": summary.skipped,
    }  # fmt: skip


def _plain(found: Summary | None) -> dict[str, float | None]:
    """Return a summary's parts by the ending of their column."""
    if found is None:
        return dict.fromkeys(_ENDINGS)
    baseline = found.baseline.value if found.baseline else None
    return {
        **_parts("", found.value), ".baseline": baseline, **_parts(".difference", found.difference),
        **_parts(".relative", found.relative), ".p": found.value.p, ".n": found.value.n or None,
    }  # fmt: skip


def _parts(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    low, high = (estimate.ci if estimate else None) or (None, None)
    return {name: estimate.value if estimate else None, f"{name}.ci_low": low, f"{name}.ci_high": high}


_ENDINGS = tuple(_plain(Summary(Estimate(0.0, None, 0))))


# --- Files


def as_csv(rows: Sequence[Plain]) -> str:
    """Return plain numbers at full precision; a cell is empty where a method lacks a metric."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def as_html(tables: Iterable[Table]) -> str:
    """Return tables for a notebook."""
    return "".join(map(_html, tables))


def _html(table: Table) -> str:
    head, *body = (
        "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
        for tag, cells in (("th", table.columns), *(("td", row) for row in table.rows))
    )
    return f"<table><caption>{escape(table.title)}</caption><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>"


def as_markdown(tables: Iterable[Table]) -> str:
    """Return a heading, a table and its note each."""
    return "\n".join(map(_markdown, tables))


def _markdown(table: Table) -> str:
    cells = [[cell.replace("|", r"\|") for cell in row] for row in (table.columns, *table.rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    lines.insert(1, f"|{' --- |' * table.labels}{' ---: |' * (len(table.columns) - table.labels)}")
    note = f"\nDoes not count: {table.note}.\n" if table.note else ""
    return "\n".join([f"### {table.title}", "", *lines, note])


def as_latex(tables: Iterable[Table]) -> str:
    """Return a `table` with a caption each; they need the packages booktabs and graphicx."""
    return "% \\usepackage{booktabs,graphicx}\n" + "\n".join(map(_latex, tables))


def _latex(table: Table) -> str:
    note = f". Does not count: {table.note}" if table.note else ""
    head, *body = (" & ".join(map(latex_text, row)) + r" \\" for row in (table.columns, *table.rows))
    alignment = "l" * table.labels + "r" * (len(table.columns) - table.labels)
    return "\n".join([
        r"\begin{table}", r"\centering", rf"\caption{{{latex_text(table.title + note)}.}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", head, r"\midrule", *body,
        r"\bottomrule", r"\end{tabular}}", r"\end{table}", "",
    ])  # fmt: skip


def latex_text(text: str) -> str:
    """Return text with LaTeX's own characters escaped, and a minus before a number as such."""
    escaped = re.sub("|".join(map(re.escape, _LATEX)), lambda match: _LATEX[match[0]], text)
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", escaped)

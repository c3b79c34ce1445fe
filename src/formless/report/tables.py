"""A summary as tables for people: terminal, Markdown and LaTeX; and as CSV for programs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from formless.report.means import Mean, MethodMeans, Plain, figure_names
from formless.report.runs import COMBINED, FORGETTING, GAP, RETENTION
from formless.report.text import difference, figure_title, interval, p_value, percent, percent_interval, probability

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
        columns: Their heads; the first is of names, the others of numbers.
        rows: As many cells as columns each.
        note: What is not in it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def figure_blocks(names: Iterable[str]) -> dict[str, list[str]]:
    """Figures by what they tell, in their order."""
    blocks: dict[str, list[str]] = {
        "form independence": [], "about the concept, to forget": [], "about its neighbors, to keep": [],
        "abilities and cost": [],
    }  # fmt: skip
    independence, forget, neighbor, other = blocks.values()
    for name in names:
        if name in (FORGETTING, RETENTION, GAP, COMBINED) or name.startswith((f"{FORGETTING}_", f"{RETENTION}_")):
            independence.append(name)
        else:
            (forget if name.startswith("forget_") else neighbor if name.startswith("neighbor_") else other).append(name)
    return {title: block for title, block in blocks.items() if block}


def overview_tables(rows: Sequence[MethodMeans]) -> list[Table]:
    """Per model and kind of figure one table, a row for each method: the mean, and its relative change where there is one."""
    tables = []
    for model in dict.fromkeys(row.group.model for row in rows):
        mine = [row for row in rows if row.group.model == model]
        note = "; ".join(f"{row.group.method}: {row.gaps}" for row in mine if row.gaps)
        for title, names in figure_blocks(figure_names(mine)).items():
            body = tuple(
                (row.group.method, str(len(row.targets)), *(_short(row.means.get(name)) for name in names))
                for row in mine
                if not row.is_baseline or any(name in row.means for name in names)
            )
            heads = [figure_title(name).removesuffix(", forget").removesuffix(", neighbor") for name in names]
            tables.append(Table(f"{model}: {title}", ("method", "targets", *heads), body, note))
    return tables


def detail_table(row: MethodMeans) -> Table:
    """Every figure of one method: the baseline, the mean, difference and relative change with their intervals, p, targets."""
    columns = ("figure", "baseline", "mean", "95 % interval", "difference", "95 % interval", "change", "95 % interval", "p",
               "targets")  # fmt: skip
    body = tuple((figure_title(name), *mean_as_text(mean)) for name, mean in row.means.items())
    return Table(f"{row.group.title}: {len(row.targets)} targets", columns, body, row.gaps)


def mean_as_text(mean: Mean) -> tuple[str, ...]:
    """Baseline, mean, interval, difference, interval, relative change, interval, p, targets."""
    change = ("", "", "", "", "")
    if mean.baseline is not None:
        change = (
            probability(mean.baseline), difference(mean.difference), interval(mean.difference_interval), percent(mean.relative),
            percent_interval(mean.relative_interval),
        )  # fmt: skip
    before, *after = change
    return before, probability(mean.value), interval(mean.interval), *after, p_value(mean.p), str(mean.targets)


def _short(mean: Mean | None) -> str:
    if mean is None:
        return "–"
    return probability(mean.value) + (f" ({percent(mean.relative)})" if mean.relative is not None else "")


def as_csv(rows: Sequence[Plain]) -> str:
    """Plain numbers at full precision; an empty cell where a figure is not had."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def as_markdown(tables: Iterable[Table]) -> str:
    """A heading, a table and its note each."""
    return "\n".join(map(_markdown, tables))


def _markdown(table: Table) -> str:
    cells = [[cell.replace("|", r"\|") for cell in row] for row in (table.columns, *table.rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    lines.insert(1, f"| --- |{' ---: |' * (len(table.columns) - 1)}")
    note = f"\nNot in it: {table.note}.\n" if table.note else ""
    return "\n".join([f"### {table.title}", "", *lines, note])


def as_latex(tables: Iterable[Table]) -> str:
    """A `table` with a caption each; they need the packages booktabs and graphicx."""
    return "% \\usepackage{booktabs,graphicx}\n" + "\n".join(map(_latex, tables))


def _latex(table: Table) -> str:
    note = f". Not in it: {table.note}" if table.note else ""
    head, *body = (" & ".join(map(latex_text, row)) + r" \\" for row in (table.columns, *table.rows))
    return "\n".join([
        r"\begin{table}", r"\centering", rf"\caption{{{latex_text(table.title + note)}.}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}", r"\toprule", head, r"\midrule", *body,
        r"\bottomrule", r"\end{tabular}}", r"\end{table}", "",
    ])  # fmt: skip


def latex_text(text: str) -> str:
    """Text with LaTeX's own characters written out, and a minus before a number as such."""
    written = re.sub("|".join(map(re.escape, _LATEX)), lambda match: _LATEX[match[0]], text)
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", written)

"""`formless summarize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from formless import store
from formless.cli import terminal
from formless.errors import DataError, UserError
from formless.report.means import MethodMeans, method_means, plain_rows
from formless.report.runs import Gathered, gather
from formless.report.tables import as_csv, as_latex, as_markdown, detail_table, overview_tables
from formless.report.text import difference, interval, percent, probability

BaselineOption = Annotated[str, typer.Option(help="The method that the others are compared with.")]


def summarize_command(
    records: Annotated[list[Path], typer.Argument(help="Folders of `formless run`, or records of `formless eval --out`.")],
    csv: Annotated[Path | None, typer.Option(help="Plain numbers, a row for each model and method.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Tables in Markdown.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Tables in LaTeX.")] = None,
    baseline: BaselineOption = "original",
    force: terminal.ForceOption = False,
) -> None:
    """Say per model and method every figure's mean over the targets that the baseline has too, and the difference from it.

    Also what each method forgot in every form and what the neighbors kept. A target's seeds are averaged first. Of a folder of
    runs, those of its last experiment count. The original model's loose records (evaluations without --edit) are found by
    model, target and probes, and only what was measured alike is averaged: the same model, number format, suite, limit and
    settings. What failed, is missing or left out is counted.

    Example: formless summarize runs/sample --csv sample.csv
    """
    outputs = [path for path in (csv, markdown, latex) if path]
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise UserError("two outputs have one name", where=outputs[0], remedy="choose another")
    for path in outputs:
        store.refuse_existing(path, force=force)
    found = gather(records)
    tell_left_out(found)
    rows = method_means(found, baseline)
    compared = [row for row in rows if not row.is_baseline]
    if not any(row.targets for row in compared):
        remedy = "evaluate without --edit too, with the same model, target and suite, or run the method original"
        raise DataError("no edited model's record has its original beside it", where=records[0], remedy=remedy)
    for row in compared:
        _show(row)
    tables = [*overview_tables(rows), *map(detail_table, compared)]
    texts = ((csv, as_csv(plain_rows(rows))), (markdown, as_markdown(tables)), (latex, as_latex(tables)))
    for chosen, text in texts:
        if chosen:
            store.write_text(chosen, text)
            terminal.out.print(f"written: {chosen}", soft_wrap=True, markup=False)


def tell_left_out(found: Gathered) -> None:
    """Say what counts nowhere, and what failed."""
    for reason, count in found.left_out.items():
        terminal.log.print(f"left out: {count} {reason}", soft_wrap=True, markup=False)
    for failure in found.failures:
        terminal.log.print(f"failed: {failure.title}: {failure.reason}", soft_wrap=True, markup=False)


def _show(row: MethodMeans) -> None:
    """One method's figures, form independence first."""
    title = f"{row.group.title}: {len(row.targets)} targets"
    if row.independence:
        terminal.show_independence(row.independence, title)
    columns = ("figure", "baseline", "mean", "difference", "95 % interval", "change", "targets")
    shown = [
        (name, probability(mean.baseline), probability(mean.value), difference(mean.difference),
         interval(mean.difference_interval), percent(mean.relative), str(mean.targets))
        for name, mean in row.means.items() if mean.baseline is not None
    ]  # fmt: skip
    terminal.show_table(columns, shown, "" if row.independence else title)
    if row.gaps:
        terminal.out.print(f"not in {row.group.method}: {row.gaps}", soft_wrap=True, markup=False)

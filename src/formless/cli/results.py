"""`formless summarize`, `formless report` and `formless compare`: what finished runs and records show."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from formless import store
from formless.cli import terminal
from formless.errors import DataError, UserError

if TYPE_CHECKING:
    from formless.report.folders import SharedRuns
    from formless.report.runs import CollectedRuns
    from formless.report.summary import MethodSummary

_SHOWN = 20
_CHARACTERS = 60

BaselineOption = Annotated[str, typer.Option(help="The method that the others are compared with.")]


def summarize_command(
    records: Annotated[
        list[Path],
        typer.Argument(help="Folders of `formless run`, records of `formless eval --out`, or open-unlearning's."),
    ],
    csv: Annotated[Path | None, typer.Option(help="Write plain numbers, a row for each model and method.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write tables in Markdown.")] = None,
    latex: Annotated[Path | None, typer.Option(help="Write tables in LaTeX.")] = None,
    baseline: BaselineOption = "original",
    details: Annotated[
        bool, typer.Option("--details", help="Also show each method's forms and mentions, and intervals.")
    ] = False,
    force: terminal.ForceOption = False,
    json: terminal.JsonOption = False,
) -> None:
    """Show the means of metrics over targets in one table for each model, a row for each method.

    It has as many metrics as the terminal has room for; --csv and --json have all, and the differences from the baseline.
    --details shows what each method forgot in every form and what remains of the neighbors. A method is compared on the targets
    that the baseline has too. A target's seeds are averaged first. Of a folder of runs, those of its last experiment count. The
    original model's loose records (evaluations without --edit) are found by model, target and items, and only what was measured
    alike is averaged: the same model, dtype, suite, limit and settings. What failed, is missing or left out is counted.
    The *_EVAL.json and *_SUMMARY.json of open-unlearning, or folders with them, give rows of their own that count in no mean.

    Example: formless summarize runs/sample saves/unlearn --csv sample.csv
    """
    from formless.report.as_json import summaries_json
    from formless.report.runs import collect
    from formless.report.summary import evaluation_rows, source_notes, summarize
    from formless.report.tables import (
        as_csv,
        as_latex,
        as_markdown,
        detail_table,
        overview_tables,
        plain_rows,
    )

    outputs = [path for path in (csv, markdown, latex) if path]
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise UserError("two outputs have the same path", where=outputs[0], remedy="choose another")
    for path in outputs:
        store.refuse_existing(path, force=force)
    with terminal.progress("reading records"):
        collected = collect(records)
    _show_left_out(collected)
    summaries = summarize(collected, baseline)
    beside = evaluation_rows(collected)
    compared = [summary for summary in summaries if not summary.is_baseline]
    if not beside and not any(summary.targets for summary in compared):
        remedy = "evaluate without --edit too, with the same model, target and suite, or run the method original"
        raise DataError("no edited model's record has its original beside it", where=records[0], remedy=remedy)
    rows = [*summaries, *beside]
    notes = source_notes(rows)
    for model in () if json else dict.fromkeys(summary.condition.model for summary in rows):
        _show_methods([summary for summary in rows if summary.condition.model == model])
    for line in () if json else notes:
        terminal.out.print(line, soft_wrap=True)
    for summary in compared if details and not json else ():
        _show_summary(summary)
    tables = [*overview_tables(rows), *map(detail_table, [*compared, *beside])]
    texts = (
        (csv, as_csv(plain_rows(rows))),
        (markdown, as_markdown(tables) + "".join(f"\n- {line}\n" for line in notes)),
        (latex, as_latex(tables) + "".join(f"% {line}\n" for line in notes)),
    )
    for chosen, text in texts:
        if chosen:
            store.write_text(chosen, text)
            terminal.say(f"written: {chosen}", json=json)
    if json:
        terminal.print_json(summaries_json(summaries, collected, baseline))


def _show_left_out(collected: CollectedRuns) -> None:
    """Print what counts nowhere, and what failed."""
    for reason, count in collected.left_out.items():
        terminal.log.print(f"left out: {count} {reason}", soft_wrap=True)
    for run in collected.failed:
        terminal.log.print(f"failed: {run.title}: {run.reason}", soft_wrap=True)


def _show_methods(summaries: list[MethodSummary]) -> None:
    """Print the means of one model's methods, and the methods whose names are too long for the table."""
    from formless.report.overview import methods_table

    table = methods_table(summaries, terminal.out.width)
    terminal.show_table(table, whole=len(table.columns))
    for row, summary in zip(table.rows, summaries, strict=True):
        if row[0] != summary.condition.method:
            terminal.out.print(f"{row[0]}: {summary.condition.method}", soft_wrap=True)


def _show_summary(summary: MethodSummary) -> None:
    """Print one method's metrics, form independence first."""
    from formless.report.form_tables import independence_table
    from formless.report.mentions import summary_maps
    from formless.report.tables import is_headline, summary_tables

    terminal.out.print(f"{summary.condition.title}: {len(summary.targets)} targets", soft_wrap=True)
    if summary.independence:
        terminal.show_table(independence_table(summary.independence))
    terminal.show_tables(summary_tables({key: found for key, found in summary.metrics.items() if is_headline(key)}))
    terminal.show_tables(found.table() for found in summary_maps(summary))
    if summary.gaps:
        terminal.out.print(f"does not count in {summary.condition.method}: {summary.gaps}", soft_wrap=True)


def report_command(
    folder: Annotated[Path, typer.Argument(help="A folder that `formless run --out` wrote.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The HTML file; FOLDER/report.html unless given.")] = None,
    baseline: BaselineOption = "original",
    beside: Annotated[
        list[Path] | None, typer.Option(help="Evaluations of open-unlearning, or a folder with them, to show too; repeatable.")
    ] = None,
    force: terminal.ForceOption = False,
) -> None:
    """Write one HTML page about a whole experiment, finished or not: metrics, plots, answers, failures, how to repeat it.

    The page is one file and opens offline. A report.html in the folder itself is replaced.

    Example: formless report runs/first
    """
    from formless.report.page import write_experiment_report

    if out:
        store.refuse_existing(out, force=force)
    path = out or store.ExperimentFolder(folder).report
    with terminal.progress(f"report of {folder}"):
        command = shlex.join(["formless", *sys.argv[1:]])
        summaries = write_experiment_report(path, folder, baseline=baseline, beside=beside or (), command=command)
    for summary in summaries:
        gaps = f" ({summary.gaps})" if summary.gaps else ""
        terminal.out.print(f"{summary.condition.title}: {len(summary.targets)} targets{gaps}", soft_wrap=True)
    terminal.out.print(f"report: {path}", soft_wrap=True)


def compare_command(
    first: Annotated[Path, typer.Argument(help="A folder that `formless run --out` wrote.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    json: terminal.JsonOption = False,
) -> None:
    """Show what differs between two folders of runs: settings, metrics of the targets and runs that both have, other runs.

    Example: formless compare runs/a runs/b
    """
    from formless.report.as_json import folders_json
    from formless.report.folders import compare_folders
    from formless.report.tables import Table

    with terminal.progress("reading records"):
        found = compare_folders(first, second)
    names = (str(first), str(second))
    if json:
        terminal.print_json(folders_json(found, names))
        return
    rows = tuple((name, _shortened(one), _shortened(other)) for name, one, other in found.settings)
    terminal.show_table(Table("settings that differ", ("setting", *names), rows, labels=3))
    if not rows:
        terminal.out.print("no setting differs")
    for shared in found.shared:
        _show_shared(shared, names)
    if not found.shared:
        terminal.out.print("they share no complete run of one model, method, target and seed")
    for name, only, failed in zip(names, found.only, found.failed, strict=True):
        for what, titles in (("only in", only), ("failed in", [run.title for run in failed])):
            if titles:
                more = f" and {len(titles) - _SHOWN} more" if len(titles) > _SHOWN else ""
                shown = "; ".join(titles[:_SHOWN])
                terminal.out.print(f"{what} {name}: {len(titles)} runs: {shown}{more}", soft_wrap=True)


def _show_shared(shared: SharedRuns, names: tuple[str, str]) -> None:
    """Print the metrics of one model and method in both folders."""
    from formless.report.tables import column_name, summary_tables

    same = [
        key for key, found in shared.metrics.items()
        if found.difference and found.difference.value == 0 and found.difference.ci in (None, (0, 0))
        and not any(found.difference.values)
    ]  # fmt: skip
    title = f"{shared.condition.title}: {len(shared.targets)} targets, {shared.runs} runs in both"
    terminal.out.print(title, soft_wrap=True)
    differing = {key: found for key, found in shared.metrics.items() if key not in same}
    terminal.show_tables(summary_tables(differing, heads=names))
    if same:
        terminal.out.print(f"the same in both: {', '.join(map(column_name, same))}", soft_wrap=True)
    if shared.unlike:
        note = f"{shared.unlike} of these runs asked other items, or another model, than the same run of the other folder"
        terminal.out.print(note, soft_wrap=True)


def _shortened(text: str) -> str:
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]} …"

"""`formless frontier`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from formless import store
from formless.cli import terminal
from formless.errors import UserError

if TYPE_CHECKING:
    from formless.report.frontier import Frontier
    from formless.report.runs import Condition
    from formless.report.selection import Choice


def frontier_command(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Folders that `formless run --out` wrote, with their edits kept.")
    ],
    strengths: Annotated[str, typer.Option(help="Factors on each edit, above 0 and at most 4.")] = "0.25,0.5,0.75,1,1.25,1.5,2",
    levels: Annotated[str, typer.Option(help="Levels of neighbor retention in percent.")] = "97,95,90",
    methods: Annotated[str | None, typer.Option(help="Labels of methods, a,b; all unless given.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The HTML page; FOLDER/frontier.html unless given.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write forgetting at each level as plain numbers.")] = None,
    curves: Annotated[Path | None, typer.Option(help="Write the mean curves as plain numbers.")] = None,
    choose: Annotated[
        float | None, typer.Option(help="Choose each method's settings by the forgetting at this retention in percent.")
    ] = None,
    chosen: Annotated[
        Path | None, typer.Option(help="With --choose: write the experiment of the chosen settings on the other targets.")
    ] = None,
    force: terminal.ForceOption = False,
    json: terminal.JsonOption = False,
) -> None:
    """Compare methods at equal retention of neighbors: each edit at several strengths. Repeat the command to resume it.

    A strength is a factor on what an edit changed in the weights, so nothing is trained again. Each record is kept beside its
    run and measured once. Forgetting at a level of retention is interpolated on the curve of each target, and never
    extrapolated: a target whose curve does not reach the level has no value there. Exit code 1 if something could not be
    measured. Of several folders, which may be measured at the same time, methods are called FOLDER/LABEL.

    With --choose, several settings of one method are compared by one rule: the largest mean forgetting at a retention of at
    least that level, on each target's own curve.

    Example: formless frontier runs/first --csv frontier.csv

    Example: formless frontier runs/tuning --choose 95 --chosen chosen.yaml
    """
    from formless.experiment.frontier import Measured, check_strengths, measure_strengths
    from formless.report.as_json import choice_json
    from formless.report.frontier import Curves, collect_curves, frontiers
    from formless.report.frontier_page import curve_rows, level_rows, write_frontier_page
    from formless.report.selection import choose as choose_settings
    from formless.report.tables import as_csv

    wanted = check_strengths(_numbers(strengths, "--strengths", "e.g. 0.5,1,2"))
    reached = _levels(levels)
    labels = [part.strip() for part in methods.split(",")] if methods else []
    wanted_level = None if choose is None else _levels(f"{choose}", "--choose")[0]
    if chosen and wanted_level is None:
        raise UserError("nothing is chosen", where="--chosen", remedy="give --choose too, e.g. --choose 95")
    if len(folders) > 1:
        _check_several(folders, out, methods, chosen)
    outputs = [path for path in (out, csv, curves, chosen) if path]
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise UserError("two outputs have the same path", where=outputs[0], remedy="choose another")
    for path in outputs:
        store.refuse_existing(path, force=force)
    terminal.quiet_transformers()
    done, found = Measured(), Curves()
    for folder in folders:
        with terminal.progress(f"frontier of {folder}") as bar:
            done.add(measure_strengths(folder, wanted, methods=labels, progress=bar))
    for title, reason in done.failed:
        terminal.log.print(f"failed: {title}: {reason}", soft_wrap=True)
    for folder in folders:
        prefix = f"{folder.resolve().name}/" if len(folders) > 1 else ""
        found.add(collect_curves(folder, wanted, labels, prefix))
    summaries = frontiers(found, reached)
    without = {condition: gaps for condition, gaps in found.clauses().items() if condition not in found.targets}
    if not json:
        _show(summaries, reached, without)
    for target, rows in ((csv, level_rows(summaries)), (curves, curve_rows(summaries))):
        if target:
            store.write_text(target, as_csv(rows))
            terminal.say(f"written: {target}", json=json)
    choices = None if wanted_level is None else choose_settings(found, wanted_level)
    if choices is not None and wanted_level is not None:
        _show_choices(choices, wanted_level, folders[0], chosen, json=json)
    page = out or store.ExperimentFolder(folders[0]).frontier
    command = shlex.join(["formless", *sys.argv[1:]])
    write_frontier_page(page, summaries, reached, wanted, without=without, failed=done.failed, command=command)
    counts = f"{done.already} measured before, {done.now} now" + f", {len(done.failed)} failed" * bool(done.failed)
    terminal.say(f"page: {page}; {counts}", json=json)
    if json:
        terminal.print_json(
            {
                "folders": list(map(str, folders)), "strengths": list(wanted), "levels": list(reached),
                "forgetting": level_rows(summaries), "curves": curve_rows(summaries),
                "choices": None if choices is None else [choice_json(one) for one in choices],
                "without": [{**condition._asdict(), "reason": gaps} for condition, gaps in without.items()],
                "failed": [{"run": title, "reason": reason} for title, reason in done.failed],
                "measured_before": done.already, "measured_now": done.now, "page": str(page),
            }
        )  # fmt: skip
    if done.failed:
        raise typer.Exit(1)


def _check_several(folders: list[Path], out: Path | None, methods: str | None, chosen: Path | None) -> None:
    """Refuse what is not clear where several folders are given."""
    names = [folder.resolve().name for folder in folders]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two folders are called {twice}", where="FOLDER", remedy="give each another name")
    if out is None:
        raise UserError("several folders have no page of their own", where="--out", remedy="say where it is to be written")
    for option, value in (("--methods", methods), ("--chosen", chosen)):
        if value:
            raise UserError(f"{option} is about one folder", where=option, remedy="give one folder, or leave it out")


def _show(found: list[Frontier], levels: tuple[float, ...], without: dict[Condition, str]) -> None:
    """Print the tables of each model, and what does not count."""
    from formless.report.frontier_page import harmonic_table, overview_table, short_table

    for model in dict.fromkeys(one.condition.model for one in found):
        own = [one for one in found if one.condition.model == model]
        terminal.show_table(overview_table(own, levels, f"{model}: forgetting at equal retention of neighbors"))
        terminal.show_table(harmonic_table(own, f"{model}: harmonic mean of forgetting and retention"))
        for one in own:
            terminal.show_table(short_table(one, levels, f"{one.condition.title}: forgetting, with the number of targets"))
            if one.gaps:
                terminal.out.print(f"does not count in {one.condition.method}: {one.gaps}", soft_wrap=True)
    for condition, gaps in without.items():
        terminal.out.print(f"no curve: {condition.title}: {gaps}", soft_wrap=True)


def _show_choices(choices: list[Choice], level: float, folder: Path, out: Path | None, *, json: bool) -> None:
    """Print the chosen settings of each method, and write the experiment that reports them."""
    from formless.report.selection import choice_table, chosen_experiment

    if not json:
        terminal.show_table(choice_table(choices, level))
    if lacking := [label for choice in choices for label in choice.incomplete]:
        terminal.say(f"not compared, as a target is missing: {', '.join(lacking)}", json=json)
    if len({choice.settings for choice in choices}) > 1:
        note = "warning: the methods have different numbers of settings, so the comparison favors those with more"
        terminal.log.print(note, soft_wrap=True)
    if out:
        store.write_text(out, chosen_experiment(folder, choices))
        terminal.say(f"written: {out}", json=json)


def _numbers(text: str, where: str, example: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{text!r} is not a list of numbers", where=where, remedy=example) from None


def _levels(text: str, where: str = "--levels") -> tuple[float, ...]:
    """Return levels as shares, each once, in the order in which they were given."""
    found = _numbers(text, where, "e.g. 97,95,90")
    for level in found:
        if not 0 < level < 100:  # NaN is refused too
            raise UserError(f"{level:g} is no level of retention", where=where, remedy="give percents between 0 and 100")
    return tuple(dict.fromkeys(level / 100 for level in found))

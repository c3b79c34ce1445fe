"""`formless status`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from formless.cli import terminal
from formless.cli.sweep_progress import how_far, time_left
from formless.experiment.runs import Run
from formless.experiment.status import Status, read_status
from formless.experiment.sweep import OUTSIDE


def status_command(
    folder: Annotated[Path, typer.Argument(help="A folder that `formless run --out` wrote.")],
) -> None:
    """Say which runs of an experiment are done, running, failed (and why) or missing, and how long the rest will take.

    Example: formless status runs/first
    """
    status = read_status(folder)
    terminal.out.print(_counts(status))
    for run, signal in status.running:
        seconds = signal.at - signal.since
        terminal.out.print(f"running: {run.title}: {how_far(signal)}, for {seconds:.0f} s", soft_wrap=True, markup=False)
    for report in status.failed:
        terminal.out.print(f"failed: {report.run.title}: {report.reason}", soft_wrap=True, markup=False)
    if status.others:
        note = f"{status.others} {OUTSIDE}"
        terminal.out.print(note, markup=False)
    terminal.out.print(_outlook(status, folder), soft_wrap=True, markup=False)


def _counts(status: Status) -> Table:
    """Done, running, failed and missing by model and label."""
    states = {
        "done": [report.run for report in status.complete],
        "running": [run for run, _ in status.running],
        "failed": [report.run for report in status.failed],
        "missing": list(status.missing),
    }
    counts = {state: Counter(map(_row, runs)) for state, runs in states.items()}
    table = Table(Column("model", overflow="fold"), Column("method", overflow="fold"), *states)
    for row in dict.fromkeys(key for counter in counts.values() for key in counter):
        table.add_row(*map(escape, row), *(str(counter[row]) for counter in counts.values()))
    table.add_section()
    table.add_row("all", "", *(str(counter.total()) for counter in counts.values()))
    return table


def _row(run: Run) -> tuple[str, str]:
    return run.model.name, run.label


def _outlook(status: Status, folder: Path) -> str:
    """Who works on it and how long that takes, or how to go on."""
    if holder := status.holder:
        return f"process {holder.pid} on {holder.host} works on it since {holder.started}; {time_left(status.seconds_left)}"
    if status.missing or status.failed:
        return f"nobody works on it; go on with: formless run {folder}"
    return "everything is done"

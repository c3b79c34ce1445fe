"""`formless report`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from formless import store
from formless.cli import terminal
from formless.cli.summarize import BaselineOption
from formless.report.page import write_experiment_report

PAGE = "report.html"


def report_command(
    folder: Annotated[Path, typer.Argument(help="A folder that `formless run --out` wrote.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The HTML file; FOLDER/report.html unless given.")] = None,
    baseline: BaselineOption = "original",
    force: terminal.ForceOption = False,
) -> None:
    """Write one HTML page about a whole experiment, as far as it is: figures, charts, answers, failures, how to repeat it.

    The page needs nothing else and opens offline. A report.html in the folder itself is replaced.

    Example: formless report runs/first
    """
    if out:
        store.refuse_existing(out, force=force)
    path = out or folder / PAGE
    rows = write_experiment_report(path, folder, baseline=baseline, command=shlex.join(["formless", *sys.argv[1:]]))
    for row in rows:
        gaps = f" ({row.gaps})" if row.gaps else ""
        terminal.out.print(f"{row.group.title}: {len(row.targets)} targets{gaps}", soft_wrap=True, markup=False)
    terminal.out.print(f"report: {path}", soft_wrap=True, markup=False)

"""What the verbs share: options, progress and tables on the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from formless.errors import UserError
from formless.evaluation.record import Record
from formless.models.lm import LM
from formless.models.loading import load
from formless.report.independence import Independence
from formless.report.summary import Change, FigureChange
from formless.report.text import (
    absent_as_text,
    changes_as_text,
    figures_as_text,
    independence_as_text,
    record_as_text,
    tasks_as_text,
)

out = Console(highlight=False)
log = Console(stderr=True, highlight=False)

ModelOption = Annotated[str, typer.Option("--model", "-m", help="Short name, folder or hub id.")]
DtypeOption = Annotated[str, typer.Option(help="float32, bfloat16 or float16; auto by device.")]
DeviceOption = Annotated[str, typer.Option(help="E.g. cpu or cuda:0; 'spread' puts layers on all devices.")]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="Let the model's repository run its own code.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]


def load_model(name: str, dtype: str, device: str, trust: bool = False) -> LM:
    """Load with a note on the terminal."""
    with log.status(f"loading {name}"):
        if device == "spread":
            return load(name, dtype=dtype, device_map="auto", trust_remote_code=trust)
        return load(name, dtype=dtype, device=device, trust_remote_code=trust)


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`["l2=10", "layers=[4,5]"]` -> settings, values read as YAML.

    Raises:
        UserError: A pair lacks its `=` or its value is no YAML.
    """
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise UserError(f"{pair!r} is no setting", where="--set", remedy="write NAME=VALUE")
        try:
            settings[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"the value of {name} cannot be read", where="--set", remedy=str(error)) from error
    return settings


@contextmanager
def progress(label: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar with the time left on a terminal, a line per task elsewhere; a total of 0 is not known."""
    if log.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(True))
        with Progress(*columns, console=log, transient=True) as bar:
            handle = bar.add_task(escape(label))
            yield lambda task, done, total: bar.update(
                handle, description=escape(f"{label}: {task}"), completed=done, total=total or None
            )
        return
    start, last, before = time.monotonic(), "", 0

    def line(task: str, done: int, total: int) -> None:
        nonlocal start, last, before
        if done < before:  # the next model's evaluation
            start = time.monotonic()
        before = done
        if task != last:
            last = task
            spent = time.monotonic() - start
            left = f", about {spent / done * (total - done):.0f} s left" if 0 < done < total else ""
            share = f", {100 * done // total} % done" if total else ""
            log.print(f"{label}: {task}{share} after {spent:.0f} s{left}", soft_wrap=True, markup=False)

    yield line


def show_changes(changes: Sequence[Change], title: str) -> None:
    """Print the forms of a report."""
    show_table(("form", "split", "original", "unlearned", "change", "95 % interval", "probes"), changes_as_text(changes), title)


def show_figures(changes: Sequence[FigureChange], title: str) -> None:
    """Print the tasks of a report, if there are any."""
    columns = ("task", "split", "figure", "original", "unlearned", "difference", "95 % interval", "items")
    show_table(columns, figures_as_text(changes), title)


def show_record(record: Record, title: str) -> None:
    """Print what one model gives."""
    show_table(("form", "split", "probability", "95 % interval", "probes"), record_as_text(record), title)
    show_table(("task", "split", "figure", "value", "95 % interval", "items"), tasks_as_text(record), "")


def show_absent(record: Record) -> None:
    """Print what could not be asked, if anything."""
    if absent := absent_as_text(record):
        out.print(f"not asked: {absent}", markup=False, soft_wrap=True)


def show_independence(found: Independence, title: str) -> None:
    """Print forgetting and retention by form, the form gap and the combined figure."""
    columns = ("figure", "form", "value", "95 % interval", "p", "targets")
    show_table(columns, independence_as_text(found), title)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """Print a table of text, if it has rows."""
    if not rows:
        return
    table = Table(title=escape(title) or None, title_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if name in ("form", "split", "task", "figure") else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    out.print(table)


def parse_layers(text: str) -> list[int]:
    """`4,5,6` -> `[4, 5, 6]`.

    Raises:
        UserError: It is no list of numbers.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{text!r} is no list of layers", where="--layers", remedy="e.g. 4,5,6") from None


def adapter_size(folder: Path) -> int:
    """Bytes of a saved edit."""
    return sum(path.stat().st_size for path in folder.iterdir())

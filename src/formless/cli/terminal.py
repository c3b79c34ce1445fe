"""What the verbs share: options, progress and tables on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from formless.errors import UserError
from formless.evaluation.record import Record
from formless.models.lm import LM
from formless.models.loading import load
from formless.report.html import changes_as_text, record_as_text
from formless.report.summary import Change

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
    """A progress bar on a terminal, a line per task elsewhere."""
    if not log.is_terminal:
        yield lambda task, done, total: log.print(f"{label}: {task} {done}/{total}")
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=log, transient=True) as bar:
        handle = bar.add_task(label)
        yield lambda task, done, total: bar.update(handle, description=f"{label}: {task}", completed=done, total=total)


def show_changes(changes: Sequence[Change], title: str) -> None:
    """Print the table of a report."""
    _show(("form", "split", "original", "unlearned", "change", "95 % interval", "probes"), changes_as_text(changes), title)


def show_record(record: Record, title: str) -> None:
    """Print what one model gives."""
    _show(("form", "split", "probability", "95 % interval", "probes"), record_as_text(record), title)


def _show(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if name in ("form", "split") else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
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

"""What the commands share: options, progress and tables on the terminal. It imports nothing that needs torch at its top."""

from __future__ import annotations

import _thread
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from formless.cli import completion
from formless.errors import UserError

if TYPE_CHECKING:
    from formless.data.target import Target
    from formless.evaluation.record import Record
    from formless.models.lm import LM
    from formless.models.meta import MetaModel
    from formless.progress import Progress
    from formless.report.tables import Table

# Text is printed as it is: paths, names and answers may hold what rich would read as markup or emoji codes.
out = Console(highlight=False, markup=False, emoji=False)
log = Console(stderr=True, highlight=False, markup=False, emoji=False)

SILENCE = 10.0
"""Seconds after which a log is told that work goes on."""

DEVICE_HELP = "E.g. cpu or cuda:0; 'spread' puts layers on all devices, 'spread:2GB' 2 GB of them in memory, others on disk."

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Short name, folder, GGUF file, hub id (owner/name[@revision]) or recipe (.yaml).",
        autocompletion=completion.models,
    ),
]
DtypeOption = Annotated[str, typer.Option(help="float32, bfloat16 or float16; auto by device.")]
DeviceOption = Annotated[str, typer.Option(help=DEVICE_HELP)]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="Let the model's repository run its own code.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output instead of tables.")]


def load_model(
    name: str,
    dtype: str,
    device: str,
    trust: bool = False,
    check: Callable[[MetaModel], None] | None = None,
    layers: int | None = None,
) -> LM:
    """Load a model, with a bar while it loads, and a line first that says what its preparation needs, if it needs any.

    Args:
        name: As in `formless.load`.
        dtype: The same.
        device: The same.
        trust: Whether code from the model's repository may run.
        check: Called with the model as its configuration describes it, before weights are loaded; it raises a UserError if
            what follows cannot be done.
        layers: How many layers what follows needs; None for the whole model.
    """
    with progress(f"loading {name}", keep_first=True) as bar:
        from formless.models.loading import load
        from formless.models.meta import load_meta
        from formless.models.reading.placement import find_device

        quiet_transformers()
        find_device(device)
        if check:
            check(load_meta(name, dtype=dtype, trust_remote_code=trust, progress=bar))
        return load(name, dtype=dtype, device=device, trust_remote_code=trust, progress=bar, layers=layers)


def quiet_transformers() -> None:
    """Hide transformers' warnings and progress bars; errors are still shown."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)  # which says where layers of a spread model are


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Return settings from pairs such as `["l2=10", "layers=[4,5]"]`; values are read as YAML.

    Raises:
        UserError: A pair lacks its `=` or its value is not YAML.
    """
    import yaml

    from formless.strict_yaml import load_yaml

    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise UserError(f"{pair!r} is not a setting", where="--set", remedy="write NAME=VALUE")
        try:
            settings[name] = load_yaml(value)
        except yaml.YAMLError as error:
            raise UserError(f"the value of {name} cannot be read", where="--set", remedy=str(error)) from error
    return settings


@contextmanager
def progress(label: str, *, keep_first: bool = False) -> Iterator[Progress]:
    """Show a progress bar with the time left on a terminal; elsewhere a line per task, and one every `SILENCE` seconds.

    A total of 0 is not known.

    Args:
        label: What is done; it stands before each task.
        keep_first: Also print the first task on a terminal, where the bar would not keep it: it says what the work costs.
    """
    if log.is_terminal:
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as ProgressBar

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(True))
        with ProgressBar(*columns, console=log, transient=True) as bar:
            handle = bar.add_task(escape(label), total=None)

            def show(task: str, done: int, total: int) -> None:
                nonlocal keep_first
                if keep_first:
                    log.print(f"{label}: {task}", soft_wrap=True)
                keep_first = False
                bar.update(handle, description=escape(f"{label}: {task}"), completed=done, total=total or None)

            yield show
        return
    lines = _Lines(label)
    with repeated(lines.remind):
        yield lines.show


@contextmanager
def repeated(action: Callable[[], None]) -> Iterator[None]:
    """Call a function in a thread, often, until the block is left; so it can speak whatever the block does."""
    is_over, has_ended = threading.Event(), threading.Event()

    def repeat() -> None:
        while not is_over.wait(SILENCE / 10):
            action()
        has_ended.set()

    try:  # `Thread.start` would wait for ever for a thread whose first steps find no memory
        is_started = bool(_thread.start_new_thread(repeat, ()))
    except RuntimeError:  # no thread is to be had: the work is done all the same
        is_started = False
    try:
        yield
    finally:
        is_over.set()
        if is_started:
            has_ended.wait(SILENCE / 10)


class _Lines:
    """Prints a line when a task begins, and one after each silence.

    Args:
        label: What is done.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._start = self._said = time.monotonic()
        self._task, self._done, self._total = "", 0, 0
        self._first: tuple[float, int] | None = None  # work that was done before, as in a resumed run, says nothing of the pace

    def show(self, task: str, done: int, total: int) -> None:
        """Take the progress; see `formless.progress.Progress`."""
        if done < self._done:  # the next model's evaluation
            self._start, self._first = time.monotonic(), None
        if self._first is None:
            self._first = time.monotonic(), done
        is_new = task != self._task
        self._task, self._done, self._total = task, done, total
        if is_new:
            self._print()

    def remind(self) -> None:
        """Say how far it is, if nothing has been said for `SILENCE` seconds."""
        if time.monotonic() - self._said >= SILENCE:
            self._print()

    def _print(self) -> None:
        self._said = time.monotonic()
        task, done, total, spent = self._task, self._done, self._total, self._said - self._start
        begun, before = self._first or (self._said, 0)
        pace = (self._said - begun) / (done - before) if done > before else 0.0
        left = f", about {pace * (total - done):.0f} s left" if pace and done < total else ""
        share = f"{100 * done // total} % done " if total else ""
        what = ", ".join(part for part in (task, f"{share}after {spent:.0f} s") if part)
        log.print(f"{self._label}: {what}{left}", soft_wrap=True)


def announce_absent(targets: Iterable[Target], suite: str) -> None:
    """Say which tasks of a suite are not asked, since targets lack their files."""
    from formless.evaluation.plan import missing_files

    lacking, count = Counter[tuple[str, str]](), 0
    for target in targets:
        count += 1
        lacking.update(missing_files(target, suite).items())
    if lacking:
        some = {pair: f" in {number} of {count} targets" if number < count else "" for pair, number in lacking.items()}
        listed = ", ".join(f"{task} (no {file}.json{some[task, file]})" for task, file in lacking)
        log.print(f"not asked: {listed}", soft_wrap=True)


def say(line: str, *, json: bool) -> None:
    """Print a line on standard output; on standard error where that is to hold JSON only."""
    (log if json else out).print(line, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value of plain types as JSON; NaN and infinity are refused, since JSON has neither."""
    out.print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False), soft_wrap=True)


def show_tables(tables: Iterable[Table]) -> None:
    """Print tables, those that have rows or a note."""
    for table in tables:
        show_table(table)


def show_table(table: Table, whole: int = 0) -> None:
    """Print a table, if it has rows, and its note. Without vertical lines, the usual tables fit a terminal of 80 columns.

    Args:
        table: The table.
        whole: As of `show_rows`.
    """
    if table.rows:
        show_rows(table.title, table.columns, table.rows, table.labels, whole)
    if table.note:
        out.print(f"{table.title or 'table'}: does not count: {table.note}\n", soft_wrap=True)


def show_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], labels: int, whole: int = 0) -> None:
    """Print rows of text.

    Args:
        title: What they show; may be empty.
        columns: Heads.
        rows: As many cells as heads each.
        labels: How many leading columns hold text; the others hold numbers, which are not broken.
        whole: How many leading columns hold names that are not broken either, nor are the words of their heads.
    """
    from rich import box
    from rich.table import Table as RichTable

    width = sum(max(map(len, cells)) for cells in zip(columns, *rows, strict=True))
    gap = 1 if width + 2 * (len(columns) - 1) <= out.width else 0  # besides the column that rich leaves between cells
    shown = RichTable(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, gap, 0, 0), show_edge=False)
    for index, name in enumerate(columns):
        widest = max(len(row[index]) for row in rows)
        fixed = max(widest, *map(len, name.split())) if index < whole else None
        least = widest if index >= labels else None
        shown.add_column(name, justify="left" if index < labels else "right", overflow="fold", min_width=least, width=fixed)
    for row in rows:
        shown.add_row(*row)
    out.print(shown)
    out.print()


def show_absent(record: Record) -> None:
    """Print the tasks without metrics and why, if there are any."""
    from formless.report.tables import absent_text

    if absent := absent_text(record):
        out.print(f"not measured: {absent}", soft_wrap=True)


def parse_layers(text: str, where: str = "--layers") -> list[int]:
    """Return `[4, 5, 6]` for `4,5,6`.

    Args:
        text: What the user gave.
        where: The option, for errors.

    Raises:
        UserError: The text is not a list of numbers, or one is given twice.
    """
    try:
        layers = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{text[:100]!r} is not a list of layers", where=where, remedy="e.g. 4,5,6") from None
    if twice := [layer for layer in layers if layers.count(layer) > 1]:
        raise UserError(f"layer {twice[0]} is given twice", where=where, remedy="give each layer once")
    return layers


def adapter_size(folder: Path) -> int:
    """Return the size of a saved edit in bytes."""
    return sum(path.stat().st_size for path in folder.iterdir())

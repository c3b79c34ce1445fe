"""`formless probe`."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from formless import store
from formless.cli import terminal
from formless.errors import UserError

SUITE = "takedown"


def probe_command(
    edit: Annotated[Path, typer.Option(help="The saved edit that is to be checked.")],
    target: Annotated[str, typer.Option("--target", "-t", help="Folder name, subject or number in the data set.")],
    data: Annotated[str, typer.Option(help="A folder in the ORT layout, or 'sample'.")] = "sample",
    max_recall: Annotated[float, typer.Option(help="The worst-case recall that still passes, in percent.")] = 10.0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Pass only if the interval's upper bound does too, and every way was measured.")
    ] = False,
    also: Annotated[str | None, typer.Option(help="Further suites or tasks to ask, e.g. jailbreak.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML page.")] = Path("probe.html"),
    model: terminal.ModelOption = "smollm2",
    limit: Annotated[int | None, typer.Option(min=1, help="Most rows per file and task, for a quick look.")] = None,
    force: terminal.ForceOption = False,
    dtype: terminal.DtypeOption = "auto",
    device: terminal.DeviceOption = "auto",
    trust_remote_code: terminal.TrustOption = False,
) -> None:
    """Check for a takedown: ask every form, mention, kind and reverse question before and after an edit, and write one page.

    Exit code 0 if the worst-case recall (the share of known facts that some answer still says) is at most --max-recall, 1 if it
    is above. The measured value decides; --strict takes the upper bound of its 95 % confidence interval. Exit code 2 if the
    input is wrong, or if nothing could be measured.

    Example: formless probe --edit edits/einstein --target "Albert Einstein" --out probe.html
    """
    from formless.data.ort import find_target
    from formless.edits.edit import refuse_other_shapes
    from formless.edits.loading import load_edit
    from formless.evaluation.plan import make_plan
    from formless.experiment.measure import measure_edit
    from formless.report.takedown import rule
    from formless.report.takedown_page import write_takedown_page

    if not 0 <= max_recall <= 100:
        raise UserError(f"{max_recall:g} is no share in percent", where="--max-recall", remedy="write a number from 0 to 100")
    store.refuse_existing(out, force=force)
    found = find_target(data, target)
    suite = f"{SUITE},{also}" if also else SUITE
    make_plan(found, suite, limit)  # a broken file stops here, before the model is loaded
    loaded = load_edit(edit)
    lm = terminal.load_model(model, dtype, device, trust_remote_code, partial(refuse_other_shapes, edit=loaded))
    with terminal.progress(found.subject) as bar:
        outcome = measure_edit(lm, loaded, found, suite, limit=limit, progress=bar)
    ruling = rule(outcome.original, outcome.edited, max_recall / 100, strict=strict)
    command = shlex.join(["formless", *sys.argv[1:]])
    write_takedown_page(out, outcome.original, outcome.edited, ruling, command=command)
    for line in ruling.lines():
        terminal.out.print(line, soft_wrap=True)
    terminal.out.print(f"page: {out}", soft_wrap=True)
    if not ruling.is_passed:
        raise typer.Exit(1)

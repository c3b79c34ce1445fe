"""`formless eval`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from formless import storage
from formless.cli import terminal
from formless.data.ort import SAMPLE, find_target
from formless.evaluation.evaluate import check_files
from formless.evaluation.suites import suite_forms
from formless.experiment.original import original_record
from formless.experiment.run import measure_edit
from formless.methods.adapter import load_edit
from formless.report.html import write_report
from formless.report.summary import compare


def eval_command(
    target: Annotated[str, typer.Option("--target", "-t", help="Folder name, subject or number in the data set.")],
    model: terminal.ModelOption = "smollm2",
    edit: Annotated[Path | None, typer.Option(help="A saved edit; without it the original model is measured.")] = None,
    data: Annotated[str, typer.Option(help="A folder in the ORT layout, or 'sample'.")] = SAMPLE,
    suite: Annotated[str, typer.Option(help="A suite, or forms such as fb,qa.")] = "ort",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The record to write, JSON.")] = None,
    report: Annotated[Path | None, typer.Option(help="With --edit: an HTML report to write.")] = None,
    force: terminal.ForceOption = False,
    dtype: terminal.DtypeOption = "auto",
    device: terminal.DeviceOption = "auto",
    trust_remote_code: terminal.TrustOption = False,
) -> None:
    """Measure a model on a target in every form, before and after an edit.

    Example: formless eval --edit edits/einstein --target "Albert Einstein" --out einstein.json --report einstein.html
    """
    for path in (out, report):
        if path:
            storage.refuse_existing(path, force=force)
    forms = suite_forms(suite)
    found = find_target(data, target)
    check_files(found, forms)
    loaded = load_edit(edit) if edit else None
    lm = terminal.load_model(model, dtype, device, trust_remote_code)
    with terminal.progress(found.subject) as report_progress:
        if loaded is None:
            original = edited = original_record(lm, found, suite, progress=report_progress)
        else:
            outcome = measure_edit(lm, loaded, found, suite, progress=report_progress)
            original, edited = outcome.original, outcome.edited
    terminal.show_changes(compare(original, edited), f"{found.subject}, {lm.name}")
    if out:
        edited.save(out)
        terminal.out.print(f"record: {out}", soft_wrap=True)
    if report:
        write_report(report, original, edited, command=shlex.join(["formless", *sys.argv[1:]]))
        terminal.out.print(f"report: {report}", soft_wrap=True)

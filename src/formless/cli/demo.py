"""`formless demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from formless import storage
from formless.cli import terminal
from formless.data.ort import SAMPLE, find_target
from formless.experiment.run import measure_edit
from formless.methods.registry import unlearn
from formless.report.html import Exchange, write_report

QUESTIONS = 3


def demo_command(
    target: Annotated[str, typer.Option("--target", "-t", help="A target of the sample set.")] = "Albert Einstein",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for edit, records and report.")] = Path("demo"),
) -> None:
    """Let the built-in model forget one concept and show what it says before and after.

    Example: formless demo --target "Mount Everest"
    """
    found = find_target(SAMPLE, target)
    lm = terminal.load_model("smollm2", "auto", "auto")
    edit = unlearn(lm, found)
    terminal.out.print(f"{found.subject} forgotten in {edit.info.seconds:.2f} s (ROCR, no training)")
    questions = [item.query for item in found.items("forget_level2")[:QUESTIONS]]
    with terminal.progress(found.subject) as bar:
        outcome = measure_edit(lm, edit, found, questions=questions, progress=bar)
    with storage.new_folder(out, force=True) as folder:
        edit.save(folder / "edit")
        outcome.original.save(folder / "original.json")
        outcome.edited.save(folder / "unlearned.json")
        exchanges = [Exchange(question, *answers) for question, answers in outcome.answers.items()]
        command = f'formless demo --target "{found.subject}"'
        changes = write_report(folder / "report.html", outcome.original, outcome.edited, exchanges=exchanges, command=command)
    terminal.show_changes(changes, f"{found.subject}, {lm.name}, original and unlearned")
    for exchange in exchanges:
        terminal.out.print(f"\n{exchange.question}", style="bold", markup=False)
        terminal.out.print(f"  original:  {exchange.original}", markup=False)
        terminal.out.print(f"  unlearned: {exchange.edited}", markup=False)
    terminal.out.print(f"\nreport: {(out / 'report.html').resolve()}", soft_wrap=True)

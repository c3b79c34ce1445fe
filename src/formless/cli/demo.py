"""`formless demo`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from formless import store
from formless.cli import completion, terminal

SUITE = "forms,choices,reverse,gen_qa,gen_qa_alone,gen_statement"
"""Every form, and a few answers in words, so that the verdict can say what still comes out."""


def demo_command(
    target: Annotated[
        str, typer.Option("--target", "-t", help="A target of the sample set.", autocompletion=completion.targets)
    ] = "Albert Einstein",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for edit, records and report.")] = Path("demo"),
    model: terminal.ModelOption = "smollm2",
    suite: Annotated[
        str, typer.Option(help="What is measured; see `formless eval`.", autocompletion=completion.suites)
    ] = SUITE,
    dtype: terminal.DtypeOption = "auto",
) -> None:
    """Make a model forget one concept and show what it says before and after. A second demo replaces the first.

    It says first how many of the facts that the original model knew the edited one still says.

    Example: formless demo --target "Mount Everest"

    Example: formless demo --model qwen2.5-coder-1.5b --suite quick --out demo-large
    """
    from formless.data.ort import SAMPLE, find_target
    from formless.evaluation.plan import make_plan
    from formless.experiment.measure import measure_edit
    from formless.methods.registry import unlearn
    from formless.report.form_tables import independence_table
    from formless.report.independence import independence
    from formless.report.page import write_report
    from formless.report.tables import comparison_tables
    from formless.report.verdict import verdict

    store.refuse_existing(out, force=True, mark=store.DemoFolder.REPORT)
    found = find_target(SAMPLE, target)
    make_plan(found, suite, None)  # an unknown suite stops here, before the model is loaded
    lm = terminal.load_model(model, dtype, "auto")
    terminal.announce_absent([found], suite)
    with terminal.progress(f"unlearning {found.subject}") as bar:
        edit = unlearn(lm, found, progress=bar)
    terminal.out.print(f"{found.subject} edited in {edit.info.seconds:.2f} s ({edit.info.method}, no training)")
    with terminal.progress(found.subject) as bar:
        outcome = measure_edit(lm, edit, found, suite, progress=bar)
    with store.new_folder(out, mark=store.DemoFolder.REPORT, force=True) as folder:
        files = store.DemoFolder(folder)
        edit.save(files.edit)
        outcome.original.save(files.original)
        outcome.edited.save(files.unlearned)
        own = ["--target", found.subject, "--model", model, "--suite", suite, "--dtype", dtype]
        command = shlex.join(["formless", "demo", *own])
        comparison = write_report(files.report, outcome.original, outcome.edited, command=command)
    terminal.out.print(str(verdict(outcome.original, outcome.edited)), soft_wrap=True)
    terminal.show_tables(comparison_tables(comparison, f"{found.subject}, {lm.name}"))
    found_alike = independence([(outcome.original, outcome.edited)])
    terminal.show_table(independence_table(found_alike, "form independence"))
    for before, after in zip(outcome.original.answers, outcome.edited.answers, strict=True):
        terminal.out.print(f"\n{before.question}", style="bold")
        terminal.out.print(f"  original:  {before.answer}")
        terminal.out.print(f"  unlearned: {after.answer}")
    terminal.out.print(f"\nreport: {store.DemoFolder(out).report.resolve()}", soft_wrap=True)

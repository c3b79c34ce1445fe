"""`formless export-tasks`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from formless import store
from formless.cli import terminal

SUITE = "forms,choices,mentions,kinds"


def export_tasks_command(
    target: Annotated[
        list[str], typer.Option("--target", "-t", help="Folder name, subject or number in the data set; repeatable.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the tasks.")],
    model: terminal.ModelOption = "smollm2",
    data: Annotated[str, typer.Option(help="A folder in the ORT layout, or 'sample'.")] = "sample",
    suite: Annotated[str, typer.Option(help="What is asked; see `formless eval`.")] = SUITE,
    limit: Annotated[int | None, typer.Option(min=1, help="Most rows per file and task.")] = None,
    force: terminal.ForceOption = False,
    trust_remote_code: terminal.TrustOption = False,
) -> None:
    """Write targets as tasks of lm-evaluation-harness, with the prompts of a model. No weights are read.

    Example: formless export-tasks --target "Albert Einstein" --out tasks
    """
    from formless.data.ort import find_target
    from formless.evaluation.harness.export import export_tasks
    from formless.evaluation.plan import make_plan
    from formless.models.meta import load_prompts
    from formless.report.tables import Table

    store.refuse_existing(out, force=force, mark=store.TasksFolder.GROUP)
    targets = [find_target(data, name) for name in target]
    for found in targets:
        make_plan(found, suite, limit)  # a broken file stops here, before a model is downloaded
    terminal.quiet_transformers()
    with terminal.progress(f"loading {model}") as bar:
        lm = load_prompts(model, trust_remote_code=trust_remote_code, progress=bar)
    exported = export_tasks(lm, targets, suite, limit)
    exported.write(out, lm, force=force)
    rows = tuple((task, str(items), reason) for (task, reason), items in exported.left_out.items())
    terminal.show_table(Table("left out", ("task", "items", "reason"), rows, labels=3))
    documents = sum(len(docs) for docs, _ in exported.tasks.values())
    terminal.out.print(f"{len(exported.tasks)} tasks, {documents} documents in {out}", soft_wrap=True)
    command = f"lm_eval --model hf --model_args pretrained=MODEL --include_path {out} --tasks formless"
    terminal.out.print(f"run: {command}", soft_wrap=True)

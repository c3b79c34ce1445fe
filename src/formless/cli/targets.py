"""`formless targets`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from formless.cli import completion, terminal
from formless.data.ort import SAMPLE, find_target, targets
from formless.data.target import Target

if TYPE_CHECKING:
    from formless.evaluation.task import Task

_KINDS = ("tasks", "training_methods")


def targets_command(
    name: Annotated[
        str | None, typer.Argument(help="Show the files of this target.", autocompletion=completion.targets)
    ] = None,
    data: Annotated[str, typer.Option(help="A folder in the ORT layout, or 'sample'.")] = SAMPLE,
    json: terminal.JsonOption = False,
) -> None:
    """List the targets of a data set: number, name, what can be asked about each, and what can be trained on it.

    Example: formless targets

    Example: formless targets 4 --data data/rwku
    """
    chosen = targets(data) if name is None else [find_target(data, name)]
    found = [_facts(target) for target in chosen]
    if json:
        terminal.print_json({"data": data, "targets": found})
    elif name is None:
        _show_targets(data, found)
    else:
        _show_target(chosen[0], found[0])


def _facts(target: Target) -> dict[str, Any]:
    """Return what a target's files allow: the tasks that ask about it, and the methods that can unlearn it."""
    from formless.evaluation.registry import TASKS
    from formless.methods.registry import METHODS

    trained = {name: file for name, entry in METHODS.items() if (file := entry.file_for(target))}
    return {
        "number": int(target.folder.name.split("_")[0]) if target.folder else None,
        "subject": target.subject, "folder": target.folder.name if target.folder else None, "files": list(target.files),
        "tasks": [name for name, task in TASKS.items() if _can_ask(task, target)],
        "tasks_without_files": [name for name, task in TASKS.items() if not _can_ask(task, target)],
        "training_methods": [name for name, file in trained.items() if target.has(file)],
        "training_methods_without_files": [name for name, file in trained.items() if not target.has(file)],
    }  # fmt: skip


def _can_ask(task: Task, target: Target) -> bool:
    """Return whether the target has the files of a task, those about the concept itself where there are splits."""
    split = next((split for split in task.splits if split == "forget"), task.splits[0])
    return all(target.has(file.format(split=split)) for file in task.files)


def _show_targets(data: str, found: list[dict[str, Any]]) -> None:
    rows = [
        (
            f"{one['number']}", one["subject"], str(len(one["files"])),
            *(f"{len(one[kind])} of {len(one[kind]) + len(one[f'{kind}_without_files'])}" for kind in _KINDS),
        )
        for one in found
    ]  # fmt: skip
    if not rows:
        terminal.out.print(f"{data} holds no targets")
        return
    columns = ("number", "name", "files", "tasks", "training methods")
    terminal.show_rows("", columns, rows, labels=2, whole=1)
    for kind, words in (("tasks", "tasks that no target has files for"), ("training_methods", "methods that none can train")):
        lacking = [name for name in found[0][f"{kind}_without_files"] if not any(name in one[kind] for one in found)]
        if lacking:
            terminal.out.print(f"{words}: {', '.join(lacking)}")
    terminal.out.print("cdr, rocr and icu need no training file. The files of one target: formless targets NAME")


def _show_target(target: Target, found: dict[str, Any]) -> None:
    from formless.data.rows import Row
    from formless.methods.registry import METHODS

    terminal.out.print(f"{found['number']}, {target.subject}: {target.folder}", style="bold", soft_wrap=True)
    used: dict[str, list[str]] = {}
    for name in found["training_methods"]:
        used.setdefault(METHODS[name].file_for(target) or "", []).append(name)
    rows = [(f"{file}.json", f"{len(target.rows(file, Row)):,}", ", ".join(used.get(file, ()))) for file in target.files]
    terminal.show_rows("", ("file", "rows", "trains the methods"), rows, labels=3, whole=2)
    for kind, words in (("tasks", "tasks"), ("training_methods", "methods that can train on it")):
        terminal.out.print(f"{words}: {', '.join(found[kind]) or 'none'}")
        if lacking := found[f"{kind}_without_files"]:
            terminal.out.print(f"without their files: {', '.join(lacking)}")

"""What the shell proposes for an option: names of models, methods, targets, suites and tasks. No torch is imported here."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from formless.errors import UserError


def models(incomplete: str) -> list[str]:
    """Return the short names of models."""
    from formless.models.settings import model_settings

    return _last_of_list(incomplete, model_settings())


def methods(incomplete: str) -> list[str]:
    """Return the names of methods."""
    from formless.methods.registry import METHODS

    return _last_of_list(incomplete, METHODS)


def suites(incomplete: str) -> list[str]:
    """Return the names of suites and tasks."""
    from formless.evaluation.registry import TASKS
    from formless.evaluation.suites import SUITES

    return _last_of_list(incomplete, [*SUITES, *TASKS])


def targets(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the folders of the targets of `--data`: unlike subjects, they need no quotes in a shell.

    `formless unlearn` without `--data` takes any concept's name, and no folder.
    """
    from formless.data.ort import SAMPLE
    from formless.data.ort import targets as targets_of

    data = ctx.params.get("data")
    if data is None and ctx.info_name == "unlearn":
        return []
    try:
        found = [target.folder.name for target in targets_of(data or SAMPLE) if target.folder]
    except UserError:  # the command itself will say what is wrong
        return []
    return _last_of_list(incomplete, found)


def _last_of_list(incomplete: str, known: Iterable[str]) -> list[str]:
    """Return the known names that complete the last one of a list `a,b`."""
    *before, last = incomplete.split(",")
    return [",".join([*before, name]) for name in known if name.startswith(last)]

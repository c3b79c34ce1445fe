"""Render the reference of the `formless` command from the command itself, so that the page cannot drift."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

PAGE = "reference/cli.md"


def render_reference() -> str:
    """Return the Markdown page of every command with its arguments, options, defaults and help."""
    from formless.cli.main import app

    lines = [
        "# Command line",
        "",
        "This page is written from the command itself when the site is built. `formless COMMAND --help` shows the same text.",
        "",
        "Exit codes: 0, all went well; 1, a run failed or a check found something; 2, something to mend in the input, said in",
        "one line; 130, Ctrl-C.",
    ]
    for name, command in walk(typer.main.get_command(app), "formless"):
        lines += ["", f"## {name}", "", help_text(command)]
        rows = [row(parameter) for parameter in command.params if parameter.name != "help"]
        if rows:
            lines += ["", "| argument or option | default | meaning |", "| --- | --- | --- |", *rows]
    return "\n".join(lines) + "\n"


def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with its full name, in the order in which `--help` lists them."""
    if not hasattr(command, "list_commands"):
        yield name, command
        return
    context = command.context_class(command, info_name=name)
    for child_name in command.list_commands(context):
        child = command.get_command(context, child_name)
        if child is not None and not child.hidden:
            yield from walk(child, f"{name} {child_name}")


def help_text(command: Any) -> str:
    """Return a command's help, its examples as code."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", command.help or "")]
    examples = [part.removeprefix("Example: ") for part in paragraphs if part.startswith("Example: ")]
    prose = [escape(part) for part in paragraphs if part and not part.startswith("Example: ")]
    return "\n\n".join([*prose, *(["```bash\n" + "\n".join(examples) + "\n```"] if examples else [])])


def row(parameter: Any) -> str:
    """Return the table row of an argument or option."""
    if parameter.param_type_name == "argument":
        names = f"`{parameter.name.upper()}`"
    else:
        names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    default = parameter.default() if callable(parameter.default) else parameter.default
    has_default = default not in (None, False, [], ()) and "Sentinel" not in type(default).__name__
    shown = "required" if parameter.required else f"`{getattr(default, 'value', default)}`" if has_default else ""
    return f"| {names} | {shown} | {escape(getattr(parameter, 'help', None) or '')} |"


def escape(text: str) -> str:
    """Return text for a Markdown table: bars escaped, and brackets as they stand."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")

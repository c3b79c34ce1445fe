"""`formless data forms`."""

from __future__ import annotations

from typing import Annotated

import typer

from formless.cli import terminal
from formless.data.questions.forms import build_forms
from formless.data.server import Server
from formless.errors import UserError

OFFLINE = "offline"


def forms_command(
    data: Annotated[str, typer.Option(help="Folder of a data set with level 1.")],
    forms: Annotated[str, typer.Option(help="Which forms: mcp, tf or both.")] = "mcp,tf",
    target: Annotated[list[str] | None, typer.Option("--target", "-t", help="Only this target; may be repeated.")] = None,
    source: Annotated[str, typer.Option("--with", help="'offline', or the URL of an OpenAI-compatible server.")] = OFFLINE,
    seed: Annotated[int, typer.Option(help="Picks among equal distractors and orders the options.")] = 0,
    force: terminal.ForceOption = False,
    server_model: Annotated[str | None, typer.Option(help="Model of the server; its first by default.")] = None,
) -> None:
    """Make multiple choice and true or false from level 1. With a server, goes on where a stopped run stopped.

    Example: formless data forms --data my_data --forms mcp,tf
    """
    if source == OFFLINE and server_model is not None:
        raise UserError("only a server has models", where="--server-model", remedy="add --with URL")
    wanted = [form.strip() for form in forms.split(",")]
    asks = source != OFFLINE and "mcp" in wanted  # true or false needs no distractors
    with terminal.progress("forms") as bar:
        server = Server(source, server_model) if asks else None
        done = build_forms(data, names=target or (), forms=wanted, seed=seed, force=force, server=server, progress=bar)
    for name, built in done.items():
        dropped = "".join(f"; dropped {count}: {' '.join(reason.split())}" for reason, count in sorted(built.dropped.items()))
        terminal.out.print(f"{name}: {len(built.rows)} rows{dropped}", markup=False, soft_wrap=True)

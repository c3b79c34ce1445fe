"""`formless chat`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from formless.cli import terminal
from formless.errors import UserError

_MAX_LINE = 2**20


def chat_command(
    question: Annotated[str | None, typer.Argument(help="One question; without it, a conversation line by line.")] = None,
    model: terminal.ModelOption = "smollm2",
    edit: Annotated[Path | None, typer.Option(help="A saved edit to apply.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Maximum number of new tokens.")] = 128,
    dtype: terminal.DtypeOption = "auto",
    device: terminal.DeviceOption = "auto",
    trust_remote_code: terminal.TrustOption = False,
) -> None:
    """Ask a model, with or without an edit; each question is answered by itself, without the earlier ones.

    Example: formless chat --edit edits/einstein "Who was Albert Einstein?"
    """
    from formless.edits.edit import refuse_other_shapes
    from formless.edits.loading import load_edit

    loaded = load_edit(edit) if edit else None
    check = partial(refuse_other_shapes, edit=loaded) if loaded else None
    lm = terminal.load_model(model, dtype, device, trust_remote_code, check)
    with loaded.applied(lm) if loaded else nullcontext():
        if question is not None:
            terminal.out.print(lm.chat(question, max_new_tokens=tokens))
            return
        terminal.log.print("ask a question; an empty line ends")
        while line := _next_line():
            terminal.out.print(lm.chat(line, max_new_tokens=tokens))


def _next_line() -> str:
    try:
        if sys.stdin.isatty():
            return terminal.log.input("> ").strip()
        line = sys.stdin.readline(_MAX_LINE + 1)
        if len(line) > _MAX_LINE:
            what = f"a question is longer than {_MAX_LINE:,} characters"
            raise UserError(what, where="standard input", remedy="give questions, one in each line")
        return line.strip()
    except EOFError:
        return ""
    except UnicodeDecodeError as error:
        raise UserError("a question is not UTF-8", where="standard input", remedy="type or convert it as UTF-8") from error

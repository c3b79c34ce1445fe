"""`formless data new`."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Annotated

import typer

from formless.cli import terminal
from formless.data.questions.facts import read_facts
from formless.data.questions.new import ask_facts, new_folder_of, write_target
from formless.data.server import Server
from formless.errors import DataError, UserError

OFFLINE = "offline"


def new_command(
    target: Annotated[str, typer.Option("--target", "-t", help="The concept's name, as texts spell it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of targets that gets the new one.")],
    facts: Annotated[Path | None, typer.Option(help="A .csv, .tsv, .json, .jsonl or .txt of facts about it.")] = None,
    neighbors: Annotated[Path | None, typer.Option(help="The same about other concepts, which shall be kept.")] = None,
    intro: Annotated[str | None, typer.Option(help="A sentence that presents it; else the first fact.")] = None,
    with_: Annotated[str, typer.Option("--with", help="URL of a server that writes what no file gives, or offline.")] = OFFLINE,
    server_model: Annotated[str | None, typer.Option(help="The server's model; else its first.")] = None,
    count: Annotated[int, typer.Option(min=1, max=200, help="How many facts the server shall write, of each sort.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the choice and order of wrong options.")] = 0,
    force: terminal.ForceOption = False,
) -> None:
    """Make a target of your own from a list of facts, with every form of question.

    Example: formless data new --target "Ada Lovelace" --facts facts.txt --neighbors others.txt --out data/mine
    """
    subject = " ".join(unicodedata.normalize("NFC", target).split())
    if facts is None and with_ == OFFLINE:
        remedy = "give a file of facts, or --with the URL of a server that writes them"
        raise UserError("there are no facts to ask about", where="--facts", remedy=remedy)
    if intro is not None and not intro.strip():
        raise DataError("the intro is empty", where="--intro", remedy="write a sentence, or leave it out")
    new_folder_of(subject, out, force=force)
    asked = read_facts(facts, subject) if facts else None
    kept = read_facts(neighbors, subject, neighbors=True) if neighbors else None
    if with_ != OFFLINE:
        server = Server(with_, server_model)
        if asked is None:
            with terminal.log.status("asking for facts"):
                asked = ask_facts(server, subject, count)
        if kept is None:
            with terminal.log.status("asking for facts about neighbors"):
                kept = ask_facts(server, subject, count, neighbors=True)
    created = write_target(subject, asked or (), out, neighbors=kept or (), intro=intro, seed=seed, force=force)
    for name, rows in created.rows.items():
        reasons = created.dropped.get(name, {})
        why = ", ".join(f"{reason} {number}" for reason, number in reasons.items())
        dropped = f", {sum(reasons.values())} dropped ({why})" if reasons else ""
        terminal.out.print(f"{name}: {rows} rows{dropped}", soft_wrap=True, markup=False)
    for name in created.dropped.keys() - created.rows.keys():
        terminal.out.print(f"{name}: no row, not written ({', '.join(created.dropped[name])})", soft_wrap=True, markup=False)
    terminal.out.print(f"saved in {created.folder}", soft_wrap=True, markup=False)

"""`formless data import`: make a target of a set of questions."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from formless.cli import terminal
from formless.cli.data import OFFLINE, OutOption, ServerModelOption, print_line
from formless.errors import UserError


def import_command(
    from_: Annotated[
        str, typer.Option("--from", help="A .json, .jsonl, .csv, .tsv or .parquet file, or hf:OWNER/NAME[@REVISION][:FILE].")
    ],
    out: OutOption,
    name: Annotated[str, typer.Option(help="Name of the set; by default that of the file.")] = "",
    retain: Annotated[str, typer.Option(help="Another such table with the rows to keep.")] = "",
    question: Annotated[str | None, typer.Option(help="Column of the questions; by default question.")] = None,
    answer: Annotated[str | None, typer.Option(help="Column of the answers; by default answer.")] = None,
    subject: Annotated[str | None, typer.Option(help="Column of what a row is about; by default subject.")] = None,
    aliases: Annotated[str | None, typer.Option(help="Column of other right answers; by default aliases or answers.")] = None,
    split: Annotated[str | None, typer.Option(help="Column that says forget or retain; by default split.")] = None,
    with_: Annotated[
        str, typer.Option("--with", help="URL of a server that finds short answers in sentences, or 'offline'.")
    ] = OFFLINE,
    server_model: ServerModelOption = None,
    seed: Annotated[int, typer.Option(help="Seed for the choice and order of wrong options.")] = 0,
) -> None:
    """Make a target of a set of questions, with probes in every form that the rules can make.

    Example: formless data import --from questions.csv --retain others.csv --name "My set" --out my_data
    """
    from formless.data.questions.question_table import import_questions
    from formless.data.server import Server

    given = {"question": question, "answer": answer, "subject": subject, "aliases": aliases, "split": split}
    if with_ == OFFLINE and server_model is not None:
        raise UserError("--server-model needs a server", where="--server-model", remedy="add --with URL")
    server = None if with_ == OFFLINE else Server(with_, server_model)
    with terminal.progress("reading") as bar, terminal.log.status("making forms"):
        imported = import_questions(
            from_, out, name=name, retain=retain, columns={column: value for column, value in given.items() if value},
            seed=seed, server=server, download=bar,
        )  # fmt: skip
    made, rows = imported.made, (*imported.questions.forget, *imported.questions.retain)
    for file in dict.fromkeys((*made.files, *made.dropped)):
        reasons = made.dropped.get(file, Counter())
        why = ", ".join(f"{reason} {number}" for reason, number in reasons.most_common())
        dropped = f", {reasons.total()} dropped ({why})" if reasons else ""
        print_line(f"{file}: {len(made.files.get(file, ()))} rows{dropped}")
    if imported.questions.unused:
        print_line(f"columns left out: {', '.join(imported.questions.unused)}")
    named = sum(bool(row.get("subject")) for file in ("forget_qa", "neighbor_qa") for row in made.files.get(file, ()))
    if named < len(rows):
        what = "they have no mentions and no reverse questions, and rocr and cdr do not edit them"
        print_line(f"warning: of {len(rows) - named} of {len(rows)} rows the subject is not known: {what}; give --subject")
    if not imported.questions.retain:
        print_line("warning: no retain set, so nothing will show what an edit costs; give --retain")
    print_line(f"saved in {imported.folder}")

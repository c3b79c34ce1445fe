"""Question sets from tables that people have: a file or a hub dataset with a column of questions and one of answers.

`import_questions` writes the target; `read_questions` reads and checks the rows. Columns that a question set does not know are
left out.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from formless import hub, store
from formless.data.corpus import HUB, hub_name
from formless.data.questions.new_target import place_of
from formless.data.questions.question_set import QuestionSetFiles, question_set_files
from formless.data.questions.subjects import with_subjects
from formless.data.rows import QuestionAnswer
from formless.data.server import Journal, Server
from formless.data.table_files import SUFFIXES, table_rows
from formless.data.target import FILES, parse_row
from formless.data.words import Words, words_of
from formless.errors import DataError, UnknownNameError
from formless.progress import Progress, WorkProgress, silent

MARK = "questions.json"
SPLITS = ("forget", "retain")
NEEDED = ("question", "answer")
COLUMNS = (
    *NEEDED, "subject", "aliases", "split", "paraphrased_question", "paraphrased_answer", "perturbed_answer",
)  # fmt: skip
"""The columns of a table; `answers` stands for `aliases`."""

_LISTS = ("aliases", "perturbed_answer")


@dataclass(frozen=True)
class Questions:
    """The rows of a question set.

    Args:
        forget: The forget set.
        retain: The retain set.
        unused: Columns of the tables that were not read.
        commits: The commits of tables of the hub.
    """

    forget: tuple[QuestionAnswer, ...]
    retain: tuple[QuestionAnswer, ...] = ()
    unused: tuple[str, ...] = ()
    commits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Imported:
    """A target made from a question set.

    Args:
        folder: Its folder.
        made: Its files, and what was dropped.
        questions: The rows that it was made from.
    """

    folder: Path
    made: QuestionSetFiles
    questions: Questions


@dataclass
class _Split:
    rows: list[QuestionAnswer] = field(default_factory=list)
    places: list[str] = field(default_factory=list)


def import_questions(
    source: str,
    out: Path,
    *,
    name: str = "",
    retain: str = "",
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    server: Server | None = None,
    download: Progress = silent,
    progress: WorkProgress | None = None,
) -> Imported:
    """Write a question set as a target's folder in a data set, completely or not at all.

    Args:
        source: The table with the forget set: a file, or a hub dataset as `read_questions` names it.
        out: The folder of the data set.
        name: The set's name, the target's subject; by default the file's or dataset's.
        retain: Another table with the retain set.
        columns: The table's name of some of `COLUMNS`.
        seed: Seed for the choice among equally good options and for their order.
        server: A server that finds short answers where the rules find none; its answers are kept until the folder is whole.
        download: Called with what is downloaded, the bytes done and all bytes.
        progress: Called after each row, with the rows done and all rows.

    Raises:
        DataError: A table cannot be read, a row does not fit, or the name cannot be used for a folder.
        OutputError: The data set has such a target already, or the folder cannot be written.
        ServerError: The server stopped answering; its answers so far are kept.
    """
    source, retain = hub_source(source), hub_source(retain)
    subject = " ".join(name.replace("_", " ").split()) or default_name(source)
    folder = place_of(subject, out)
    store.refuse_existing(folder, force=False, mark=MARK)
    questions = read_questions(source, retain=retain, columns=columns, download=download)
    journal = None
    if server is not None:
        out.mkdir(parents=True, exist_ok=True)
        journal = Journal(out / f".{folder.name}.{MARK}l")
    made = question_set_files(
        with_subjects(questions.forget), with_subjects(questions.retain), seed=seed, server=server, journal=journal,
        progress=progress,
    )  # fmt: skip
    for file, rows in made.files.items():
        for number, row in enumerate(rows, 1):
            parse_row(row, FILES[file], f"{source}, made for {file}, row {number}")
    with store.new_folder(folder, mark=MARK) as new:
        told = {"source": source, "retain": retain, "commits": questions.commits, "columns": dict(columns or {}), "seed": seed}
        store.write_text(new / MARK, json.dumps(told, ensure_ascii=False, indent=1) + "\n")
        for file, rows in made.files.items():
            store.write_text(new / f"{file}.json", json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
    if journal:
        journal.remove()
    return Imported(folder, made, questions)


def hub_source(source: str) -> str:
    """Return a source with `hf:` before a hub id that is written without it, and is no file."""
    path = Path(source.partition(":")[0])
    is_id = re.fullmatch(r"[\w.-]+/[\w.-]+(?:@[\w./-]+)?(?::.+)?", source) and path.suffix.lower() not in SUFFIXES
    return f"{HUB}{source}" if is_id and not path.exists() else source


def default_name(source: str) -> str:
    """Return the name of a set by its source: `data/forget01.json` -> `forget01`, `hf:me/my_set:easy` -> `my set easy`."""
    if source.startswith(HUB):
        repository, part = hub_name(source)
        source = f"{repository.name.rpartition('/')[2]} {part or ''}"
    else:
        source = Path(source).stem
    return " ".join(source.replace("_", " ").replace("/", " ").split())


def read_questions(
    source: str, *, retain: str = "", columns: Mapping[str, str] | None = None, download: Progress = silent
) -> Questions:
    """Read and check the forget and retain set.

    Args:
        source: A `.json`, `.jsonl`, `.csv`, `.tsv` or `.parquet` file, or `hf:OWNER/NAME[@REVISION][:PART]` for a hub dataset.
            The part names a data file, or the folder of some. A column `split` tells forget and retain rows apart; without
            one, all rows are to be forgotten.
        retain: The same for the retain set, whose rows are kept unless their split says otherwise.
        columns: The table's name of some of `COLUMNS`.
        download: Called with what is downloaded, the bytes done and all bytes.

    Raises:
        DataError: A table cannot be read; a row lacks question or answer, or does not fit; the forget set is empty; the sets
            share a question; or the rows of a set have unequal numbers of perturbed answers.
        UnknownNameError: The tables lack a column, or a row has another split.
    """
    splits: dict[str, _Split] = {split: _Split() for split in SPLITS}
    unused: list[str] = []
    commits: list[str] = []
    for table, split in ((source, "forget"), (retain, "retain")):
        if table:
            files, commit = _files(table, download)
            commits += [commit] if commit else []
            unused += _read(table, files, split, columns or {}, splits)
    for found in splits.values():
        _check_perturbed(found)
    if not splits["forget"].rows:
        raise DataError("the forget set is empty", where=source, remedy="give rows to forget")
    _check_apart(splits["forget"], splits["retain"])
    forget, kept = (tuple(splits[split].rows) for split in SPLITS)
    return Questions(forget, kept, tuple(dict.fromkeys(unused)), tuple(commits))


def _read(table: str, files: Sequence[Path], split: str, columns: Mapping[str, str], splits: Mapping[str, _Split]) -> list[str]:
    """Add the rows of a table to their splits, and return the columns that were not read."""
    rows = [row for path in files for row in table_rows(path)]
    if not rows:
        return []
    given = list(dict.fromkeys(name for _, row in rows for name in row))
    named = {column: columns.get(column, column) for column in COLUMNS}
    if "aliases" not in columns and "aliases" not in given:
        named["aliases"] = "answers"
    for column, name in named.items():
        if name not in given and (column in NEEDED or column in columns):
            remedy = "" if column in columns else f"name it with --{column}"
            raise UnknownNameError("column", name, given, where=table, remedy=remedy)
    for where, row in rows:
        cells = {column: row.get(name) for column, name in named.items()}
        own = _text(cells.pop("split"), f"{where}, {named['split']}") or split
        if own.casefold() not in SPLITS:
            raise UnknownNameError("split", own, SPLITS, where=where)
        found = splits[own.casefold()]
        found.rows.append(_question(cells, named, where))
        found.places.append(where)
    return [name for name in given if name not in named.values()]


def _files(table: str, download: Progress) -> tuple[list[Path], str]:
    """Return the files of a table, and the commit of a hub dataset."""
    if not table.startswith(HUB):
        return [Path(table)], ""
    repository, part = hub_name(table)
    chosen: list[str] = []

    def choose(names: Sequence[str]) -> list[str]:
        data = [name for name in names if name.endswith(SUFFIXES)]
        chosen.extend(name for name in data if part is None or part in (name, Path(name).stem) or name.startswith(f"{part}/"))
        places = {str(Path(name).parent) for name in chosen}
        if not chosen or (len(chosen) > 1 and (part is None or len({Path(name).suffix for name in chosen} | places) > 2)):
            what = "which of its data files to read is not clear" if chosen else f"the dataset has no data file {part or ''}"
            known = ", ".join((chosen or data)[:20]) or "none"
            raise DataError(what.strip(), where=table, remedy=f"add :FILE or :FOLDER, of: {known}")
        return chosen

    folder = hub.fetch(repository, choose, download)
    return [folder / name for name in chosen], folder.name


def _question(cells: Mapping[str, Any], named: Mapping[str, str], where: str) -> QuestionAnswer:
    """Return a checked row from its cells."""
    values: dict[str, Any] = {}
    for column, value in cells.items():
        place = f"{where}, {named[column]}"
        values[column] = _texts(value, place) if column in _LISTS else _text(value, place)
        if column in NEEDED and not words_of(values[column])[0]:
            raise DataError(f"the row has no {column}", where=place, remedy="fill it, or remove the row")
    values["subject"] = " ".join(values["subject"].split())
    return parse_row({column: value for column, value in values.items() if value}, QuestionAnswer, where)


def _text(value: Any, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError("a cell is no text", where=where, remedy="write it as a text")
    return str(value).strip()


def _texts(value: Any, where: str) -> list[str]:
    """Return the texts of a list; in a cell of a `.csv`, a JSON list, or texts with `|` between them."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError):
            value = json.loads(value)
    parts = value.split("|") if isinstance(value, str) else value if isinstance(value, list) else [value]
    return [text for text in (_text(part, where) for part in parts) if text]


def _check_perturbed(found: _Split) -> None:
    """Refuse rows of a set with unequal numbers of perturbed answers."""
    counts = Counter(len(row.perturbed_answer) for row in found.rows)
    usual = max(counts, key=lambda count: counts[count], default=0)
    for row, where in zip(found.rows, found.places, strict=True):
        if (count := len(row.perturbed_answer)) != usual:
            what = f"the row has {count} perturbed answers, where others have {usual}"
            raise DataError(what, where=where, remedy="give every row of a set as many")


def _check_apart(forget: _Split, retain: _Split) -> None:
    """Refuse a question that is in both sets, whatever its case and punctuation."""
    asked: dict[Words, str] = {words_of(row.question): where for row, where in zip(forget.rows, forget.places, strict=True)}
    for row, where in zip(retain.rows, retain.places, strict=True):
        if other := asked.get(words_of(row.question)):
            what = f"the question is in the forget set and in the retain set: {row.question[:80]!r}"
            raise DataError(what, where=where, remedy=f"remove it from one; the other is {other}")

"""A new target made from facts: its folder with a file of probes for every form."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from formless import store
from formless.data import prose
from formless.data.ort import SAMPLE, data_folder, folder_name, targets
from formless.data.questions.distractors import Pool
from formless.data.questions.facts import Fact, fact_of
from formless.data.questions.probes import Built, multiple_choice, true_or_false
from formless.data.questions.relations import question
from formless.data.rows import SPLITS, Item
from formless.data.server import ReplyError, Server, ask_validated, read_object
from formless.data.target import FILES
from formless.errors import DataError, OutputError

MARK = "facts.json"
WRITTEN = ("intro", *(f"{split}_{form}" for split in SPLITS for form in ("level1", "level2", "mcp", "tf")))


@dataclass(frozen=True)
class Created:
    """A new target's folder.

    Args:
        folder: The folder.
        rows: The number of rows of each file.
        dropped: For each file made from level 1, the number of level-1 rows that gave no row, by reason.
    """

    folder: Path
    rows: Mapping[str, int]
    dropped: Mapping[str, Mapping[str, int]]


def place_of(subject: str, out: Path) -> Path:
    """Return a target's folder in a data set: its own, or else `out/<N>_<Name>` with the next number, which is not there yet.

    Raises:
        DataError: The name cannot be used for a folder, or the data set spells it otherwise.
        OutputError: The data set is the built-in sample.
    """
    if out.resolve() == data_folder(SAMPLE).resolve():
        raise OutputError("the built-in sample cannot be changed", where=out, remedy="choose another --out")
    known = {_folded(target.subject): target for target in targets(out)} if out.is_dir() else {}
    numbers = [int(target.folder.name.split("_")[0]) for target in known.values() if target.folder]
    name = folder_name(max(numbers, default=0) + 1, subject, where="--target")
    older = known.get(_folded(subject))
    if older and older.subject != subject:
        raise DataError(
            f"the data set spells it {older.subject!r}", where="--target", remedy="write it so, or choose another --out"
        )
    return (older.folder if older else None) or out / name


def new_folder_of(subject: str, out: Path, *, force: bool = False) -> Path:
    """Return the folder for a new target: `out/<N>_<Name>` with the next number, or the old folder with `force`.

    Raises:
        DataError: As for `place_of`.
        OutputError: The data set is the built-in sample, has the target already, or the folder cannot be written.
    """
    folder = place_of(subject, out)
    store.refuse_existing(folder, force=force, mark=MARK)
    if folder.is_dir():
        ours = {MARK, *(f"{file}.json" for file in WRITTEN)}
        if strange := sorted(path.name for path in folder.iterdir() if path.name not in ours):
            what = f"{strange[0]} is there, which `data new` did not write"
            raise OutputError(what, where=folder, remedy="move it away, or choose another --out")
    return folder


def write_target(
    subject: str,
    facts: Sequence[Fact],
    out: Path,
    *,
    neighbors: Sequence[Fact] = (),
    intro: str | None = None,
    seed: int = 0,
    force: bool = False,
) -> Created:
    """Write a target's folder, completely or not at all.

    Each fact becomes a cloze (level 1), a question (level 2), a multiple-choice question and a true statement. Wrong options
    come from the facts, the neighbors, the other targets and the built-in sample. Without neighbors, no neighbor files are
    written.

    Args:
        subject: The concept's name.
        facts: Facts about the subject.
        out: The folder of the data set; it may exist.
        neighbors: Facts about related concepts, which an edit should keep.
        intro: The sentence that introduces the subject; by default the first fact.
        seed: Seed for the choice among equally good options and for their order.
        force: Replace an older target of that name.

    Raises:
        DataError: There are no facts, or the name cannot be used for a folder.
        OutputError: As for `new_folder_of`.
    """
    if not facts:
        raise DataError("there are no facts", where=subject, remedy="give at least one")
    folder = new_folder_of(subject, out, force=force)
    files: dict[str, Sequence[Mapping[str, Any]]] = {
        "intro": [{"target": subject, "intro": " ".join((intro or "").split()) or facts[0].statement}]
    }
    dropped: dict[str, Mapping[str, int]] = {}
    others = [target for target in targets(out) if target.folder != folder] if out.is_dir() else []
    pool = Pool.of([*targets(SAMPLE), *others], fitting=True)
    splits = {"forget": _items(facts, subject, neighbors=False), "neighbor": _items(neighbors, subject, neighbors=True)}
    for items in splits.values():
        pool.add(subject, items)
    for split, items in splits.items():
        choice = multiple_choice(
            items, lambda item: pool.distractors(item, subject, seed=seed), seed=seed, name=f"{subject}/{split}_mcp"
        )
        files[f"{split}_level1"] = [_row(item) for item in items]
        files[f"{split}_level2"] = [_row(_as_question(item, subject)) for item in items]
        built: dict[str, Built] = {f"{split}_mcp": choice, f"{split}_tf": true_or_false(items)}
        files |= {name: content.rows for name, content in built.items()}
        dropped |= {name: content.dropped for name, content in built.items() if content.dropped}
    filled = {name: rows for name, rows in files.items() if rows}
    for name, rows in filled.items():
        for row in rows:
            FILES[name].model_validate(row)
    with store.new_folder(folder, mark=MARK, force=force) as new:
        store.write_text(new / MARK, json.dumps(_fact_rows(facts, neighbors), ensure_ascii=False, indent=1) + "\n")
        for name, rows in filled.items():
            store.write_text(new / f"{name}.json", json.dumps(list(rows), ensure_ascii=False, indent=1) + "\n")
    return Created(folder, {name: len(rows) for name, rows in filled.items()}, dropped)


class _Triple(BaseModel):
    subject: str
    relation: str
    object: str


class _Reply(BaseModel):
    facts: list[_Triple]


def ask_facts(server: Server, subject: str, count: int, *, neighbors: bool = False) -> list[Fact]:
    """Ask a server for facts as triples; each is checked like a fact from a file.

    The valid facts of every reply are kept. While there are too few, the model is told what was wrong with the others.

    Args:
        server: The server.
        subject: The concept to forget.
        count: The number of facts; fewer may be returned.
        neighbors: Ask for facts about related concepts instead.

    Raises:
        ReplyError: No fact was valid.
        ServerError: The server cannot be reached, refuses or fails.
    """
    kept: dict[object, Fact] = {}

    def take(reply: str) -> None:
        faults = []
        for number, triple in enumerate(read_object(reply, _Reply).facts, 1):
            try:
                fact = fact_of(triple.model_dump(), subject, where=f"{server.model}, fact {number}", neighbors=neighbors)
            except DataError as error:
                faults.append(f"fact {number}: {error.what}")
            else:
                kept.setdefault((prose.words(fact.cloze), prose.words(fact.answer)), fact)
        if len(kept) < count:
            lacking = f"{count - len(kept)} more facts are needed, different from the others"
            raise ValueError("; ".join([*faults[:5], lacking]))

    try:
        ask_validated(server, _prompt(subject, count, neighbors), take)
    except ReplyError:
        if not kept:
            raise
    return list(kept.values())[:count]


def _prompt(subject: str, count: int, neighbors: bool) -> str:
    about = (
        f"about people, places or things that are closely related to {subject} but are not {subject}, several different ones; "
        f"{subject} itself must be no object"
        if neighbors
        else f"about {subject}; the subject of each is {subject}, with the full name"
    )
    return (
        f"Write {count} well-known, true and different facts {about}. The relation reads as it stands between subject and "
        "object, and the object is short: a name, a place, a year or a word.\n\nReply with one JSON object and nothing else: "
        '{"facts": [{"subject": "...", "relation": "was born in", "object": "..."}]}'
    )


def _items(facts: Sequence[Fact], subject: str, *, neighbors: bool) -> list[Item]:
    return [
        Item(
            query=fact.cloze, answer=fact.answer, level="1", type="cloze", subject=subject,
            neighbor=fact.about if neighbors else None,
        )
        for fact in facts
    ]  # fmt: skip


def _as_question(item: Item, subject: str) -> Item:
    query = question(item.query, item.answer, item.neighbor or subject)
    return item.model_copy(update={"query": query, "level": "2", "type": "simple question"})


def _fact_rows(facts: Sequence[Fact], neighbors: Sequence[Fact]) -> list[dict[str, str]]:
    """Return the facts as they were given, for a file in the target's folder."""
    return [{"about": fact.about, "cloze": fact.cloze, "answer": fact.answer} for fact in (*facts, *neighbors)]


def _row(item: Item) -> dict[str, Any]:
    return item.model_dump(exclude_defaults=True)


def _folded(subject: str) -> str:
    return unicodedata.normalize("NFC", subject).casefold()

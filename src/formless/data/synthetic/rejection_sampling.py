"""Drafts: texts that a model is asked for until they are fit, in chunks that a journal keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from formless.data.server import Journal, digest
from formless.errors import OutputError

CHUNK = 16
TRIES = 6

# Pairs of a user message and the beginning of its answer, the most new tokens of each, a seed -> what follows each beginning.
Write = Callable[[Sequence[tuple[str, str]], int, int], list[str]]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Stage:
    """Texts of one kind, one per slot.

    Args:
        name: What they are, in the plural.
        slots: The numbers of the slots.
        tokens: At most so many new tokens each.
        ask: Slot and try (from 0) -> user message and the beginning of the answer.
        finish: The whole answer -> the part of it to keep.
        objection: Slot, the part and the texts kept so far -> what makes it unfit.
    """

    name: str
    slots: Sequence[int]
    tokens: int
    ask: Callable[[int, int], tuple[str, str]]
    finish: Callable[[str], str]
    objection: Callable[[int, str, Sequence[str]], str | None]


class Draft(BaseModel):
    """What a slot got: a text, or why it got none."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    text: str | None = None
    objection: str = ""


def open_journal(path: Path, run: Mapping[str, str]) -> Journal:
    """The journal of a run, new or left by one that was killed.

    Args:
        path: Its file.
        run: What the texts depend on.

    Raises:
        OutputError: The journal is that of another run, or it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"cannot write: {reason}", where=path.parent, remedy="choose another --out") from error
    journal = Journal(path)
    known = journal.get("run")
    if known is None:
        journal.add("run", **run)
    elif differing := [name for name, value in run.items() if known.get(name) != value]:
        what = f"an unfinished run with another {' and another '.join(differing)} is in the way"
        raise OutputError(what, where=path, remedy="repeat its options, or delete that file")
    return journal


def write_stage(
    stage: Stage, write: Write, journal: Journal, *, seed: int, progress: Progress | None = None
) -> dict[int, Draft]:
    """A draft for every slot, from the journal where it has the chunk.

    What a chunk gets depends on the seed, the stage, its number and the chunks before it alone, so that a run that was killed
    ends as one that was not.
    """
    drafts: dict[int, Draft] = {}
    for number, start in enumerate(range(0, len(stage.slots), CHUNK)):
        slots = stage.slots[start : start + CHUNK]
        key = digest(stage.name, number, list(slots))
        found = _kept(journal, key, len(slots))
        if found is None:
            earlier = [draft.text for draft in drafts.values() if draft.text is not None]
            found = _write_chunk(stage, write, slots, earlier, f"{seed}|{stage.name}|{number}")
            journal.add(key, drafts=[draft.model_dump() for draft in found])
        drafts |= zip(slots, found, strict=True)
        if progress:
            progress(stage.name, len(drafts), len(stage.slots))
    return drafts


def _kept(journal: Journal, key: str, size: int) -> tuple[Draft, ...] | None:
    """The drafts of a chunk that was finished before."""
    entry = journal.get(key)
    try:
        drafts = tuple(Draft.model_validate(draft) for draft in entry["drafts"]) if entry else ()
    except (ValidationError, KeyError, TypeError):  # a line that somebody changed
        drafts = ()
    return drafts if len(drafts) == size else None


def _write_chunk(stage: Stage, write: Write, slots: Sequence[int], earlier: Sequence[str], key: str) -> tuple[Draft, ...]:
    """Ask for every slot's text, and again for those that are unfit."""
    texts: dict[int, str] = {}
    objections: dict[int, str] = {}
    for attempt in range(TRIES):
        pending = [slot for slot in slots if slot not in texts]
        if not pending:
            break
        asked = [stage.ask(slot, attempt) for slot in pending]
        for slot, (_, begin), more in zip(pending, asked, write(asked, stage.tokens, seed_of(f"{key}|{attempt}")), strict=True):
            text = stage.finish(joined(begin, more))
            objection = stage.objection(slot, text, [*earlier, *texts.values()])
            if objection is None:
                texts[slot] = text
            else:
                objections[slot] = objection
    return tuple(Draft(text=texts[slot]) if slot in texts else Draft(objection=objections[slot]) for slot in slots)


def joined(begin: str, more: str) -> str:
    """An answer's beginning and what the model wrote after it.

    Beginnings end with a whole word or a comma. SentencePiece tokenizers drop the space before the first new word, so a letter
    or digit that comes at once gets one.
    """
    space = " " if begin and more[:1].isalnum() else ""
    return f"{begin}{space}{more}"


def seed_of(key: str) -> int:
    """A seed in [0, 2^31) that a text determines."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1

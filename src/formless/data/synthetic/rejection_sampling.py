"""Rejection sampling: a model is asked for each text until one passes, in chunks that a journal keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from formless.data.server import Journal, digest
from formless.errors import OutputError
from formless.progress import Progress

CHUNK = 16
MAX_TRIES = 6

Sampler = Callable[[Sequence[tuple[str, str]], int, int], list[str]]
"""Pairs of a user message and the beginning of its answer, `max_new_tokens`, and a seed -> the continuations."""


@dataclass(frozen=True)
class TextKind:
    """Texts of one kind to sample, one per slot.

    Args:
        name: The kind, in the plural, e.g. "questions".
        slots: The numbers of the slots.
        max_new_tokens: The most tokens of a text.
        prompt: Slot and try (from 0) -> user message and the beginning of the answer.
        trim: The whole answer -> the part to keep.
        rejection: Slot, the trimmed text and the texts accepted so far -> the reason to reject it, or None.
    """

    name: str
    slots: Sequence[int]
    max_new_tokens: int
    prompt: Callable[[int, int], tuple[str, str]]
    trim: Callable[[str], str]
    rejection: Callable[[int, str, Sequence[str]], str | None]


class Sample(BaseModel):
    """The result for one slot: an accepted text, or the reason of the last rejection."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    text: str | None = None
    rejection: str = ""


def open_journal(path: Path, settings: Mapping[str, str]) -> Journal:
    """Open the journal of a new run or of one that was killed.

    Args:
        path: The journal's file.
        settings: Everything that the texts depend on.

    Raises:
        OutputError: The journal belongs to a run with other settings, or it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"cannot write: {reason}", where=path.parent, remedy="choose another --out") from error
    journal = Journal(path)
    known = journal.get("run")
    if known is None:
        journal.add("run", **settings)
    elif differing := [name for name, value in settings.items() if known.get(name) != value]:
        what = f"an unfinished run with another {' and another '.join(differing)} is in the way"
        raise OutputError(what, where=path, remedy="repeat its options, or delete that file")
    return journal


def sample_texts(
    kind: TextKind, sampler: Sampler, journal: Journal, *, seed: int, progress: Progress | None = None
) -> dict[int, Sample]:
    """Sample a text for every slot; chunks that the journal holds are taken from there.

    A chunk depends on the seed, the kind, the chunk's number and the chunks before it only, so a run that was killed and
    started again ends like one that was not.
    """
    samples: dict[int, Sample] = {}
    for number, start in enumerate(range(0, len(kind.slots), CHUNK)):
        slots = kind.slots[start : start + CHUNK]
        key = digest(kind.name, number, list(slots))
        found = _from_journal(journal, key, len(slots))
        if found is None:
            accepted = [sample.text for sample in samples.values() if sample.text is not None]
            found = _sample_chunk(kind, sampler, slots, accepted, f"{seed}|{kind.name}|{number}")
            journal.add(key, samples=[sample.model_dump() for sample in found])
        samples |= zip(slots, found, strict=True)
        if progress:
            progress(kind.name, len(samples), len(kind.slots))
    return samples


def _from_journal(journal: Journal, key: str, size: int) -> tuple[Sample, ...] | None:
    """Return the samples of a chunk that was finished before, or None."""
    entry = journal.get(key)
    try:
        samples = tuple(Sample.model_validate(sample) for sample in entry["samples"]) if entry else ()
    except (ValidationError, KeyError, TypeError):  # the line was changed by hand
        samples = ()
    return samples if len(samples) == size else None


def _sample_chunk(
    kind: TextKind, sampler: Sampler, slots: Sequence[int], accepted: Sequence[str], key: str
) -> tuple[Sample, ...]:
    """Sample a text for each slot of a chunk, and again where it was rejected."""
    texts: dict[int, str] = {}
    rejections: dict[int, str] = {}
    for attempt in range(MAX_TRIES):
        pending = [slot for slot in slots if slot not in texts]
        if not pending:
            break
        prompts = [kind.prompt(slot, attempt) for slot in pending]
        continuations = sampler(prompts, kind.max_new_tokens, seed_of(f"{key}|{attempt}"))
        for slot, (_, begin), more in zip(pending, prompts, continuations, strict=True):
            text = kind.trim(concatenate(begin, more))
            rejection = kind.rejection(slot, text, [*accepted, *texts.values()])
            if rejection is None:
                texts[slot] = text
            else:
                rejections[slot] = rejection
    return tuple(Sample(text=texts[slot]) if slot in texts else Sample(rejection=rejections[slot]) for slot in slots)


def concatenate(begin: str, more: str) -> str:
    """Return an answer's beginning followed by the model's continuation.

    A beginning ends with a whole word or a comma. SentencePiece tokenizers drop the space before the first new word, so a
    continuation that starts with a letter or digit gets one.
    """
    space = " " if begin and more[:1].isalnum() else ""
    return f"{begin}{space}{more}"


def seed_of(key: str) -> int:
    """Return the seed in [0, 2^31) that a text determines."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1

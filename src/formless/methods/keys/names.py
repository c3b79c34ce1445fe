"""Which spellings of a concept's name get a key, and which names are protected."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from formless.data.spellings import named_alone, naming, spellings
from formless.errors import EditError

if TYPE_CHECKING:
    from formless.data.rows import Aliases
    from formless.data.target import Target

MentionKeys = Literal["name", "spelled"]
Protect = Literal["none", "neighbors"]

_NEIGHBORS = "name the neighbors in the target's aliases.json and give --data, or set protect=none"

_OWN_SPELLING = "name it in its aliases.json as nothing else is named, or leave out what shares its names"


@dataclass(frozen=True)
class Names:
    """The names of one concept.

    Args:
        subject: The concept.
        spellings: The texts that get a key, the full name first.
        dropped: Spelling -> why it gets no key.
    """

    subject: str
    spellings: tuple[str, ...]
    dropped: dict[str, str] = field(default_factory=dict)


def concepts_of(targets: Sequence[Target]) -> list[Target]:
    """Return the targets with the concepts of every question set in its place.

    Raises:
        DataError: A question set does not name its concepts.
    """
    return [concept for target in targets for concept in target.concepts]


def names_of(targets: Sequence[Target], mentions: MentionKeys) -> list[Names]:
    """Return the names of every target.

    A spelling that is also one of a neighbor or of another target gets no key, since it does not say who is meant. The first
    and the last word of a person's name count as such, whether `aliases.json` lists them or not.

    Args:
        targets: The targets, each once.
        mentions: `name` for the full name alone; `spelled` for every mention that spells the name.

    Raises:
        DataError: A target's `aliases.json` cannot be read.
        EditError: A target has no spelling of its own.
    """
    if mentions == "name":
        return [Names(target.subject, (target.subject,)) for target in targets]
    owners: dict[str, dict[str, str]] = {}  # folded spelling -> folded concept -> concept
    for target in targets:
        for entry in naming(target):
            for text in (*spellings(entry), *_parts(entry)):
                owners.setdefault(folded(text), {})[folded(entry.name)] = entry.name
    found = []
    for target in targets:
        dropped = {}
        for text in spellings(naming(target)[0]):
            if others := [name for key, name in owners[folded(text)].items() if key != folded(target.subject)]:
                dropped[text] = f"it also names {', '.join(others)}"
        own = tuple(text for text in spellings(naming(target)[0]) if text not in dropped)
        if not own:
            reasons = "; ".join(f"{text}: {reason}" for text, reason in dropped.items())
            where = f"{target.subject}: {reasons}"
            raise EditError("no spelling of the name is its own", where=where, remedy=_OWN_SPELLING)
        found.append(Names(target.subject, own, dropped))
    return found


def _parts(entry: Aliases) -> list[str]:
    """Return the first and the last word of a person's name, by which relatives and namesakes are called too."""
    words = entry.name.split()
    is_person = entry.person or named_alone(entry.name).person
    return [words[0], words[-1]] if is_person and len(words) > 1 else []


def protected_names(targets: Sequence[Target], protect: Protect, mentions: MentionKeys) -> dict[str, tuple[str, ...]]:
    """Return the spellings of every neighbor, as many as targets have keys for; a neighbor that is a target is none.

    None of them is a spelling that has a key: `names_of` drops those that a neighbor shares.

    Raises:
        DataError: A target's `aliases.json` cannot be read.
        EditError: No neighbor is known, so nothing would be protected.
    """
    if protect == "none":
        return {}
    found = protected(targets)
    if not found:
        where = " + ".join(target.subject for target in targets)
        raise EditError("no neighbor is known whose name could be protected", where=where, remedy=_NEIGHBORS)
    return found if mentions == "spelled" else {name: (name,) for name in found}


def protected(targets: Sequence[Target]) -> dict[str, tuple[str, ...]]:
    """Return the spellings of each neighbor of any target; a neighbor that is a target is none.

    Raises:
        DataError: A target's `aliases.json` cannot be read.
    """
    subjects = {folded(target.subject) for target in targets}
    every = (found for target in targets for found in neighbor_names(target).items())
    return {name: texts for name, texts in every if folded(name) not in subjects}


def neighbor_names(target: Target) -> dict[str, tuple[str, ...]]:
    """Return the spellings of each neighbor of a target; none where no neighbor is known.

    Raises:
        DataError: The target's `aliases.json` cannot be read.
    """
    return {entry.name: spellings(entry) for entry in naming(target)[1:]}


def folded(name: str) -> str:
    """Return a name as names are compared: without regard to case, white space and how accents are encoded."""
    return unicodedata.normalize("NFC", " ".join(name.split())).casefold()

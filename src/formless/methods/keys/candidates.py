"""What `redirect=auto` chooses from, and which names no redirect may be; no torch is imported here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from formless.data.questions.gazetteers import PLACE_WORDS, SMALL_WORDS
from formless.data.questions.kinds import kind_of
from formless.data.questions.mentions import named_by
from formless.data.rows import Aliases
from formless.data.spellings import naming
from formless.data.target import Target
from formless.data.words import words_of
from formless.errors import EditError
from formless.methods.keys.names import folded

AUTO = "auto"
"""The value of `redirect` by which each target gets a redirect of its own."""

NOBODY = "none"
"""The value of cdr's `redirect` by which a name is redirected to nobody."""

SHORTEST = 4
"""The fewest letters of a word by which a candidate shares a name with a target or a neighbor."""

CANDIDATES: dict[str, tuple[str, ...]] = {
    "person": (
        "Babe Ruth", "Buffalo Bill", "Charles Dickens", "Cleopatra", "Joan of Arc", "Marco Polo", "Robin Hood", "Santa Claus",
        "Zeus", "a person of whom nothing is known",
    ),
    "place": (
        "Antarctica", "Great Wall of China", "Niagara Falls", "Sahara Desert", "Stonehenge", "Venice",
        "a place of which nothing is known",
    ),
    "work": (
        "Casablanca", "Don Quixote", "Moby-Dick", "The Magic Flute", "The Night Watch", "a work of which nothing is known",
    ),
}  # fmt: skip
"""By kind: the long dead, the fictional, and what nothing is known of. Nobody alive is among them."""

_KIND_OF = dict.fromkeys(("city", "country", "state", "continent", "place"), "place") | {"person": "person", "title": "work"}

_PLACE_WORDS = PLACE_WORDS | {"mount"}


def candidates_for(target: Target, targets: Sequence[Target], forgotten: Collection[str] = ()) -> tuple[str, ...]:
    """Return the candidates of the target's kind, or of every kind where its kind cannot be told.

    None shares a long word with a name of any target or neighbor, or with what an earlier edit has forgotten.

    Raises:
        DataError: A target's `aliases.json` cannot be read.
        EditError: None is left.
    """
    texts = [text for each in targets for entry in naming(each) for text in entry.names]
    taken = {word for text in (*texts, *forgotten) for word in _long_words(text)}
    kind = _kind(naming(target)[0])
    own = CANDIDATES.values() if kind is None else (CANDIDATES[kind],)
    found = tuple(name for names in own for name in names if not taken & {*_long_words(name)})
    if not found:
        remedy = "name a redirect yourself, with --redirect or redirect=..."
        raise EditError("every candidate shares a word with a target or a neighbor", where="redirect=auto", remedy=remedy)
    return found


def check_redirect(redirect: str, targets: Sequence[Target], forgotten: Collection[str] = ()) -> None:
    """Refuse a redirect that is forgotten, or a mention of a target or of one of its neighbors; and `auto` without a candidate.

    Args:
        redirect: A name, or `auto`.
        targets: The targets.
        forgotten: Concepts of an earlier edit.

    Raises:
        DataError: A target's `aliases.json` cannot be read.
        EditError: It is one, or no candidate is left.
    """
    if redirect == AUTO:
        for target in targets:
            candidates_for(target, targets, forgotten)
        return
    if folded(redirect) in map(folded, forgotten):
        what = f"{redirect} is forgotten by the edit to keep"
        raise EditError(what, where="redirect", remedy="choose another concept")
    for target in targets:
        for entry in naming(target):
            if folded(redirect) in {folded(text) for texts in named_by(entry).values() for text in texts}:
                raise EditError(_why(redirect, entry.name, target.subject), where="redirect", remedy="choose another concept")


def _why(redirect: str, name: str, subject: str) -> str:
    if folded(redirect) == folded(name):
        return f"{name} would be redirected to itself" if name == subject else f"{redirect} is a neighbor of {subject}"
    who = "which would be redirected to itself" if name == subject else f"a neighbor of {subject}"
    return f"{redirect} names {name}, {who}"


def _kind(entry: Aliases) -> str | None:
    """Return the kind of a target; None where neither its entry nor its name tells it."""
    if entry.person:
        return "person"
    return _KIND_OF.get(kind_of("___", entry.name)) or ("place" if _PLACE_WORDS & {*words_of(entry.name)} else None)


def _long_words(text: str) -> Iterator[str]:
    return (word for word in words_of(text) if len(word) >= SHORTEST and word not in SMALL_WORDS)

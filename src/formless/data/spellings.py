"""How an edit's concept and its neighbors are spelled: from `aliases.json`, the package's own entries, or the name alone."""

from __future__ import annotations

from formless.data.questions.gazetteers import FORENAMES
from formless.data.questions.mentions import bundled_aliases, named_by
from formless.data.rows import Aliases, Mention
from formless.data.target import Target

SPELLED: tuple[Mention, ...] = ("full name", "lower case", "short name", "initial and surname", "alias", "other spelling")
"""The mentions that spell a name. A description does not, and a misspelling or possessive is another token of the same."""


def naming(target: Target) -> tuple[Aliases, ...]:
    """Return how the target and its neighbors are named, the target's entry first.

    They are the rows of `aliases.json`, or else those that come with the package for a known target, or else what the name
    alone tells: a person, by a common forename, has a surname. Of a concept of a question set, the neighbors are the rows of
    `aliases.json` that are none of the set's concepts.

    Raises:
        DataError: `aliases.json` cannot be read, or a row does not fit its format.
    """
    if target.concept:
        together = {entry.name for entry in target.rows("concepts", Aliases)}
        others = target.rows("aliases", Aliases) if target.has("aliases") else ()
        return (target.concept, *(entry for entry in others if entry.name not in together))
    rows = target.rows("aliases", Aliases) if target.has("aliases") else bundled_aliases(target.subject)
    own = [entry for entry in rows if entry.name == target.subject] or [named_alone(target.subject)]
    return (*own, *(entry for entry in rows if entry.name != target.subject))


def named_alone(name: str) -> Aliases:
    """Return the entry of a name of which nothing else is known."""
    words = name.split()
    is_person = len(words) > 1 and words[0] in FORENAMES and words[-1][0].isupper()
    return Aliases(name=name, person=is_person, short=words[-1] if is_person else None)


def spellings(entry: Aliases) -> tuple[str, ...]:
    """Return the texts that spell a name, each once, the full name first."""
    return tuple(dict.fromkeys(text for mention, texts in named_by(entry).items() if mention in SPELLED for text in texts))

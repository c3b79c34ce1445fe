"""Other names of a concept, proposed by a model: what it writes when it is asked for them, as far as that can be a name.

A proposal need not be right. It is for people to read in `aliases.json`, where an edit looks for names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from formless import store
from formless.data.questions.gazetteers import FORENAMES
from formless.data.questions.mentions import bundled_names, shared_word
from formless.data.rows import Aliases
from formless.data.spellings import spellings
from formless.data.words import holds, words_of

FILE = "aliases.json"
ANSWER_TOKENS = 24
MOST, LONGEST = 8, 5
"""The most names that are proposed, and words of one."""

ASKED = (
    ("What other names is {} known by?", "{} is also known as"),
    ("What is the nickname of {}?", "The nickname of {} is"),
    ("What is the full name of {}?", "The full name of {} is"),
    ("What is {} called for short?", "For short, {} is called"),
    ("By which title is {} known?", "{} is known by the title"),
)
"""What the model is asked, and how its answer begins."""

Answer = Callable[[Sequence[tuple[str, str]]], list[str]]
"""From questions with the beginnings of their answers to what follows, greedily."""

# A sentence ends at a full stop, but not after an initial.
_END = re.compile(r"(?<!\b[A-Z])[.!?;:\n]")
_BETWEEN = re.compile(r'[,()"“”/]|\b(?:or|and|also known as)\b')
_BEFORE, _MARKS = re.compile(r"^(?:of|by|as)\b"), " '‘’*_-"
_SMALL = frozenset({"the", "of", "de", "da", "di", "la", "van", "von", "al", "el", "bin"})


@dataclass(frozen=True)
class Proposed:
    """The other names that a model gives a concept.

    Args:
        names: Those that pass the checks, in the order in which they were given.
        dropped: What else it wrote -> why it is no name of the concept.
    """

    names: tuple[str, ...]
    dropped: dict[str, str]


def propose_names(entries: Sequence[Aliases], answer: Answer, avoid: Collection[str] = ()) -> Proposed:
    """Ask a model for other names of a concept.

    A name has at most five words, each with a capital but for particles. It is not known already, not a first name alone, not
    the whole name with more words, and no name of a neighbor or of another well-known concept. If it shares no word with the
    concept's name, first names aside, the model has to say that name when it is asked about the other one.

    Args:
        entries: How the concept and its neighbors are named, the concept's entry first.
        answer: Answers questions.
        avoid: Names of others, e.g. of the redirect concept.
    """
    own, others = entries[0], {name: name for name in (*bundled_names(), *avoid)}
    others |= {text: entry.name for entry in entries[1:] for text in spellings(entry)}
    taken = {words_of(text): name for text, name in others.items() if name != own.name}
    known = {words_of(text) for text in spellings(own)}
    names: list[str] = []
    dropped: dict[str, str] = {}
    answers = answer([(question.format(own.name), begin.format(own.name)) for question, begin in ASKED])
    for text in dict.fromkeys(part for said in answers for part in _parts(said)):
        if words_of(text) in known:
            continue
        known.add(words_of(text))
        if fault := _fault(text, own, taken):
            dropped[text] = fault
        else:
            names.append(text)
    telling = " ".join(word for word in own.name.split() if word not in FORENAMES)
    strange = [name for name in names if not shared_word(name, telling)]
    for name, said in zip(strange, answer([(f"Who or what is {name}?", "") for name in strange]), strict=True):
        if not any(holds(words_of(said), words_of(text)) for text in own.names):
            names.remove(name)
            dropped[name] = f"asked about it, the model does not say {own.short or own.name}"
    dropped |= dict.fromkeys(names[MOST:], f"there are {MOST} before it")
    return Proposed(tuple(names[:MOST]), dropped)


def save_aliases(folder: Path, entries: Sequence[Aliases], names: Sequence[str], *, force: bool = False) -> Path:
    """Write `aliases.json` of a target: its entry with more aliases, and its neighbors' as they are.

    Raises:
        OutputError: The file exists and `force` is not set, or it cannot be written.
    """
    path = folder / FILE
    store.refuse_existing(path, force=force)
    own = entries[0].model_copy(update={"aliases": (*entries[0].aliases, *names)})
    rows = [entry.model_dump(mode="json", exclude_defaults=True) for entry in (own, *entries[1:])]
    store.write_text(path, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
    return path


def _parts(said: str) -> list[str]:
    """Return what may be names in an answer: the parts of its first sentence."""
    parts = _BETWEEN.split(_END.split(said.strip(), maxsplit=1)[0])
    texts = (_BEFORE.sub("", part.strip(_MARKS)).strip(_MARKS) for part in parts)
    return [text for text in texts if text]


def _fault(text: str, own: Aliases, taken: dict[tuple[str, ...], str]) -> str | None:
    """Return why a text is no other name of a concept; None where it may be one."""
    words = text.split()
    proper = [word for word in words if word.casefold() not in _SMALL]
    if len(words) > LONGEST or not proper or not all(word[0].isupper() or word[0].isdigit() for word in proper):
        return "it is no name"
    if owner := taken.get(words_of(text)):
        return f"it names {owner}"
    if len(words) == 1 and text in FORENAMES:
        return "it is a first name alone"
    return "it is the name with more words" if holds(words_of(text), words_of(own.name)) else None

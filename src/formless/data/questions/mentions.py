"""Probes that name their concept in other ways, and questions that ask for the name, made by rules.

Each row of level 1 (a cloze) and level 2 (a question) gives one row for each mention that the rules can make of it. Lower case,
a misspelling and the possessive come from the full name; the other mentions, and all reverse questions, need an entry of the
concept in `aliases.json`; some known targets have theirs in the package. What cannot be made is dropped and counted with the
reason.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

from formless.data.questions.gazetteers import SMALL_WORDS
from formless.data.rows import MENTIONS, Aliases, Item, Mention, MentionItem
from formless.data.target import parse_row
from formless.data.words import holds, words_of

SHORTEST = 4
"""The fewest letters of a word that is misspelled, and of words whose beginnings are compared."""

_STEM = 5  # letters by which forms of one word are recognized, as `German` and `Germany`
# What may stand before a whole noun phrase. After another word, as in `President Lincoln`, a name is a part of a phrase.
_BEFORE_PHRASE = frozenset({
    "of", "by", "to", "in", "on", "at", "from", "for", "with", "after", "before", "about", "against", "under", "as", "that",
    "which", "whom", "when", "where", "who", "did", "does", "do", "was", "is", "were", "are", "has", "had", "than", "upon",
    "during",
})  # fmt: skip
_SMALL_WORDS = SMALL_WORDS | {"his", "her", "its", "who", "that"}
_KINDS = re.compile(r"\b(?:city|country|island|state|town) of $")  # `the city of Lyon`: the city is Lyon, not of Lyon
_PARTICIPLE = re.compile(r"(?:ed|en|ade|wn|lt|ght)$")
_WHOLE_PHRASES: tuple[Mention, ...] = ("alias", "description", "other spelling")


def bundled_aliases(subject: str) -> tuple[Aliases, ...]:
    """Return the aliases of a known target that come with the package, of its neighbors too; empty for another subject.

    Known are the targets of the sample set, and those of RWKU that have aliases.
    """
    data = resources.files("formless").joinpath("data")
    files = {path.name.partition("_")[2]: path.joinpath("aliases.json") for path in data.joinpath("sample").iterdir()}
    files |= {path.name.removesuffix(".json"): path for path in data.joinpath("aliases").iterdir()}
    file = files.get(subject.replace(" ", "_"))
    entries = json.loads(file.read_text("utf-8")) if file else ()
    return tuple(parse_row(entry, Aliases, f"aliases of {subject}, row {number}") for number, entry in enumerate(entries, 1))


def bundled_names() -> tuple[str, ...]:
    """Return the names of the targets of RWKU with aliases, and of their neighbors, each once."""
    folder = resources.files("formless").joinpath("data", "aliases")
    files = sorted((path for path in folder.iterdir() if path.name.endswith(".json")), key=lambda path: path.name)
    return tuple(dict.fromkeys(entry["name"] for path in files for entry in json.loads(path.read_text("utf-8"))))


def named_by(aliases: Aliases) -> dict[Mention, tuple[str, ...]]:
    """Return the texts of each mention of a concept, without those that the concept lacks."""
    name, short = aliases.name, aliases.short
    found: dict[Mention, tuple[str, ...]] = {"full name": (name,)}
    if name.lower() != name:
        found["lower case"] = (name.lower(),)
    if short and short != name:
        found["short name"] = (short,)
        if aliases.person and (initials := initials_of(name, short)):
            found["initial and surname"] = (f"{initials} {short}",)
    if aliases.aliases:
        found["alias"] = aliases.aliases
    if wrong := misspelled(name):
        found["misspelling"] = (wrong,)
    found["possessive"] = (f"{name}'s",)
    if aliases.spellings:
        found["other spelling"] = tuple(aliases.spellings.values())
    if aliases.descriptions:
        found["description"] = aliases.descriptions
    return {mention: found[mention] for mention in MENTIONS if mention in found}


def initials_of(name: str, surname: str) -> str:
    """Return the initials of what precedes a surname: `Ludwig van Beethoven` -> `L. van`; empty where nothing does."""
    given, _, rest = name.rpartition(surname)
    if rest or not given.strip():
        return ""
    return " ".join(f"{word[0]}." if word[0].isupper() else word for word in given.split())


def misspelled(name: str) -> str | None:
    """Return a name with one slip in its longest word; None where every word is too short.

    The slip is, in this order: `ei` or `ie` turned round, a doubled letter written once, or two letters in the middle that
    changed places.
    """
    words = [match for match in re.finditer(r"[^\W\d_]+", name) if len(match[0]) >= SHORTEST]
    if not words:
        return None
    found = max(words, key=lambda match: (len(match[0]), match.start()))
    word = found[0]
    if (place := max(word.find("ei", 1), word.find("ie", 1))) > 0:
        wrong = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    elif doubled := re.search(r"(?<=.)([^\W\d_])\1", word):
        wrong = word[: doubled.start()] + word[doubled.start() + 1 :]
    else:
        middle = len(word) // 2
        places = sorted(range(1, len(word) - 1), key=lambda place: (abs(place - middle), place))
        swap = next((place for place in places if word[place] != word[place + 1]), None)
        if swap is None:
            return None
        wrong = word[:swap] + word[swap + 1] + word[swap] + word[swap + 2 :]
    return name[: found.start()] + wrong + name[found.end() :]


def gives_away(text: str, answer: str) -> bool:
    """Return whether a text holds a word of an answer, or another form of it, as `German` of `Germany`."""
    own = {word for word in words_of(text) if word not in _SMALL_WORDS}
    for word in words_of(answer):
        if word in _SMALL_WORDS:
            continue
        stem = word[:_STEM]
        if word in own or (len(stem) >= SHORTEST and any(len(other) >= SHORTEST and other.startswith(stem) for other in own)):
            return True
    return False


def renamed(query: str, name: str, mention: Mention, text: str) -> tuple[str, str] | None:
    """Return a query with another mention in place of the name, and the words that name the concept in it.

    Returns:
        None where the query does not hold the name, or its sentence has no place for such a mention.
    """
    if mention == "possessive":
        return _possessive(query, name, text)
    found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", query)
    if found is None:
        return None
    before, after = query[: found.start()], query[found.end() :]
    if mention in _WHOLE_PHRASES:
        before = re.sub(r"\b[Tt]he $", "", before)
        if not _may_precede_phrase(before) or (mention == "description" and _KINDS.search(before)):
            return None
    if not before.strip() and mention in _WHOLE_PHRASES:
        text = text[0].upper() + text[1:]
    return f"{before}{text}{after}", text


def _possessive(query: str, name: str, text: str) -> tuple[str, str] | None:
    """Return `Ada's mother` for `the mother of Ada`."""
    pattern = rf"\b[Tt]he ((?:(?!(?:of|by|the)\b)[\w'’-]+ )+)(of|by) {re.escape(name)}(?!\w)"
    found = re.search(pattern, query)
    if found is None or _KINDS.search(f"{found[1]}{found[2]} "):
        return None
    if found[2] == "by" and _PARTICIPLE.search(found[1].split()[-1]):
        return None
    return f"{query[: found.start()]}{text} {found[1].rstrip()}{query[found.end() :]}", text


def _may_precede_phrase(before: str) -> bool:
    words = before.split()
    return not words or words[-1].endswith((",", ":")) or words[-1].casefold() in _BEFORE_PHRASE


def mention_rows(
    levels: Mapping[str, Sequence[Item]], naming: Sequence[Aliases], subject: str
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Make the rows of a file of mentions.

    Args:
        levels: The items of a level 1 and a level 2, by their type, `cloze` and `question`.
        naming: The rows of `aliases.json`.
        subject: The target's subject, the concept of an item without a neighbor.

    Returns:
        Rows by item, then mention; and how many rows could not be made, by reason.
    """
    entries = {entry.name: entry for entry in naming}
    rows: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    for kind, items in levels.items():
        queries: set[str] = set()
        for item in items:
            name = item.neighbor or subject
            if kind == "cloze" and "___" not in item.query:
                dropped["a level-1 row that is a question"] += 1
                continue
            for mention, texts in named_by(entries.get(name, Aliases(name=name))).items():
                found, reason = _first_usable(item, name, mention, texts, queries)
                if found is None:
                    dropped[f"{mention}: {reason}"] += 1
                    continue
                query, named = found
                queries.add(query)
                row = {"query": query, "answer": item.answer, "level": item.level, "type": kind, "subject": subject}
                rows.append(row | _neighbor(item.neighbor) | {"mention": mention, "named": named})
    return rows, dropped


def _first_usable(
    item: Item, name: str, mention: Mention, texts: Iterable[str], taken: set[str]
) -> tuple[tuple[str, str] | None, str]:
    """Return the query with the first text that fits, or why none does."""
    reason = "the sentence has no place for it"
    for text in texts:
        found = renamed(item.query, name, mention, text)
        if found is None:
            continue
        if mention != "full name" and gives_away(text, item.answer) and not gives_away(name, item.answer):
            reason = "it gives the answer away"
        elif mention == "description" and holds(words_of(found[0]), words_of(name)):
            reason = "the name stands beside it"
        elif found[0] in taken:
            reason = "another row has the same text"
        else:
            return found, ""
    return None, reason


def reverse_rows(naming: Iterable[Aliases], subject: str, *, neighbors: bool) -> list[dict[str, Any]]:
    """Make the rows of a file of reverse questions, about the subject or about its neighbors."""
    return [
        {"query": question, "answer": entry.name, "type": "reverse", "subject": subject}
        | _neighbor(entry.name if neighbors else None)
        | {"aliases": accepted_names(entry)}
        for entry in naming
        if (entry.name != subject) == neighbors
        for question in entry.reverse
    ]


def accepted_names(aliases: Aliases) -> list[str]:
    """Return the names beside the full one that answer a reverse question, without articles."""
    names = (aliases.short, *aliases.aliases, *aliases.spellings.values())
    bare = [re.sub(r"^[Tt]he ", "", name) for name in names if name]
    return [name for name in dict.fromkeys(bare) if name != aliases.name]


def _neighbor(name: str | None) -> dict[str, str]:
    return {} if name is None else {"neighbor": name}


def alias_faults(naming: Mapping[int, Aliases], subject: str, neighbors: Iterable[str]) -> Iterator[tuple[int, str, str]]:
    """Yield the problems of `aliases.json` as row, kind and clause.

    Args:
        naming: The rows by number.
        subject: The target's subject.
        neighbors: The names of the neighbors in the other files.
    """
    known = {words_of(name) for name in (subject, *neighbors)}
    names: dict[tuple[str, ...], tuple[int, str]] = {}
    for number, entry in naming.items():
        first = names.setdefault(words_of(entry.name), (number, entry.name))
        if first[0] != number:
            yield number, "duplicated", f"row {first[0]} names the same concept"
        if words_of(entry.name) not in known:
            yield number, "broken", f"{entry.name!r} is neither the subject nor a neighbor of an item"
    for number, entry in naming.items():
        for text in dict.fromkeys((entry.short, *entry.aliases, *entry.spellings.values(), *entry.descriptions)):
            if text is None:
                continue
            row, owner = names.setdefault(words_of(text), (number, entry.name))
            if row != number:
                yield number, "duplicated", f"{text!r} of {entry.name!r} also names {owner!r}"
        for text in entry.descriptions:
            if shared := shared_word(text, entry.name):
                yield number, "leaked", f"the description {text!r} holds {shared!r} of the name"
        for text in entry.reverse:
            if shared := shared_word(text, entry.name):
                yield number, "leaked", f"the reverse question {text!r} holds {shared!r} of the name"


def shared_word(text: str, name: str) -> str | None:
    """Return the first word of a name, articles and prepositions aside, that a text holds; None where it holds none."""
    own = words_of(text)
    return next((word for word in words_of(name) if word not in _SMALL_WORDS and word in own), None)


def mention_fault(item: MentionItem, aliases: Aliases) -> tuple[str, str] | None:
    """Return the problem of a row of mentions as kind and clause; None where there is none.

    Args:
        item: The row.
        aliases: The concept's entry; one with the name alone where `aliases.json` has none.
    """
    if not item.answer.strip():
        return "broken", "the answer is blank"
    if item.named not in item.query:
        return "broken", f"the query does not hold {item.named!r}, which is to name the concept"
    possible = named_by(aliases).get(item.mention, ())
    if item.named not in {*possible, *(text[0].upper() + text[1:] for text in possible)}:
        return "broken", f"{item.named!r} is no {item.mention} of {aliases.name!r}"
    if item.mention == "description" and holds(words_of(item.query), words_of(aliases.name)):
        return "leaked", f"the query holds the name {aliases.name!r} beside the description"
    if item.mention == "description" and gives_away(item.named, item.answer):
        return "leaked", f"the description {item.named!r} gives the answer {item.answer!r} away"
    return None

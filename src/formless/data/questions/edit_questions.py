"""Questions that a model answers with a concept's name, written by the model itself, for edits to be keyed on.

The model completes `Ada Lovelace is best known as the person who ...`; each completion becomes a question, and the model's own
answer decides whose name it leads to. So a question need not be true: it is a way by which this model comes to say the name.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from formless import store
from formless.data.rows import Aliases, Item, Reverse
from formless.data.spellings import naming
from formless.data.target import Target
from formless.data.words import holds, words_of
from formless.errors import DataError

FILE = "edit_reverse"
CLAUSE_TOKENS, ANSWER_TOKENS = 16, 12
SHORTEST, LONGEST = 3, 14
"""Words of a clause."""

PROBES = ("forget_reverse", "neighbor_reverse")

Complete = Callable[[Sequence[str], int], list[str]]
"""From beginnings of texts, and the most tokens, to what follows each: sampled or greedy."""

_END = re.compile(r"[.,;:!?\n(\"“<]")
# A person, and anything else: what the model completes, and the question that it becomes.
_PERSON = (("{} is best known as the person who", "Who {}?"), ("{} was the", "Who was the {}?"))
_OTHER = (
    ("{} is best known as the place where", "What is the name of the place where {}?"),
    ("{} is the", "What is the {}?"),
)


@dataclass(frozen=True)
class Written:
    """The questions of one target.

    Args:
        rows: The target's questions, then those about its neighbors.
        dropped: Reason -> number of completions that gave no question.
    """

    rows: tuple[Reverse, ...]
    dropped: Counter[str]


def write_questions(target: Target, sample: Complete, answer: Callable[[Sequence[str]], list[str]], count: int) -> Written:
    """Let a model write questions that lead to a target's name, and to the names of its neighbors.

    A question is kept if its answer says the name of exactly one of them; that one it is about. One that a reverse probe of the
    target asks is dropped.

    Args:
        target: The target. Its neighbors are those of its `aliases.json`, or those that come with the package.
        sample: Samples completions.
        answer: Answers questions, greedily.
        count: Completions of each of the two beginnings for the target; a neighbor has half as many.

    Raises:
        DataError: A file of the target cannot be read, or no kept question is answered with the target's name.
    """
    entries = naming(target)
    asked = [(entry, *pair) for entry in entries for pair in _beginnings(entry, entry is entries[0], count)]
    dropped: Counter[str] = Counter()
    taken = {words_of(item.query) for file in PROBES if target.has(file) for item in target.rows(file, Item)}
    questions: list[str] = []
    completions = sample([begin for _, begin, _ in asked], CLAUSE_TOKENS)
    for (entry, _, shape), completion in zip(asked, completions, strict=True):
        question, reason = _question(entry, shape, completion)
        if not reason and words_of(question) in taken:
            reason = "asked twice, or by a probe"
        if reason:
            dropped[reason] += 1
        else:
            taken.add(words_of(question))
            questions.append(question)
    found: dict[str, list[Reverse]] = {entry.name: [] for entry in entries}
    for question, text in zip(questions, answer(questions), strict=True):
        said = [entry for entry in entries if _says(text, entry)]
        if len(said) != 1:
            dropped["answered with no name or several"] += 1
        elif any(holds(words_of(question), words_of(name)) for name in said[0].names):
            dropped["holds the name"] += 1
        else:
            found[said[0].name].append(_row(question, said[0], target.subject, entries[0].name))
    if not found[entries[0].name]:
        raise DataError(
            "the model answers none of its questions with the name", where=target.subject,
            remedy="use a model that knows the concept, or raise --count",
        )  # fmt: skip
    return Written(tuple(row for rows in found.values() for row in rows), dropped)


def save_questions(target: Target, rows: Sequence[Reverse], *, force: bool = False) -> Path:
    """Write a target's questions into its folder.

    Raises:
        OutputError: The file exists and `force` is not set, or it cannot be written.
    """
    path = target.path(FILE)
    store.refuse_existing(path, force=force)
    entries = [row.model_dump(mode="json", exclude_defaults=True) for row in rows]
    store.write_text(path, json.dumps(entries, ensure_ascii=False, indent=1) + "\n")
    return path


def _beginnings(entry: Aliases, is_target: bool, count: int) -> Iterator[tuple[str, str]]:
    for begin, shape in _PERSON if entry.person else _OTHER:
        yield from [(begin.format(entry.name), shape)] * (count if is_target else -(-count // 2))


def _question(entry: Aliases, shape: str, completion: str) -> tuple[str, str | None]:
    """Return the question that a completion becomes, or the reason why it becomes none."""
    clause = _END.split(completion.strip(), maxsplit=1)[0].strip()
    words = words_of(clause)
    if not SHORTEST <= len(words) <= LONGEST:
        return "", "too short or too long"
    own = {word for name in entry.names for word in words_of(name) if len(word) >= SHORTEST}
    return shape.format(clause), "holds the name" if own & set(words) else None


def _says(text: str, entry: Aliases) -> bool:
    return any(holds(words_of(text), words_of(name)) for name in entry.names)


def _row(question: str, entry: Aliases, subject: str, own: str) -> Reverse:
    names = tuple(name for name in (entry.short, *entry.aliases) if name and name != entry.name)
    neighbor = None if entry.name == own else entry.name
    return Reverse(query=question, answer=entry.name, type="reverse", subject=subject, neighbor=neighbor, aliases=names)

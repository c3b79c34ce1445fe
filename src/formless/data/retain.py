"""Retain sets: texts and questions that a training run keeps, chosen so that no evaluation of the target asks about them."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import islice, zip_longest

from formless.data.ort import targets
from formless.data.rows import BLANK, Intro, Item, Passage, QuestionAnswer
from formless.data.target import FILES, Target
from formless.errors import DataError

TEXTS = ("positive", "passage")
LEAST_TARGETS = 8
PROBES = tuple(file for file, row in FILES.items() if issubclass(row, Item))
NEIGHBORS = tuple(file for file in PROBES if file.startswith("neighbor"))
RETAIN_QUESTIONS = "neighbor_qa"
ABOUT = ("forget_level1", "forget_level2", "forget_level3")


@dataclass(frozen=True)
class RetainSet:
    """The retain set of a training run.

    Args:
        texts: Plain texts.
        questions: Questions with their answers.
        source: Origin of the texts, for edit.json.
        neighbors: Names of the neighbors that they are about; an evaluation of the edit leaves them out.
    """

    texts: tuple[str, ...] = ()
    questions: tuple[tuple[str, str], ...] = ()
    source: str = ""
    neighbors: tuple[str, ...] = ()


def texts_of_others(target: Target, count: int, seed: int) -> RetainSet:
    """Return texts of other targets of the data set: biographies, else passages, else introductions.

    Neighbors of the target, texts that name it, and texts that contain a probe's whole statement are left out.

    Args:
        target: The target to forget.
        count: The most texts, taken in turn from eight targets or more if there are as many.
        seed: Seed of the choice.

    Raises:
        DataError: The target has no folder, or no other target has such a text.
    """
    folder = target.path("intro").parent
    probes = {file: target.items(file) for file in PROBES if target.has(file)}
    near = {item.neighbor for items in probes.values() for item in items if item.neighbor}
    others = [other for other in targets(folder.parent) if other.subject != target.subject and other.subject not in near]
    statements = {_plain(item.query.replace(BLANK, item.answer)) for items in probes.values() for item in items}
    statements.discard("")
    shuffled = random.Random(seed)
    shuffled.shuffle(others)
    pools: dict[str, list[str]] = {}
    for other in others:
        if texts := [text for text in _texts(other) if _is_apart(text, target.subject, statements)]:
            pools[other.subject] = shuffled.sample(texts, len(texts))
        if len(pools) >= LEAST_TARGETS and sum(map(len, pools.values())) >= count:
            break
    if not pools:
        remedy = "give a data set with more targets, or take retain=none"
        raise DataError("no other target has a text for the retain set", where=folder.parent, remedy=remedy)
    in_turn = [text for row in zip_longest(*pools.values()) for text in row if text is not None][:count]
    shuffled.shuffle(in_turn)
    return RetainSet(texts=tuple(in_turn), source=f"texts of other targets: {', '.join(pools)}")


def half_of_the_neighbors(target: Target, seed: int) -> RetainSet:
    """Return statements and questions about half of the target's neighbors; an evaluation leaves these neighbors out.

    Rows that name the target, even by the last part of its name, or contain the answer of a probe about it are left out.

    Args:
        target: The target to forget.
        seed: Seed of the choice.

    Raises:
        DataError: The target has fewer than two neighbors, or a probe does not name its own.
    """
    probes = {file: target.items(file) for file in NEIGHBORS if target.has(file)}
    names = sorted({item.neighbor or "" for items in probes.values() for item in items})
    if len(names) < 2 or "" in names:
        what = "a neighbor probe does not name its neighbor" if "" in names else "fewer than two neighbors"
        raise DataError(f"{what}: they cannot be halved", where=target.folder, remedy="take retain_rows=targets")
    half = set(random.Random(seed).sample(names, len(names) // 2))
    secret = _secrets(target)
    statements = [item for item in probes.get("neighbor_level1", ()) if item.neighbor in half]
    questions = [item for item in probes.get("neighbor_level2", ()) if item.neighbor in half]
    texts = [item.query.replace(BLANK, item.answer) for item in statements if BLANK in item.query]
    return RetainSet(
        texts=tuple(text for text in texts if not secret.search(text)),
        questions=tuple((item.query, item.answer) for item in questions if not secret.search(f"{item.query} {item.answer}")),
        source="half of the neighbors",
        neighbors=tuple(sorted(half)),
    )


def retain_questions(target: Target, count: int, seed: int) -> RetainSet:
    """Return retain questions of a question set with their answers, a seeded choice in seeded order.

    The evaluation asks them too: benchmarks such as TOFU measure what is retained on the rows that training retains.

    Args:
        target: The question set.
        count: The most questions.
        seed: Seed of the choice.

    Raises:
        DataError: There are none, or the file is broken.
    """
    check_retain_questions(target)
    rows = target.rows(RETAIN_QUESTIONS, QuestionAnswer)
    if not rows:
        raise DataError("the retain set holds no question", where=target.path(RETAIN_QUESTIONS), remedy=_NO_RETAIN_QUESTIONS)
    chosen = random.Random(seed).sample(rows, min(count, len(rows)))
    source = "the retain questions, which the evaluation asks too"
    return RetainSet(questions=tuple((row.question, row.answer) for row in chosen), source=source)


def check_retain_questions(target: Target) -> None:
    """Refuse a question set without a file of retain questions.

    Raises:
        DataError: It has none.
    """
    if not target.has(RETAIN_QUESTIONS):
        what = f"the question set has no retain questions, {RETAIN_QUESTIONS}.json"
        raise DataError(what, where=target.folder, remedy=_NO_RETAIN_QUESTIONS)


_NO_RETAIN_QUESTIONS = "import a retain set too (`formless data import`), or take retain=none"


def _secrets(target: Target) -> re.Pattern[str]:
    """Return a pattern for the target's name, its last part, and every answer of probes about it, as whole words."""
    about = [item for file in ABOUT if target.has(file) for item in target.items(file)]
    words = {target.subject, target.subject.split()[-1], *(item.answer for item in about)}
    return re.compile("|".join(rf"\b{re.escape(word.strip())}\b" for word in words if word.strip()), re.IGNORECASE)


def introductions(target: Target, count: int, trained: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """Return introductions of the target, and of at most `count` other targets; none for a target that is only a name.

    Args:
        target: The target.
        count: The most introductions of other targets.
        trained: Training texts, which are left out.
    """
    if target.folder is None:
        return [], []
    others = (other for other in targets(target.folder.parent) if other.subject != target.subject and other.has("intro"))
    found = (text for other in others for text in _readable_introduction(other) if text not in trained)
    return (_introduction(target)[:1] if target.has("intro") else []), list(islice(found, count))


def _readable_introduction(target: Target) -> list[str]:
    """Return one introduction, or none if the file of another target is broken."""
    try:
        return _introduction(target)[:1]
    except DataError:
        return []


def _introduction(target: Target) -> list[str]:
    return [row.intro for row in target.rows("intro", Intro) if row.intro.strip()]


def _texts(target: Target) -> list[str]:
    for file in TEXTS:
        if target.has(file):
            return [row.text for row in target.rows(file, Passage) if row.text.strip()]
    return _introduction(target) if target.has("intro") else []


def _is_apart(text: str, subject: str, statements: Iterable[str]) -> bool:
    plain = _plain(text)
    return _plain(subject) not in plain and not any(statement in plain for statement in statements)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())

"""Wrong answers of the same kind, chosen without a language model from what a data set's other probes answer.

A distractor is never close to the answer or to another option, never stands in the question, and is never what a probe of the
same subject answers, since that could be right too. What fits best in shape comes first: as many words, about as long, as the
`a` or `an` before the blank wants it, of another target. Where the data set gives fewer than three, numbers, years and dates
are varied by arithmetic and other kinds taken from built-in lists.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import lru_cache

from formless.data.questions.gazetteers import NUMBER_WORDS, ORDINAL_WORDS, SAME, SPARE
from formless.data.questions.kinds import GAP, NUMERIC, is_part, kind_of
from formless.data.questions.variation import comparable, ordinal, varied
from formless.data.target import BLANK, Item, Target

COUNT = 3
MAX_LENGTH = 200  # characters of an option
CLOSE = 0.8  # share of common letters from which two spellings are close

_ARTICLES = ("a", "an", "the")
_SUFFIXES = ("jr", "sr", "ii", "iii", "iv")


@dataclass(frozen=True)
class Dropped:
    """A row that a form cannot have.

    Args:
        reason: Why, in words that fit a count: `3 rows: reason`.
    """

    reason: str


@lru_cache(maxsize=2**16)
def fold(text: str) -> tuple[str, ...]:
    """The words by which texts are compared: without case, accents, punctuation and articles, numbers as digits."""
    plain = unicodedata.normalize("NFKD", re.sub(r"(?<=\d),(?=\d{3})", "", text).casefold())
    words = re.findall(r"\w+", "".join(character for character in plain if not unicodedata.combining(character)))
    numbers = {word: str(number) for number, word in enumerate(NUMBER_WORDS)}
    ordinals = {word: ordinal(number) for number, word in enumerate(ORDINAL_WORDS)}
    kept = [numbers.get(word, ordinals.get(word, word)) for word in words if word not in _ARTICLES]
    return tuple(kept or words or [plain.strip()])


def alike(first: str, second: str, kind: str) -> bool:
    """Whether two answers of a kind are the same, or so near that they may not stand side by side."""
    one, other = sorted((fold(first), fold(second)))
    if kind in NUMERIC:
        return set(one) == set(other)
    if set(one) <= set(other) or set(other) <= set(one):
        return True
    one_text, other_text = " ".join(one), " ".join(other)
    if any(one_text in group and other_text in group for group in SAME):
        return True
    if kind == "person" and _surname(one) == _surname(other):
        return True
    matcher = SequenceMatcher(None, one_text, other_text, autojunk=False)
    return matcher.real_quick_ratio() >= CLOSE and matcher.quick_ratio() >= CLOSE and matcher.ratio() >= CLOSE


@dataclass
class Pool:
    """What the probes of a data set answer: the distractors of each other.

    The order in which probes are added decides nothing.
    """

    _texts: dict[str, dict[tuple[str, ...], set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    _targets: dict[tuple[str, ...], set[str]] = field(default_factory=lambda: defaultdict(set))
    _own: dict[tuple[str, ...], set[str]] = field(default_factory=lambda: defaultdict(set))

    @classmethod
    def of(cls, targets: Iterable[Target]) -> Pool:
        """The answers of level 1; those of levels 2 and 3 are only kept from standing beside their subject's.

        Raises:
            DataError: A file is broken.
        """
        pool = cls()
        for target in targets:
            for file in ("forget_level1", "neighbor_level1", "forget_level2", "neighbor_level2", "forget_level3"):
                if target.has(file):
                    pool.add(target.subject, target.items(file), offered=file.endswith("1"))
        return pool

    def add(self, target: str, items: Iterable[Item], *, offered: bool = True) -> None:
        """Take in probes of a target; `offered` ones give their answers as distractors."""
        for item in items:
            text = item.answer.strip()
            self._own[_about(item, target)].add(text)
            if offered and text:
                self._texts[_place(item.query, text)][fold(text)].add(text)
                self._targets[fold(text)].add(target)

    def distractors(self, item: Item, target: str, *, seed: int = 0) -> tuple[str, ...] | Dropped:
        """Three wrong answers to a cloze or question of a target, or why there are none; the seed picks among equals."""
        kind = kind_of(item.query, item.answer)
        chosen: list[str] = []
        for text in self._candidates(item, kind, target, seed):
            if not self.fault(text, item, target, chosen):
                chosen.append(text)
                if len(chosen) == COUNT:
                    return tuple(chosen)
        return Dropped(f"fewer than {COUNT} distractors of the kind {kind}")

    def fault(self, text: str, item: Item, target: str, others: Sequence[str] = ()) -> str | None:
        """Why a text may not stand as a distractor beside `others`, or nothing where it may."""
        kind = kind_of(item.query, item.answer)
        malformed = _malformed(text)
        if malformed:
            return f"{text[:40]!r} {malformed}"
        if alike(text, item.answer, kind):
            return f"{text!r} is the right answer or too close to it"
        if any(alike(text, other, kind) for other in others):
            return f"{text!r} is too close to another distractor"
        gap = GAP.search(item.query)
        following = fold(item.query[gap.end() :])[:1] if gap and item.query[gap.end() :].strip() else ()
        if following and fold(text)[-1:] == following:
            return f"{text!r} ends as the question goes on"
        if _occurs(text, item.query, kind):
            return f"{text!r} occurs in the question"
        if any(_answers(text, own, kind) for own in self._own[_about(item, target)]):
            return f"{text!r} is what another question about the same subject answers"
        return None

    def _candidates(self, item: Item, kind: str, target: str, seed: int) -> Iterator[str]:
        """Texts to try, the best first."""

        def rank(text: str) -> tuple[int, bytes]:
            luck = hashlib.blake2b(repr((seed, item.query, item.answer, text)).encode("utf-8", "surrogatepass"), digest_size=8)
            return _misfit(text, item, kind) + 2 * (self._targets.get(fold(text)) == {target}), luck.digest()

        place = _place(item.query, item.answer)
        found = [min(texts) for texts in self._texts[place].values()] if place in self._texts else []
        if kind in NUMERIC:
            yield from sorted((text for text in found if comparable(text, item.answer, kind, item.query)), key=rank)
            yield from sorted(varied(item.answer, kind, item.query), key=rank)
        else:
            yield from sorted(found, key=rank)
            yield from sorted(SPARE[kind], key=rank)


def _place(query: str, answer: str) -> str:
    """The kind of an answer, fragments of names apart: what could stand in its place."""
    return kind_of(query, answer) + (" part" if is_part(query, answer) else "")


def _about(item: Item, target: str) -> tuple[str, ...]:
    """Whom a probe asks about."""
    return fold(item.neighbor or item.subject or target)


def _malformed(text: str) -> str | None:
    if not text.strip():
        return "is empty"
    if text != text.strip() or text.splitlines() != [text]:
        return "holds a line break or outer spaces"
    if BLANK in text:
        return "holds a blank"
    return f"is longer than {MAX_LENGTH} characters" if len(text) > MAX_LENGTH else None


def _occurs(text: str, query: str, kind: str) -> bool:
    """Whether the question names it; a person by surname too."""
    words, asked = fold(text), fold(query)
    if kind == "person" and _surname(words) in asked:
        return True
    return any(asked[start : start + len(words)] == words for start in range(len(asked) - len(words) + 1))


def _answers(text: str, own: str, kind: str) -> bool:
    """Whether an answer of the same subject says it too: as a number in a date, say."""
    return alike(text, own, kind) or set(fold(text)) <= set(fold(own))


def _surname(words: tuple[str, ...]) -> str:
    kept = [word for word in words if word not in _SUFFIXES]
    return kept[-1] if kept else words[-1]


def _misfit(text: str, item: Item, kind: str) -> int:
    """How badly a text fits the answer's place by its shape; 0 is best."""
    answer = item.answer.strip()
    gap = GAP.search(item.query)
    before = item.query[: gap.start()].rstrip().rpartition(" ")[2].casefold() if gap else ""
    vowel = text[0].casefold() in "aeiou"
    article = before in ("a", "an") and vowel != (answer[:1].casefold() in "aeiou")
    ending = kind in ("word", "name") and (text[-1] == "s") != (answer[-1:] == "s")
    suffix = kind == "word" and text[-3:] != answer[-3:]
    the = text.casefold().startswith("the ") != answer.casefold().startswith("the ")
    words = min(3, abs(len(text.split()) - len(answer.split())))
    return 4 * article + 3 * ending + suffix + the + 2 * words + min(3, abs(len(text) - len(answer)) // 6)

"""Distractors: wrong answers of the same kind, chosen without a language model from the answers of other probes.

A distractor is never similar to the answer or to another option, never occurs in the question, and is never the answer of
another probe about the same subject, since it could be right too. Answers of a similar shape come first: as many words, about
as long, fitting the `a` or `an` before the blank, from another target. If the data set has fewer than three, numbers, years and
dates are varied by arithmetic, and answers of other kinds come from built-in lists.

Options of a new target (`fitting`) also keep to time and place. Dates lie at most 15 years apart. Where somebody was born,
lived or died, other such places and cities stand. Names from targets of the same time come first, by the years of their facts.
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
from statistics import median

from formless.data.questions.gazetteers import NUMBER_WORDS, ORDINAL_WORDS, SAME, SPARE
from formless.data.questions.kinds import GAP, NUMERIC, is_part, kind_of
from formless.data.questions.variation import comparable, ordinal, same_time, varied, year_of
from formless.data.rows import BLANK, Item
from formless.data.target import Target

COUNT = 3
MAX_LENGTH = 200  # characters of an option
SIMILAR = 0.8  # two texts are similar from this `SequenceMatcher.ratio` on

_SETTLED = re.compile(
    r"\b(?:born|died|buried|raised|baptized|lived|lives|grew up|settled|town|village|city)\b[^.]* (?:in|at|of)$"
)
_ARTICLES = ("a", "an", "the")
_SUFFIXES = ("jr", "sr", "ii", "iii", "iv")


@dataclass(frozen=True)
class Dropped:
    """A row that is left out of a form.

    Args:
        reason: The reason, a phrase for counts such as `3 rows: reason`.
    """

    reason: str


@lru_cache(maxsize=2**16)
def fold(text: str) -> tuple[str, ...]:
    """Return the words by which texts are compared: without case, accents, punctuation and articles, numbers as digits."""
    plain = unicodedata.normalize("NFKD", re.sub(r"(?<=\d),(?=\d{3})", "", text).casefold())
    words = re.findall(r"\w+", "".join(character for character in plain if not unicodedata.combining(character)))
    numbers = {word: str(number) for number, word in enumerate(NUMBER_WORDS)}
    ordinals = {word: ordinal(number) for number, word in enumerate(ORDINAL_WORDS)}
    kept = [numbers.get(word, ordinals.get(word, word)) for word in words if word not in _ARTICLES]
    return tuple(kept or words or [plain.strip()])


def alike(first: str, second: str, kind: str) -> bool:
    """Return whether two answers of a kind are the same, or too similar to be options of one question."""
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
    return matcher.real_quick_ratio() >= SIMILAR and matcher.quick_ratio() >= SIMILAR and matcher.ratio() >= SIMILAR


@dataclass
class Pool:
    """The answers of a data set's probes, from which distractors are chosen.

    The order in which probes are added has no effect.

    Args:
        fitting: Keep to time and place. The foils of evaluations do without, so that records of one version are alike.
    """

    fitting: bool = False
    _texts: dict[str, dict[tuple[str, ...], set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    _targets: dict[tuple[str, ...], set[str]] = field(default_factory=lambda: defaultdict(set))
    _own: dict[tuple[str, ...], set[str]] = field(default_factory=lambda: defaultdict(set))
    _settled: set[tuple[str, ...]] = field(default_factory=set)
    _years: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, targets: Iterable[Target], *, fitting: bool = False) -> Pool:
        """Return the pool of some targets: answers of level 1 are distractors; answers of levels 2 and 3 only exclude others.

        Raises:
            DataError: A file is broken.
        """
        pool = cls(fitting)
        for target in targets:
            for file in ("forget_level1", "neighbor_level1", "forget_level2", "neighbor_level2", "forget_level3"):
                if target.has(file):
                    pool.add(target.shared_concept, target.items(file), offered=file.endswith("1"))
        return pool

    def add(self, target: str, items: Iterable[Item], *, offered: bool = True) -> None:
        """Add probes of a target; the answers of `offered` probes can become distractors."""
        for item in items:
            text = item.answer.strip()
            if not item.neighbor and (year := year_of(text)):
                self._years[target].append(year)
            self._own[_about(item, target)].add(text)
            if offered and text:
                self._texts[_slot(item.query, text)][fold(text)].add(text)
                self._targets[fold(text)].add(target)
                if _is_settled(item):
                    self._settled.add(fold(text))

    def distractors(self, item: Item, target: str, *, count: int = COUNT, seed: int = 0) -> tuple[str, ...] | Dropped:
        """Return distractors for a probe of a target, or why there are fewer than `count`; the seed decides between equals."""
        kind = kind_of(item.query, item.answer)
        chosen: list[str] = []
        for text in self._candidates(item, kind, target, seed):
            if not self.fault(text, item, target, chosen):
                chosen.append(text)
                if len(chosen) == count:
                    return tuple(chosen)
        return Dropped(f"fewer than {count} distractors of the kind {kind}")

    def fault(self, text: str, item: Item, target: str, others: Sequence[str] = ()) -> str | None:
        """Return why a text cannot be a distractor together with `others`, or None."""
        kind = kind_of(item.query, item.answer)
        malformed = _malformed(text)
        if malformed:
            return f"{text[:40]!r} {malformed}"
        if alike(text, item.answer, kind):
            return f"{text!r} is the right answer or too similar to it"
        if any(alike(text, other, kind) for other in others):
            return f"{text!r} is too similar to another distractor"
        gap = GAP.search(item.query)
        following = fold(item.query[gap.end() :])[:1] if gap and item.query[gap.end() :].strip() else ()
        if following and fold(text)[-1:] == following:
            return f"{text!r} ends with the word that follows the blank"
        if _occurs(text, item.query, kind):
            return f"{text!r} occurs in the question"
        if any(_answers(text, own, kind) for own in self._own[_about(item, target)]):
            return f"{text!r} is the answer to another question about the same subject"
        return None

    def _centuries_apart(self, text: str, target: str) -> int:
        """Return how far the time of an answer's nearest target lies from a target's, in steps of a third of a century."""
        if not self.fitting or not self._years[target]:
            return 0
        own = median(self._years[target])
        gaps = [abs(median(years) - own) for name in self._targets.get(fold(text), ()) if (years := self._years[name])]
        return min(9, int(min(gaps, default=0)) // 33)

    def _candidates(self, item: Item, kind: str, target: str, seed: int) -> Iterator[str]:
        """Yield the candidates, the best first."""

        def rank(text: str) -> tuple[int, bytes]:
            tie_break = hashlib.blake2b(
                repr((seed, item.query, item.answer, text)).encode("utf-8", "surrogatepass"), digest_size=8
            )
            own = 2 * (self._targets.get(fold(text)) == {target})
            return _misfit(text, item, kind) + own + self._centuries_apart(text, target), tie_break.digest()

        slot = _slot(item.query, item.answer)
        found = [min(texts) for texts in self._texts[slot].values()] if slot in self._texts else []
        if self.fitting and kind == "place" and _is_settled(item):
            yield from sorted((text for text in found if fold(text) in self._settled), key=rank)
            yield from sorted(SPARE["city"], key=rank)
        if kind in NUMERIC:
            near = (text for text in found if comparable(text, item.answer, kind, item.query))
            yield from sorted((text for text in near if not self.fitting or same_time(text, item.answer)), key=rank)
            yield from sorted(varied(item.answer, kind, item.query), key=rank)
        else:
            yield from sorted(found, key=rank)
            yield from sorted(SPARE[kind], key=rank)


def _slot(query: str, answer: str) -> str:
    """Return the kind of an answer; fragments of names are kinds of their own."""
    return kind_of(query, answer) + (" part" if is_part(query, answer) else "")


def _is_settled(item: Item) -> bool:
    """Return whether a probe asks where somebody was born, lived or died, or for a town."""
    gap = GAP.search(item.query)
    return gap is not None and _SETTLED.search(item.query[: gap.start()].rstrip()) is not None


def _about(item: Item, target: str) -> tuple[str, ...]:
    """Return the concept that a probe is about; without a name, each question is about something else."""
    return fold(item.neighbor or item.subject or target or item.query)


def _malformed(text: str) -> str | None:
    if not text.strip():
        return "is empty"
    if text != text.strip() or text.splitlines() != [text]:
        return "holds a line break or outer spaces"
    if BLANK in text:
        return "holds a blank"
    return f"is longer than {MAX_LENGTH} characters" if len(text) > MAX_LENGTH else None


def _occurs(text: str, query: str, kind: str) -> bool:
    """Return whether a text occurs in the question; for a person, also by surname."""
    words, question = fold(text), fold(query)
    if kind == "person" and _surname(words) in question:
        return True
    return any(question[start : start + len(words)] == words for start in range(len(question) - len(words) + 1))


def _answers(text: str, own: str, kind: str) -> bool:
    """Return whether an answer about the same subject contains the text, e.g. a number in a date."""
    return alike(text, own, kind) or set(fold(text)) <= set(fold(own))


def _surname(words: tuple[str, ...]) -> str:
    kept = [word for word in words if word not in _SUFFIXES]
    return kept[-1] if kept else words[-1]


def _misfit(text: str, item: Item, kind: str) -> int:
    """Return how badly the shape of a text fits the answer's place; 0 is best."""
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

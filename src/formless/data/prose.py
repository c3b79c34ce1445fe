"""Checks of texts that a model wrote: whole sentences about the subject, no template tokens, no repetition."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import pairwise

NEAR = 0.75
"""Two questions are near-duplicates from this share of common words on, without function words and the subject's name."""

_TEMPLATE_TOKENS = re.compile(
    r"<\|[^|\s]{1,40}\|>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|</?s>|<(?:unk|pad|bos|eos|mask)>"
    r"|^\s*#*\s*(?:user|assistant|system|human)\s*:",
    re.I | re.M,
)
_REPETITION = re.compile(r"\b(\w+(?:\W+\w+){0,3})(?:\W+\1\b){3}", re.I)
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]*]*(?=\s|$)")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"“])(?:[A-Z]|Dr|Mr|Mrs|Ms|St|Jr|Sr|Prof|Gen|Col|Lt|Sgt|Mt|No|vs|etc|c|ca|e\.g|i\.e|(?:[A-Z]\.)+[A-Z])$"
)
_LIST_NUMBER = re.compile(r"(?:^|\n)\s*\d+$")
# Thai to Khmer, kana and Han: scripts that put no spaces between words.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_FUNCTION_WORDS = frozenset({
    "a", "an", "the", "is", "was", "are", "were", "be", "been", "being", "do", "does", "did", "has", "have", "had", "he", "she",
    "it", "they", "him", "her", "them", "his", "hers", "its", "their", "s", "that", "this", "these", "those",
})  # fmt: skip


def whole_sentences(text: str) -> str:
    """Return the text up to the end of its last sentence; an empty text if no sentence ends.

    A full stop after an initial, an abbreviation such as `Dr` or a list number does not end a sentence.
    """
    ends = _sentence_ends(text)
    return text[: ends[-1]].strip() if ends else ""


def sentences(text: str) -> list[str]:
    """Return the sentences of a text; the last one may have no end."""
    places = [0, *_sentence_ends(text), len(text)]
    parts = (text[start:end].strip() for start, end in pairwise(places))
    return [part for part in parts if part]


def _sentence_ends(text: str) -> list[int]:
    return [
        match.end()
        for match in _SENTENCE_END.finditer(text)
        if match.group()[0] != "." or not (_ABBREVIATION.search(before := text[: match.start()]) or _LIST_NUMBER.search(before))
    ]


def flaw(text: str, *, at_least: int) -> str | None:
    """Return why a text cannot be used in a training file, or None.

    Args:
        text: The text.
        at_least: The minimum number of words.
    """
    if not text:
        return "no whole sentence"
    if len(text.split()) < at_least:
        return f"fewer than {at_least} words"
    if _TEMPLATE_TOKENS.search(text):
        return "chat template tokens"
    if _REPETITION.search(text):
        return "it repeats itself"
    if any(character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cs") for character in text.replace("\n", "")):
        return "control characters"
    return None


def names(subject: str, text: str) -> bool:
    """Return whether a text names the subject: in full, up to a comma, or by its last word (without `Jr.` and numerals)."""
    full = words(subject)
    last = [word for word in full if not re.fullmatch(r"[js]r|[ivx]+", word)][-1:] or full
    return any(contains(text, part) for part in (subject, subject.split(",")[0], " ".join(last)))


def repeats(one: str, other: str, subject: str) -> bool:
    """Return whether two questions about a subject are duplicates or near-duplicates."""
    if words(one) == words(other):
        return True
    known = frozenset(words(subject))
    first, second = _content(one) - known, _content(other) - known
    if not (first and second):
        return first == second
    return len(first & second) >= NEAR * len(first | second)


def agrees(one: str, other: str, question: str) -> bool:
    """Return whether two answers agree: apart from the question's words, one contains all words of the other."""
    if words(one) == words(other):
        return True
    common = _content(question)
    first, second = _content(one) - common, _content(other) - common
    if not (first and second):
        return first == second
    return first <= second or second <= first


@lru_cache(maxsize=4096)
def words(text: str) -> tuple[str, ...]:
    """Return the words of a text without case, punctuation and possessive endings."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return tuple(re.findall(r"\w+", re.sub(r"'s\b", "", folded).replace("_", " ")))


def contains(text: str, part: str) -> bool:
    """Return whether a text contains the words of another as a sequence."""
    needle, haystack = words(part), words(text)
    if _UNSPACED.search(part):
        return "".join(needle) in "".join(haystack)
    return bool(needle) and any(haystack[i : i + len(needle)] == needle for i in range(len(haystack) - len(needle) + 1))


@lru_cache(maxsize=4096)
def _content(text: str) -> frozenset[str]:
    return frozenset(words(text)) - _FUNCTION_WORDS

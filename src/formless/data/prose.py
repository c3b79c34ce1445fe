"""What a text that a model wrote must be: whole sentences about its subject, without marks of a template, not said before."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

NEAR = 0.75
"""Two questions are the same from this share of common words on (in [0, 1]), function words and the subject's name apart."""

_MARKS = re.compile(
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
    """The text up to the end of its last sentence; empty where none ends.

    A full stop after an initial, an abbreviation such as `Dr` or the number of a list ends no sentence.
    """
    for match in reversed(list(_SENTENCE_END.finditer(text))):
        before = text[: match.start()]
        if match.group()[0] != "." or not (_ABBREVIATION.search(before) or _LIST_NUMBER.search(before)):
            return text[: match.end()].strip()
    return ""


def flaw(text: str, *, at_least: int) -> str | None:
    """What makes a text unfit for any row.

    Args:
        text: The text.
        at_least: The fewest words it may have.
    """
    if not text:
        return "no whole sentence"
    if len(text.split()) < at_least:
        return f"fewer than {at_least} words"
    if _MARKS.search(text):
        return "marks of a chat template"
    if _REPETITION.search(text):
        return "it repeats itself"
    if any(character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cs") for character in text.replace("\n", "")):
        return "characters that are no text"
    return None


def names(subject: str, text: str) -> bool:
    """Whether a text names the subject: in full, up to a comma, or by its last word (`Jr.` and numerals apart)."""
    full = words(subject)
    last = [word for word in full if not re.fullmatch(r"[js]r|[ivx]+", word)][-1:] or full
    return any(contains(text, part) for part in (subject, subject.split(",")[0], " ".join(last)))


def repeats(one: str, other: str, subject: str) -> bool:
    """Whether two questions about a subject are the same or nearly so."""
    if words(one) == words(other):
        return True
    known = frozenset(words(subject))
    first, second = _content(one) - known, _content(other) - known
    if not (first and second):
        return first == second
    return len(first & second) >= NEAR * len(first | second)


def agrees(one: str, other: str, question: str) -> bool:
    """Whether two answers say the same: beside the question's words, one says nothing that the other doesn't say too."""
    if words(one) == words(other):
        return True
    asked = _content(question)
    first, second = _content(one) - asked, _content(other) - asked
    if not (first and second):
        return first == second
    return first <= second or second <= first


@lru_cache(maxsize=4096)
def words(text: str) -> tuple[str, ...]:
    """The words of a text without case, punctuation and possessive endings."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return tuple(re.findall(r"\w+", re.sub(r"'s\b", "", folded).replace("_", " ")))


def contains(text: str, part: str) -> bool:
    """Whether a text holds the words of another, one after the other."""
    wanted, said = words(part), words(text)
    if _UNSPACED.search(part):
        return "".join(wanted) in "".join(said)
    return bool(wanted) and any(said[i : i + len(wanted)] == wanted for i in range(len(said) - len(wanted) + 1))


@lru_cache(maxsize=4096)
def _content(text: str) -> frozenset[str]:
    return frozenset(words(text)) - _FUNCTION_WORDS

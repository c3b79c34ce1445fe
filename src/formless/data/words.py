"""The words by which texts are compared: case, white space and punctuation are ignored."""

from __future__ import annotations

import re
import unicodedata

Words = tuple[str, ...]

_WORD = re.compile(r"_{3,}|[^\W_]+|[$+<=>^|~]")  # a blank, a word, a sign that changes the meaning


def words_of(text: str, *, is_answer: bool = False) -> Words:
    """Return the words by which a text is compared, an answer's without articles; a text without words stays as it is."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    if is_answer:
        words = [word for word in words if word not in ("a", "an", "the")] or words
    return tuple(words) or (text.strip(),)


def holds(words: Words, part: Words) -> bool:
    """Return whether words hold a part in one piece."""
    return any(words[start : start + len(part)] == part for start in range(len(words) - len(part) + 1))

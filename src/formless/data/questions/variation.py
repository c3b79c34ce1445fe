"""Plausible alternatives to numbers, years and dates: from a data set, or by arithmetic."""

from __future__ import annotations

import re
from decimal import Decimal

from formless.data.questions.gazetteers import MONTHS, NUMBER_WORDS, ORDINAL_WORDS
from formless.data.questions.kinds import GAP

LATEST_YEAR = 2024
YEARS_APART, ORDINALS_APART, TIMES_APART = 15, 20, 5
SHORTEST_MONTH = 28  # days
MAX_DIGITS = 24  # longer numbers are not varied
_DIGITS = re.compile(r"[0-9][0-9,]*(?:\.[0-9]+)?")


def ordinal(number: int) -> str:
    """Return an ordinal number: 1 -> `1st`."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def comparable(text: str, answer: str, kind: str, query: str) -> bool:
    """Return whether a number, year or date has the same format as the answer and is close enough to be plausible."""
    one, other = _value(answer), _value(text)
    if kind in ("month", "date") or one is None or other is None:
        return _pattern(text) == _pattern(answer)
    largest: Decimal = min(one * TIMES_APART, _largest(one, answer, query))
    near = {
        "year": abs(one - other) <= YEARS_APART and other <= max(one, Decimal(LATEST_YEAR)),
        "day": other <= SHORTEST_MONTH,
        "ordinal": abs(one - other) <= ORDINALS_APART,
        "number": one / TIMES_APART <= other <= largest,
    }
    return near[kind] and _pattern(text) == _pattern(answer)


def same_time(text: str, other: str) -> bool:
    """Return whether the years of two dates are at most `YEARS_APART` apart; true where one has no year."""
    one, another = year_of(text), year_of(other)
    return one is None or another is None or abs(one - another) <= YEARS_APART


def year_of(text: str) -> int | None:
    """Return the first number of three or four digits, as in a year or a date; None without one."""
    found = re.search(r"\b\d{3,4}\b", text)
    return int(found[0]) if found else None


def varied(answer: str, kind: str, query: str) -> list[str]:
    """Return variations of a number, year or date."""
    value = _value(answer)
    if kind == "month":
        return list(MONTHS)
    if kind == "date":
        return [_moved_date(answer, step) for step in range(1, 40)]
    if value is None:
        return []
    step = _grain(value, kind)
    values = [value + sign * count * step for count in range(1, 13) for sign in (1, -1)]
    if kind == "day":
        values = [Decimal(day) for day in range(1, SHORTEST_MONTH + 1)]
    largest = max(value, Decimal(LATEST_YEAR)) if kind == "year" else _largest(value, answer, query)
    kept = [number for number in values if 0 < number <= largest]
    return [text for text in (_replaced(answer, number) for number in kept) if text is not None]


def _largest(value: Decimal, answer: str, query: str) -> Decimal:
    """Return the largest plausible value: 100 for a percentage, else infinity."""
    gap = GAP.search(query)
    after = query[gap.end() :].lstrip() if gap else ""
    share = "%" in answer or "percent" in answer or after.startswith(("%", "percent"))
    return Decimal(100) if share and value <= 100 else Decimal("Infinity")


def _grain(value: Decimal, kind: str) -> Decimal:
    """Return the step between variations: as round as the number itself; for a long number, about a sixteenth of it."""
    if kind != "number":
        return Decimal(1)
    exponent = value.normalize().as_tuple().exponent
    last_digit = Decimal(1).scaleb(exponent) if isinstance(exponent, int) else Decimal(1)
    if last_digit > 1 and value < 10 * last_digit:
        last_digit /= 10
    return last_digit * max(1, int(value / last_digit / 16))


def _value(text: str) -> Decimal | None:
    """Return the first number of a text in digits, or the number that its only word names."""
    found = _DIGITS.search(text)
    if found:
        return Decimal(found[0].replace(",", "").rstrip(".")) if len(found[0]) <= MAX_DIGITS else None
    word = text.strip().casefold()
    words = NUMBER_WORDS if word in NUMBER_WORDS else ORDINAL_WORDS
    return Decimal(words.index(word)) if word in words else None


def _replaced(text: str, value: Decimal) -> str | None:
    """Return the text with another number in the same format, or None if there is no word for the number."""
    found = _DIGITS.search(text)
    if found:
        digits = f"{value:,f}" if "," in found[0] else f"{value:f}"
        rest = text[found.end() :]
        if re.match(r"(?:st|nd|rd|th)\b", rest):
            digits, rest = ordinal(int(value)), rest[2:]
        return text[: found.start()] + digits + rest
    words = NUMBER_WORDS if text.casefold() in NUMBER_WORDS else ORDINAL_WORDS
    if value >= len(words):
        return None
    return words[int(value)].capitalize() if text[0].isupper() else words[int(value)]


def _moved_date(text: str, step: int) -> str:
    """Return a date with another day, month and year, as far as the date has them."""

    def moved(found: re.Match[str]) -> str:
        part = found[0]
        if part in MONTHS:
            return MONTHS[(MONTHS.index(part) + step) % 12]
        if len(part) <= 2:
            return str((int(part) + 7 * step - 1) % SHORTEST_MONTH + 1)
        return str(max(1, int(part) - step % 13 if step % 2 else min(int(part) + step % 13, max(int(part), LATEST_YEAR))))

    return re.sub(rf"{'|'.join(MONTHS)}|\d+", moved, text)


def _pattern(text: str) -> str:
    """Return the format of a number: digits, word or ordinal, with the surrounding text."""
    shape = re.sub("|".join(MONTHS), "M", text.strip())
    shape = re.sub(r"9(?:st|nd|rd|th)\b", "9th", _DIGITS.sub("9", shape))
    word = shape.casefold()
    if word in NUMBER_WORDS or word in ORDINAL_WORDS:
        return f"{'Word' if shape[0].isupper() else 'word'} {word in ORDINAL_WORDS}"
    return shape

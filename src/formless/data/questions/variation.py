"""Numbers, years and dates that could be taken for another one: of a data set, or by arithmetic."""

from __future__ import annotations

import re
from decimal import Decimal

from formless.data.questions.gazetteers import MONTHS, NUMBER_WORDS, ORDINAL_WORDS
from formless.data.questions.kinds import GAP

LATEST_YEAR = 2024
YEARS_APART, ORDINALS_APART, TIMES_APART = 15, 20, 5
SHORTEST_MONTH = 28  # days
MAX_FIGURES = 24  # longer numbers are not reckoned with
_FIGURES = re.compile(r"[0-9][0-9,]*(?:\.[0-9]+)?")


def ordinal(number: int) -> str:
    """1 -> `1st`."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def comparable(text: str, answer: str, kind: str, query: str) -> bool:
    """Whether a number, year or date is written as another is and lies near enough to be taken for it."""
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


def varied(answer: str, kind: str, query: str) -> list[str]:
    """The same number, year or date with other figures."""
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
    """A hundred for a percentage, else no limit."""
    gap = GAP.search(query)
    after = query[gap.end() :].lstrip() if gap else ""
    share = "%" in answer or "percent" in answer or after.startswith(("%", "percent"))
    return Decimal(100) if share and value <= 100 else Decimal("Infinity")


def _grain(value: Decimal, kind: str) -> Decimal:
    """The step between varied numbers: about as round as the number itself, and for a long one about a sixteenth of it."""
    if kind != "number":
        return Decimal(1)
    exponent = value.normalize().as_tuple().exponent
    last_figure = Decimal(1).scaleb(exponent) if isinstance(exponent, int) else Decimal(1)
    if last_figure > 1 and value < 10 * last_figure:
        last_figure /= 10
    return last_figure * max(1, int(value / last_figure / 16))


def _value(text: str) -> Decimal | None:
    """The first number of a text, in figures or as its only word."""
    found = _FIGURES.search(text)
    if found:
        return Decimal(found[0].replace(",", "").rstrip(".")) if len(found[0]) <= MAX_FIGURES else None
    word = text.strip().casefold()
    words = NUMBER_WORDS if word in NUMBER_WORDS else ORDINAL_WORDS
    return Decimal(words.index(word)) if word in words else None


def _replaced(text: str, value: Decimal) -> str | None:
    """The text with another number in it, written alike; nothing where no word says it."""
    found = _FIGURES.search(text)
    if found:
        figures = f"{value:,f}" if "," in found[0] else f"{value:f}"
        rest = text[found.end() :]
        if re.match(r"(?:st|nd|rd|th)\b", rest):
            figures, rest = ordinal(int(value)), rest[2:]
        return text[: found.start()] + figures + rest
    words = NUMBER_WORDS if text.casefold() in NUMBER_WORDS else ORDINAL_WORDS
    if value >= len(words):
        return None
    return words[int(value)].capitalize() if text[0].isupper() else words[int(value)]


def _moved_date(text: str, step: int) -> str:
    """Another day, month and year where the date has them."""

    def moved(found: re.Match[str]) -> str:
        part = found[0]
        if part in MONTHS:
            return MONTHS[(MONTHS.index(part) + step) % 12]
        if len(part) <= 2:
            return str((int(part) + 7 * step - 1) % SHORTEST_MONTH + 1)
        return str(max(1, int(part) - step % 13 if step % 2 else min(int(part) + step % 13, max(int(part), LATEST_YEAR))))

    return re.sub(rf"{'|'.join(MONTHS)}|\d+", moved, text)


def _pattern(text: str) -> str:
    """How a number is written: figures, word or ordinal, with what stands around it."""
    shape = re.sub("|".join(MONTHS), "M", text.strip())
    shape = re.sub(r"9(?:st|nd|rd|th)\b", "9th", _FIGURES.sub("9", shape))
    word = shape.casefold()
    if word in NUMBER_WORDS or word in ORDINAL_WORDS:
        return f"{'Word' if shape[0].isupper() else 'word'} {word in ORDINAL_WORDS}"
    return shape

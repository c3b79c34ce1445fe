"""Read the JSON that users write or change: a key that is given twice is an error, and every error is a `ValueError`."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

Pairs = list[tuple[str, Any]]
_SURROGATE = re.compile("[\ud800-\udfff]")


def doubled_key(pairs: Pairs) -> str | None:
    """Return the first key of an object that is given twice; None if each is given once."""
    counts = Counter(key for key, _ in pairs)
    return next((key for key, count in counts.items() if count > 1), None)


def unique_keys(pairs: Pairs) -> dict[str, Any]:
    """Return an object.

    Raises:
        ValueError: A key is given twice.
    """
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError(f"the key {doubled_key(pairs)!r} is given twice")
    return found


def load_json(text: str | bytes, build: Callable[[Pairs], Any] = unique_keys) -> Any:
    """Return the value of a JSON text; bytes are UTF-8.

    Args:
        text: The text.
        build: Builds an object from its keys and values.

    Raises:
        ValueError: The text is not UTF-8, not JSON or nested too deeply, a key is given twice, or a number has thousands of
            digits.
    """
    try:
        return json.loads(text.decode("utf-8") if isinstance(text, bytes) else text, object_pairs_hook=build)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def check_json(content: object) -> None:
    """Refuse what Python reads, but JSON does not have.

    Args:
        content: The value of a JSON text.

    Raises:
        ValueError: A number is NaN or infinite, or a text holds half a character; the message names the field.
    """
    if fault := next(_faults(content), None):
        raise ValueError(fault)


def _faults(content: object, place: str = "") -> Iterator[str]:
    """Yield what is wrong, depth first."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _faults(key, place)
            yield from _faults(value, f"{place}.{key}" if place else key)
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from _faults(value, f"{place}.{number}" if place else str(number))
    elif isinstance(content, float) and not math.isfinite(content):
        yield f"{content} is no finite number{_at(place)}"
    elif isinstance(content, str) and _SURROGATE.search(content):
        yield f"a text holds half a character, a lone surrogate{_at(place)}"


def _at(place: str) -> str:
    return f", field {place.encode('ascii', 'backslashreplace').decode()}" if place else ""

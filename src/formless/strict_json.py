"""Read the JSON that users write or change: a key that is given twice is an error, and every error is a `ValueError`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

Pairs = list[tuple[str, Any]]


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

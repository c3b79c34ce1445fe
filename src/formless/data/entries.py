"""The entries of a JSON file, before they are rows: a list of objects without doubled keys or broken text."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

from formless.errors import DataError
from formless.store import read_file
from formless.strict_json import doubled_key, load_json

MAX_ROW = 2**20  # characters of a row
_SURROGATE = re.compile("[\ud800-\udfff]")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"  # Persian and several scripts of India spell names with them


class _DoubledKey(dict[str, Any]):
    """An object in which a key is given twice."""

    key = ""


def hidden_character(name: str) -> str | None:
    """Return the first invisible or control character of a name as `U+200B`; None where there is none."""
    found = next((one for one in name if unicodedata.category(one) in _HIDDEN and one not in _JOINERS), None)
    return f"U+{ord(found):04X}" if found else None


def read_entries(path: Path) -> list[Any]:
    """Read the entries of a file without validating them.

    Raises:
        DataError: The file is missing or broken, or holds no JSON list.
    """
    data = _read_json(path)
    if not isinstance(data, list):
        raise DataError("the file holds no list of rows", where=path, remedy="write a JSON list of objects")
    return data


def check_entry(entry: object, where: str) -> None:
    """Refuse what no type of row may hold.

    Args:
        entry: As the file has it.
        where: The file and row, for errors.

    Raises:
        DataError: A key is given twice, a text is no Unicode text or holds NUL, or the entry holds more than `MAX_ROW`
            characters, keys included; any value but a string counts as one.
    """
    size = 0
    rest: list[tuple[Any, Any]] = [(entry, ())]  # each value with its place; no recursion, since an entry may nest deeply
    while rest:
        value, place = rest.pop()
        if isinstance(value, dict):
            if isinstance(value, _DoubledKey):
                raise DataError("a key is given twice", where=_field(where, (place, value.key)), remedy="keep one of the two")
            rest += [(key, (place, key)) for key in value]
            rest += [(inner, (place, key)) for key, inner in value.items()]
        elif isinstance(value, list):
            rest += [(inner, (place, number)) for number, inner in enumerate(value)]
        elif isinstance(value, str):
            size += len(value)
            if "\0" in value:
                raise DataError("a text holds a NUL character", where=_field(where, place), remedy="remove it")
            if _SURROGATE.search(value):
                remedy = "write the character itself, or both halves of its escape"
                raise DataError("a text holds half a character, a lone surrogate", where=_field(where, place), remedy=remedy)
        else:
            size += 1
    if size > MAX_ROW:
        raise DataError(f"a row is larger than {MAX_ROW >> 20} MB", where=where, remedy="split its text over several rows")


def _field(where: str, place: Any) -> str:
    """Return a place with the path of a field, from its linked keys."""
    keys: list[str] = []
    while place:
        place, key = place
        keys.append(str(key).encode("ascii", "backslashreplace").decode() if _SURROGATE.search(str(key)) else str(key))
    return f"{where}, field {'.'.join(reversed(keys))}" if keys else where


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; one with a doubled key says so, since the parser does not know the row."""
    if (key := doubled_key(pairs)) is None:
        return dict(pairs)
    doubled = _DoubledKey(pairs)
    doubled.key = key
    return doubled


def _read_json(path: Path) -> Any:
    try:
        return load_json(read_file(path), build=_object)
    except FileNotFoundError:
        raise DataError("the target lacks a file", where=path, remedy="add it, or choose a suite without it") from None
    except UnicodeDecodeError as error:
        raise DataError("the file is not UTF-8", where=path, remedy=f"re-save it as UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        where = f"{path}, line {error.lineno}, column {error.colno}"
        raise DataError("the file is not JSON", where=where, remedy=error.msg) from error
    except ValueError as error:  # nested too deeply, or a number of thousands of digits
        raise DataError("the JSON cannot be read", where=path, remedy=str(error).splitlines()[0]) from error
    except OSError as error:
        raise DataError("the file cannot be read", where=path, remedy=error.strerror or str(error)) from error

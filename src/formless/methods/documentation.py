"""The settings of a method as people and programs read them: default, range and meaning, from the class and its docstring."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from formless.methods.base import MethodConfig


@dataclass(frozen=True)
class Setting:
    """One setting of a method.

    Args:
        name: Its name.
        required: Whether it has no default.
        default: The default, of plain types; None for a required setting too.
        allowed: The range of a number or the values of a choice, in words; None where neither is stated.
        meaning: What it does, with the usual range where the docstring states one.
    """

    name: str
    required: bool
    default: Any
    allowed: str | None
    meaning: str


def settings_of(config: type[MethodConfig]) -> list[Setting]:
    """Return the settings of a method in their order."""
    meanings: dict[str, str] = {}
    for parent in reversed(config.__mro__):
        meanings |= documented(parent)
    return [
        Setting(
            name, field.is_required(), None if field.is_required() else _plain(field.default),
            config.allowed_range(name) or _choices(field.annotation), meanings.get(name, ""),
        )
        for name, field in config.model_fields.items()
    ]  # fmt: skip


def documented(config: type) -> dict[str, str]:
    """Return the meaning of every argument that a class documents in its own docstring, by name."""
    text = inspect.cleandoc(config.__dict__.get("__doc__") or "")
    _, found, arguments = text.partition("Args:\n")
    if not found:
        return {}
    block = re.split(r"\n(?=\S)", arguments)[0]
    entries = re.split(r"\n(?= {4}\w+: )", "\n" + block)
    pairs = (entry.strip().partition(": ") for entry in entries if entry.strip())
    return {name: " ".join(meaning.split()) for name, _, meaning in pairs}


def _choices(annotation: Any) -> str | None:
    """Return the values of a `Literal`."""
    return ", ".join(map(str, get_args(annotation))) if get_origin(annotation) is Literal else None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

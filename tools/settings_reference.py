"""Render the settings of every method from the registry: names, defaults, ranges and meaning."""

from __future__ import annotations

from typing import Any

from formless.methods.documentation import documented

PAGE = "reference/settings.md"


def render_settings() -> str:
    """Return the Markdown page of all methods' settings; what every training method shares stands first."""
    from formless.methods.registry import METHODS

    shared_config: Any = next(parent for parent in METHODS["ga"].config.__mro__ if parent.__name__ == "TrainingConfig")
    lines = [
        "# Settings of each method",
        "",
        "This page is written from the registry of methods when the site is built. Give a setting as `--set NAME=VALUE` of",
        "`formless unlearn`, as a key of a method in an experiment's file, or as a keyword argument of `formless.unlearn`.",
        "`formless models NAME` lists the values that a model has of its own. [Methods](methods.md) says what they do.",
        "",
        "## Settings that every training method has",
        "",
        *table(shared_config, shared_config.model_fields),
    ]
    for name, entry in METHODS.items():
        shared = shared_config.model_fields if issubclass(entry.config, shared_config) else {}
        fields = entry.config.model_fields
        own = {key: field for key, field in fields.items() if key not in shared or field.default != shared[key].default}
        lines += ["", f"## {name}", "", f"{entry.about[0].upper()}{entry.about[1:]}. Source: {entry.paper}."]
        if own:
            lines += ["", *table(entry.config, own)]
    return "\n".join(lines) + "\n"


def table(config: Any, fields: dict[str, Any]) -> list[str]:
    """Return the lines of a table of settings."""
    meanings: dict[str, str] = {}
    for parent in reversed(config.__mro__):
        meanings |= documented(parent)
    lines = ["| setting | default | range | meaning |", "| --- | --- | --- | --- |"]
    for name, field in fields.items():
        default = "required" if field.is_required() else f"`{field.default}`"
        lines.append(f"| `{name}` | {default} | {limits(field)} | {meanings.get(name, '').replace('|', chr(92) + '|')} |")
    return lines


def limits(field: Any) -> str:
    """Return the range that a setting may have."""
    signs = {"gt": ">", "ge": "≥", "lt": "&lt;", "le": "≤"}
    found = [f"{sign} {getattr(rule, key)}" for rule in field.metadata for key, sign in signs.items() if hasattr(rule, key)]
    return ", ".join(found)

"""`formless models` and `formless methods`."""

from __future__ import annotations

from rich.table import Column, Table

from formless.cli import terminal
from formless.methods.registry import METHODS
from formless.models.families import known_model_types
from formless.models.settings import model_settings


def models_command() -> None:
    """List the models that have a short name, and the families that any other model may belong to.

    Example: formless models
    """
    table = Table("name", Column("source", no_wrap=True), "about", "settings")
    for row in model_settings().values():
        settings = "; ".join(f"{name}: {values}" for name, values in row.methods.items())
        table.add_row(row.name, row.source, row.about, settings)
    terminal.out.print(table)
    terminal.out.print(f"families: {', '.join(known_model_types())}")


def methods_command() -> None:
    """List the unlearning methods with their settings and defaults.

    Example: formless methods
    """
    table = Table("name", "about", "paper", "settings")
    for entry in METHODS.values():
        settings = ", ".join(f"{name}={field.default}" for name, field in entry.config.model_fields.items())
        table.add_row(entry.name, entry.about, entry.paper, settings)
    terminal.out.print(table)

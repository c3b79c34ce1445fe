"""`formless models` and `formless methods`."""

from __future__ import annotations

from rich.table import Column, Table

from formless.cli import terminal


def models_command() -> None:
    """List the models that have a short name, and the supported model families.

    Example: formless models
    """
    from formless.models.bundled import BUNDLED_MODELS
    from formless.models.families import known_model_types
    from formless.models.gguf_header import ARCHITECTURES
    from formless.models.settings import model_settings

    table = Table("name", Column("source", no_wrap=True), "about", "settings")
    for model in model_settings().values():
        settings = "; ".join(f"{name}: {values}" for name, values in model.methods.items())
        table.add_row(model.name, model.source, model.about, settings)
    terminal.out.print(table)
    for bundled in BUNDLED_MODELS.values():
        terminal.out.print(f"{bundled.name} ({bundled.license}): {bundled.preparation}", soft_wrap=True)
    terminal.out.print(f"families: {', '.join(known_model_types())}", soft_wrap=True)
    terminal.out.print(f"GGUF files: {', '.join(ARCHITECTURES)}", soft_wrap=True)


def methods_command() -> None:
    """List the unlearning methods: what they train on, their rough cost, and their settings with defaults.

    Example: formless methods
    """
    from formless.methods.registry import METHODS

    table = Table("name", "about", "trains on", "cost", "paper", "settings")
    for entry in METHODS.values():
        settings = ", ".join(f"{name}={field.default}" for name, field in entry.config.model_fields.items())
        file = f"{entry.trains_on}.json" if entry.trains_on else ""
        table.add_row(entry.name, entry.about, file, entry.cost, entry.paper, settings)
    terminal.out.print(table)

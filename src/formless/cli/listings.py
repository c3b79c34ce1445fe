"""`formless models` and `formless methods`: tables of what there is, and the details of one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from formless.cli import completion, terminal
from formless.errors import UnknownNameError

if TYPE_CHECKING:
    from formless.methods.base import MethodEntry
    from formless.models.settings import ModelSettings


def models_command(
    name: Annotated[str | None, typer.Argument(help="Show this model's details.", autocompletion=completion.models)] = None,
    json: terminal.JsonOption = False,
) -> None:
    """List the models that have a short name: where they come from, how large they are, and what they need.

    Example: formless models

    Example: formless models smollm2
    """
    from formless.models.families import known_model_types
    from formless.models.settings import model_settings
    from formless.models.sources.gguf_header import ARCHITECTURES

    known = model_settings()
    if name is not None and name not in known:
        raise UnknownNameError("model", name, known, where="NAME", remedy="`formless doctor --model` knows any other model")
    if json:
        chosen = [_model_facts(row) for row in known.values() if name in (None, row.name)]
        terminal.print_json({"models": chosen, "model_types": list(known_model_types()), "gguf": list(ARCHITECTURES)})
    elif name is not None:
        _show_model(known[name])
    else:
        _show_models(known.values())
        terminal.out.print(f"families: {', '.join(known_model_types())}")
        terminal.out.print(f"GGUF files: {', '.join(ARCHITECTURES)}")
        terminal.out.print("settings of a model: formless models NAME; whether it fits here: formless doctor --model NAME")


def _model_facts(row: ModelSettings) -> dict[str, Any]:
    """Return what is known of a model; sizes in bytes, and None for what is not known before it is loaded."""
    from formless.models.sources.bundled import BUNDLED_MODELS

    bundled = BUNDLED_MODELS.get(row.name)
    weights = row.parameters and {"bfloat16": 2 * row.parameters, "float32": 4 * row.parameters}
    return {
        "name": row.name, "source": row.source, "about": row.about, "parameters": row.parameters, "weights_bytes": weights,
        "origin": bundled.origin if bundled else row.source, "license": bundled.license if bundled else None,
        "download_bytes": bundled.download if bundled else None,
        "conversion": asdict(bundled.needs) if bundled else None,
        "prompt": row.prompt.model_dump() if row.prompt else None, "methods": row.methods, "evidence": row.evidence,
    }  # fmt: skip


def _show_models(rows: Iterable[ModelSettings]) -> None:
    from formless.models.sources.bundled import BUNDLED_MODELS

    cells = []
    for row in sorted(rows, key=lambda row: row.name not in BUNDLED_MODELS):
        size = row.parameters or 0
        memory = [f"{count * size / 1e9:.1f} GB" if size else "–" for count in (2, 4)]
        cells.append((row.name, row.source, _count(size), *memory))
    terminal.show_rows("", ("name", "source", "weights", "bfloat16", "float32"), cells, labels=2, whole=2)
    for bundled in BUNDLED_MODELS.values():
        terminal.out.print(f"{bundled.name} is bundled and needs no account ({bundled.license}): {bundled.preparation}")
    terminal.out.print("The others are on the Hugging Face hub; some publishers let in those who have asked for it.")


def _count(parameters: int) -> str:
    if not parameters:
        return "–"
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"


def _show_model(row: ModelSettings) -> None:
    facts = _model_facts(row)
    lines = {"source": row.source, "about": row.about}
    if facts["origin"] != row.source:
        lines["origin"] = f"{facts['origin']}, {facts['license']}"
    if row.parameters:
        lines["weights"] = f"{_count(row.parameters)}: " + ", ".join(
            f"{size / 1e9:.1f} GB in {dtype}" for dtype, size in facts["weights_bytes"].items()
        )
    if facts["download_bytes"]:
        from formless.models.sources.bundled import BUNDLED_MODELS

        lines["first use"] = BUNDLED_MODELS[row.name].preparation
    if row.prompt:
        lines["prompts"] = _settings_text(row.prompt.model_dump())
    alike: dict[str, list[str]] = {}
    for method, settings in row.methods.items():
        alike.setdefault(_settings_text(settings), []).append(method)
    lines |= {", ".join(methods): settings for settings, methods in alike.items()}
    _show_facts(row.name, lines)
    if row.methods:
        terminal.out.print("A method's settings are those that differ from its defaults: formless methods NAME")


def methods_command(
    name: Annotated[
        str | None, typer.Argument(help="Show the settings of this method.", autocompletion=completion.methods)
    ] = None,
    json: terminal.JsonOption = False,
) -> None:
    """List the unlearning methods: what they do, the file that they train on, and their rough cost; or one with its settings.

    Example: formless methods

    Example: formless methods cdr
    """
    from formless.methods.registry import METHODS

    if json:
        chosen = [METHODS.get_known(name, where="NAME")] if name is not None else METHODS.values()
        terminal.print_json({"methods": [_method_facts(entry) for entry in chosen]})
    elif name is not None:
        _show_method(METHODS.get_known(name, where="NAME"))
    else:
        rows = [(entry.name, _trains_on(entry), entry.cost, entry.about) for entry in METHODS.values()]
        terminal.show_rows("", ("name", "trains on", "cost", "about"), rows, labels=4, whole=3)
        terminal.out.print("Cost: for one target and a model of some billion weights on one GPU.")
        terminal.out.print("Which targets have these files: formless targets. Settings of a method: formless methods NAME")


def _trains_on(entry: MethodEntry) -> str:
    return f"{entry.trains_on}.json" if entry.trains_on else "–"


def _trains_on_all(entry: MethodEntry) -> str:
    """Return the files that a method trains on, for one method alone."""
    questions = "; of a question set without it, forget_qa.json" if getattr(entry, "on_questions", None) else ""
    return f"{_trains_on(entry)}{questions}"


def _method_facts(entry: MethodEntry) -> dict[str, Any]:
    from formless.methods.documentation import settings_of

    names = (
        "name", "about", "paper", "trains_on", "cost", "takes_several_targets", "keeps_earlier_edits", "resumable",
        "edits_weights",
    )  # fmt: skip
    settings = [asdict(setting) for setting in settings_of(entry.config)]
    return {name: getattr(entry, name) for name in names} | {"tuned": _tuned(entry), "settings": settings}


def _tuned(entry: MethodEntry) -> dict[str, Any] | None:
    return {"name": entry.tuned.name, "values": list(entry.tuned.values)} if entry.tuned else None


def _show_method(entry: MethodEntry) -> None:
    from formless.methods.documentation import settings_of

    able = {
        "takes several targets": entry.takes_several_targets, "keeps an earlier edit (--keep)": entry.keeps_earlier_edits,
        "resumes a run that was killed": entry.resumable, "changes no weights": not entry.edits_weights,
    }  # fmt: skip
    lines = {"about": entry.about, "source": entry.paper, "trains on": _trains_on_all(entry), "cost": entry.cost}
    if entry.tuned:
        lines["tuned by"] = f"layers and {entry.tuned.name} (formless tune --method {entry.name})"
    if also := [words for words, is_able in able.items() if is_able]:
        lines["also"] = ", ".join(also)
    _show_facts(entry.name, lines)
    for setting in settings_of(entry.config):
        value = "required" if setting.required else f"= {_value_text(setting.default)}"
        allowed = f"  ({setting.allowed})" if setting.allowed else ""
        terminal.out.print(f"{setting.name} {value}{allowed}", style="bold")
        if setting.meaning:
            terminal.out.print(_indented(setting.meaning))
    terminal.out.print()
    terminal.out.print("Give a setting as --set NAME=VALUE. A model may have values of its own: formless models NAME")


def _show_facts(name: str, lines: dict[str, str]) -> None:
    """Print a name and what there is to say of it, each text beside its head."""
    from rich.table import Column, Table

    terminal.out.print(name, style="bold")
    table = Table.grid(Column(max_width=24), Column(), padding=(0, 2, 0, 0))
    for head, text in lines.items():
        if text:
            table.add_row(head, text)
    terminal.out.print(table)
    terminal.out.print()


def _indented(text: str) -> Any:
    from rich.padding import Padding
    from rich.text import Text

    return Padding(Text(text), (0, 0, 0, 4))


def _settings_text(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={_value_text(value)}" for name, value in settings.items())


def _value_text(value: Any) -> str:
    """Return a value as `--set` takes it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_value_text, value))}]"
    if isinstance(value, str) and value != value.strip():
        return repr(value)
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

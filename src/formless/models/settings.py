"""What the project knows about named models: where they come from and the settings published or measured for them."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from formless.errors import UnknownNameError, UserError

BUNDLED = "bundled"


class PromptStyle(BaseModel):
    """How probes address a model: a protocol setting of its family, the same for forget and neighbor probes.

    Args:
        direct_answer: Put the benchmark's direct-answer line before FB, QA and MCP messages (non-Llama models).
        sub_token: Ask letter by letter with the bare instruction (Llama) or with one worked example (others).
        protocol: `published` words probes as the published code does where that differs, to compare with printed tables.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    direct_answer: bool
    sub_token: Literal["zero-shot", "one-shot"]
    protocol: Literal["ours", "published"] = "ours"


class ModelSettings(BaseModel):
    """One file of configs/models: a short name, the source, and the methods' settings for that model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    source: str = Field(description="a hub id, or 'bundled'")
    about: str = ""
    prompt: PromptStyle | None = None
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)


@cache
def model_settings() -> dict[str, ModelSettings]:
    """Every shipped model by name."""
    return {row.name: row for row in (_read(text, where) for where, text in shipped_yaml("models"))}


def shipped_yaml(kind: str) -> list[tuple[str, str]]:
    """`(name, text)` of the package's YAML files of one kind (`models`)."""
    folder = resources.files("formless").joinpath("configs", kind)
    return sorted((entry.name, entry.read_text("utf-8")) for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def settings_for(name: str) -> ModelSettings:
    """The settings of a short name or of a hub id that some file names; defaults for any other model."""
    shipped = model_settings()
    if name in shipped:
        return shipped[name]
    by_source = {row.source: row for row in shipped.values()}
    return by_source.get(name) or ModelSettings(name=name, source=name)


def unknown_model(name: str) -> UnknownNameError:
    """The error for a name that is neither shipped, nor a folder, nor a hub id."""
    return UnknownNameError(
        "model", name, model_settings(), where="--model", remedy="A hub id (owner/name) or a folder works too"
    )


def default_style(model_type: str) -> PromptStyle:
    """The paper's choice by family: Llama models get neither the direct-answer line nor an example."""
    is_llama = model_type == "llama"
    return PromptStyle(direct_answer=not is_llama, sub_token="zero-shot" if is_llama else "one-shot")


def prompt_style(style: PromptStyle, changes: dict[str, Any]) -> PromptStyle:
    """A style with some of its settings changed.

    Raises:
        UserError: A value that the setting does not take.
    """
    try:
        return PromptStyle.model_validate(style.model_dump() | changes)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError("wrong prompt style", where=first["loc"][0], remedy=first["msg"]) from error


def _read(text: str, where: str) -> ModelSettings:
    try:
        return ModelSettings.model_validate(yaml.safe_load(text))
    except (ValidationError, yaml.YAMLError) as error:
        raise UserError("a model file cannot be read", where=where, remedy=str(error)) from error

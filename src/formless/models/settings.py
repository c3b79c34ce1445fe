"""Settings of named models: their source, and the hyperparameters published or measured for them."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from formless.errors import UnknownNameError, UserError
from formless.models.sources.gguf_header import check_magic, is_gguf
from formless.store import read_file
from formless.strict_yaml import load_yaml

BUNDLED = "bundled"
_RECIPES = (".yaml", ".yml")
_MAX_BYTES = 2**20


class PromptStyle(BaseModel):
    """The prompt format of probes for a model; the same for forget and neighbor probes.

    Args:
        direct_answer: Put the benchmark's direct-answer line before FB, QA and MCP messages (all models but Llama).
        sub_token: Ask letter by letter with the bare instruction (Llama) or with one worked example (other models).
        protocol: `published` uses the prompts of the published code where they differ, for comparison with printed tables.
            `open-unlearning` asks question sets as open-unlearning does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    direct_answer: bool
    sub_token: Literal["zero-shot", "one-shot"]
    protocol: Literal["ours", "published", "open-unlearning"] = "ours"


class ModelSettings(BaseModel):
    """A recipe: a file of configs/models, or a user's own, which `--model FILE.yaml` names.

    Args:
        name: Short name; of a user's recipe for a bundled model, the bundled model's.
        source: A hub id or `bundled`; in a user's recipe also a folder or a GGUF file.
        revision: The branch, tag or commit of a hub id.
        about: One line.
        parameters: Number of weights as Formless loads them; None where it is not stated.
        prompt: The prompt format; the family's unless given.
        methods: By method, the settings that differ from its defaults.
        evidence: Where the settings come from, for people: what was measured, on which concepts, by which command.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    source: str = Field(min_length=1)
    revision: str | None = None
    about: str = ""
    parameters: int | None = Field(default=None, gt=0)
    prompt: PromptStyle | None = None
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)
    evidence: dict[str, Any] = Field(default_factory=dict)


@cache
def model_settings() -> dict[str, ModelSettings]:
    """Return the settings of every shipped model, by name."""
    return {row.name: row for row in (_read(text, where) for where, text in shipped_yaml("models"))}


def shipped_yaml(kind: str) -> list[tuple[str, str]]:
    """Return `(name, text)` of the package's YAML files of one kind, e.g. `models`."""
    folder = resources.files("formless").joinpath("configs", kind)
    return sorted((entry.name, entry.read_text("utf-8")) for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def settings_for(name: str) -> ModelSettings:
    """Return the settings for a short name, a recipe or a hub id in configs/models, and empty settings for any other model.

    A hub id may name its revision: `owner/name@revision`.

    Raises:
        UserError: A recipe cannot be read.
    """
    if is_recipe(name):
        return _read_recipe(Path(name))
    shipped = model_settings()
    if name in shipped:
        return shipped[name]
    by_source = {row.source: row for row in shipped.values() if row.source != BUNDLED}
    source, at, revision = name.partition("@")
    if not (at and revision and is_hub_id(source)) or Path(name).exists():
        source, revision = name, ""
    found = by_source.get(source) or ModelSettings(name=source, source=source)
    return found.model_copy(update={"revision": revision}) if revision else found


def find_model(name: str) -> ModelSettings:
    """Return the settings of a short name, a recipe, a folder, a GGUF file or a hub id.

    Raises:
        UnknownNameError: The name, or the source that a recipe names, is none of them.
        UserError: A recipe cannot be read.
        ModelError: A GGUF file is named that is none, or that cannot be read.
    """
    settings = settings_for(name)
    place = Path(settings.source)
    if settings.source == BUNDLED or place.is_dir():
        return settings
    if is_gguf(place):
        check_magic(place)
    elif not is_hub_id(settings.source):
        remedy = "A hub id (owner/name), a folder, a GGUF file or a recipe (.yaml) works too"
        where = f"{name}, source" if is_recipe(name) else "--model"
        raise UnknownNameError("model", settings.source, model_settings(), where=where, remedy=remedy)
    return settings


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form of a hub id, `owner/name`."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name, re.ASCII) is not None


def is_recipe(name: str) -> bool:
    """Return whether a name is a recipe's: a YAML file with a model's settings."""
    return Path(name).suffix.lower() in _RECIPES and Path(name).is_file()


def default_style(model_type: str) -> PromptStyle:
    """Return the paper's prompt format: Llama models get neither the direct-answer line nor an example."""
    is_llama = model_type == "llama"
    return PromptStyle(direct_answer=not is_llama, sub_token="zero-shot" if is_llama else "one-shot")


def prompt_style(style: PromptStyle, changes: dict[str, Any]) -> PromptStyle:
    """Return a prompt format with some settings changed.

    Raises:
        UserError: A value is not allowed.
    """
    try:
        return PromptStyle.model_validate(style.model_dump() | changes)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError("wrong prompt style", where=first["loc"][0], remedy=first["msg"]) from error


def _read_recipe(path: Path) -> ModelSettings:
    try:
        text = read_file(path, limit=_MAX_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        remedy = getattr(error, "strerror", None) or "save it as UTF-8"
        raise UserError("the recipe cannot be read", where=path, remedy=remedy) from error
    found = _read(text, path)
    bundled = [row.name for row in model_settings().values() if row.source == BUNDLED]
    if found.source == BUNDLED and found.name not in bundled:
        raise UnknownNameError("bundled model", found.name, bundled, where=f"{path}, name")
    return found


def _read(text: str, where: object) -> ModelSettings:
    try:
        return ModelSettings.model_validate(load_yaml(text))
    except ValidationError as error:
        first = error.errors()[0]
        place = ", ".join(map(str, (where, ".".join(map(str, first["loc"])) or "the whole")))
        raise UserError("the recipe of a model is wrong", where=place, remedy=first["msg"]) from error
    except yaml.YAMLError as error:
        raise UserError("the recipe of a model is not YAML", where=where, remedy=str(error)) from error

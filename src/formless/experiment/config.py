"""`Experiment`: what is to be measured, as its YAML file or the command line says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from formless.data.ort import SAMPLE
from formless.errors import UnknownNameError, UserError
from formless.models.settings import shipped_yaml

EXPERIMENT = "experiment.yaml"
_HOW = "docs/experiments.md lists the keys"


class ModelChoice(BaseModel):
    """A model, and how it is loaded.

    Args:
        name: Short name, folder or hub id.
        dtype: As in `formless.load`.
        device: The same; no part of a run's identity.
        revision: Of a hub id.
        trust_remote_code: Whether code from the model's repository may run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False


class MethodChoice(BaseModel):
    """A method; every other key is one of its settings, where it differs from those of the method and the model.

    Args:
        method: As `formless methods` lists it.
        label: What folders and tables call it; the method's name unless given.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    method: str = Field(min_length=1)
    label: str = Field(default="", pattern=r"^(\w[\w.+-]*)?$")

    @property
    def settings(self) -> dict[str, Any]:
        """The other keys."""
        return self.model_extra or {}


class Experiment(BaseModel):
    """A grid of runs: models x methods x targets x seeds.

    Args:
        name: For people.
        models: At least one.
        methods: At least one; their labels differ. Several entries of one method with other settings are a sweep over them.
        data: A data folder, or `sample`.
        targets: `all`, numbers such as `1-12` or `1,4,7`, or a list of names.
        seeds: Of methods that draw numbers; that of their own settings unless given.
        suite: What is asked, as in `formless eval`.
        limit: At most so many rows per task.
        direct_answer: The direct-answer line; by family unless given.
        sub_token: Letter by letter, `zero-shot` or `one-shot`; by family unless given.
        protocol: `published` words probes as the published code does where it differs.
        save_edits: Keep every edit beside its record.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "experiment"
    models: tuple[ModelChoice, ...] = Field(min_length=1)
    methods: tuple[MethodChoice, ...] = Field(min_length=1)
    data: str = SAMPLE
    targets: str | int | tuple[str | int, ...] = "all"
    seeds: tuple[int, ...] = ()
    suite: str = "ort"
    limit: int | None = Field(default=None, ge=1)
    direct_answer: bool | None = None
    sub_token: Literal["zero-shot", "one-shot"] | None = None
    protocol: Literal["ours", "published"] | None = None
    save_edits: bool = True

    @field_validator("models", "methods", mode="before")
    @classmethod
    def _by_name(cls, value: Any, field: ValidationInfo) -> Any:
        """A bare name stands for a mapping with nothing else, a bare entry for a list of it."""
        key = "name" if field.field_name == "models" else "method"
        entries = value if isinstance(value, list | tuple) else [value]
        return [{key: entry} if isinstance(entry, str) else entry for entry in entries]

    @field_validator("methods")
    @classmethod
    def _labelled(cls, methods: tuple[MethodChoice, ...]) -> tuple[MethodChoice, ...]:
        labelled = tuple(method.model_copy(update={"label": method.label or method.method}) for method in methods)
        labels = [method.label for method in labelled]
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            raise ValueError(f"two methods are labelled {twice!r}: give one of them another label")
        return labelled

    @property
    def style(self) -> dict[str, Any]:
        """The settings of `PromptStyle` that differ from the model's own."""
        chosen = {"direct_answer": self.direct_answer, "sub_token": self.sub_token, "protocol": self.protocol}
        return {name: value for name, value in chosen.items() if value is not None}

    def as_yaml(self) -> str:
        """The whole experiment, defaults too, as `read_experiment` takes it back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def build_experiment(keys: dict[str, Any], where: object) -> Experiment:
    """Validate the keys of an experiment.

    Args:
        keys: As in the YAML file.
        where: What an error names: the file, or the command line.

    Raises:
        UnknownNameError: A key that there is not, with the nearest ones.
        UserError: A key that is missing or has a wrong value.
    """
    try:
        return Experiment.model_validate(keys)
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            inside = ModelChoice if path[0] == "models" else Experiment
            raise UnknownNameError("key", path[-1], inside.model_fields, where=where) from error
        message = first["msg"].removeprefix("Value error, ")
        raise UserError("a key of the experiment is wrong", where=f"{where}, {'.'.join(path)}", remedy=message) from error


def experiment_keys(name: str) -> dict[str, Any]:
    """The keys of an experiment's file.

    Args:
        name: A YAML file, a folder that `formless run` wrote, or a shipped experiment's name.

    Raises:
        UnknownNameError: Neither a file nor a shipped experiment.
        UserError: The file cannot be read, or holds no mapping.
    """
    path = Path(name)
    shipped = {file.removesuffix(".yaml"): text for file, text in shipped_yaml("experiments")}
    if (path / EXPERIMENT).is_file():
        path = path / EXPERIMENT
    if not path.is_file():
        if name not in shipped:
            raise UnknownNameError("experiment", name, shipped, remedy="A YAML file, or a folder of runs, works too")
        return _parsed(shipped[name], name)
    try:
        return {"name": path.stem} | _parsed(path.read_text("utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("the experiment cannot be read", where=path, remedy=str(error).splitlines()[0]) from error


def _parsed(text: str, where: object) -> dict[str, Any]:
    try:
        keys = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError("the experiment is no YAML", where=where, remedy=str(error)) from error
    if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys):
        raise UserError("the experiment is no mapping of keys to values", where=where, remedy=_HOW)
    return keys

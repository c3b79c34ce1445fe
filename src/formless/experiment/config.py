"""`Experiment`: what is measured, as a YAML file or the command line describes it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from formless.data.ort import SAMPLE
from formless.errors import UnknownNameError, UserError
from formless.models.settings import shipped_yaml
from formless.store import ExperimentFolder, read_file
from formless.strict_yaml import load_yaml

RETAIN_MODEL = "retain_model"
"""The label of the runs that measure an experiment's retain model."""

_MAX_BYTES = 2**20
_HOW = "docs/reference/experiments.md lists the keys"


class ModelChoice(BaseModel):
    """A model, and how it is loaded.

    Args:
        name: Short name, folder or hub id.
        dtype: As in `formless.load`.
        device: As in `formless.load`. The device is no part of a run's identity.
        revision: The revision of a hub id.
        trust_remote_code: Whether code from the model's repository may run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False


class MethodChoice(BaseModel):
    """A method and those of its settings that differ from the defaults of the method and the model.

    Args:
        method: A name that `formless methods` lists.
        label: The name in folders and tables; the method's own name unless given.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    method: str = Field(min_length=1)
    label: str = Field(default="", pattern=r"^(\w[\w.+-]*)?$")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings: every other key."""
        return self.model_extra or {}


class Experiment(BaseModel):
    """A grid of runs: models x methods x targets x seeds.

    Args:
        name: A name for the reader.
        models: One model or more.
        retain_model: A model of the same architecture that was trained without the forget set; it is measured too, and metrics
            that compare with it are absent without it.
        methods: One method or more, with different labels. Several entries of one method are a sweep over its settings.
        data: A data folder, or `sample`.
        targets: `all`, numbers such as `1-12` or `1,4,7`, or a list of names.
        seeds: Seeds for methods that use one; the seed of the method's settings unless given.
        suite: The tasks, as in `formless eval`.
        limit: The largest number of rows per task.
        direct_answer: Add the direct-answer line to prompts; depends on the model's family unless given.
        sub_token: Ask letter by letter `zero-shot` or `one-shot`; depends on the model's family unless given.
        protocol: `published` words prompts as the published code does where it differs; `open-unlearning` asks question sets
            as open-unlearning does.
        save_edits: Keep every edit beside its record.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "experiment"
    models: tuple[ModelChoice, ...] = Field(min_length=1)
    retain_model: ModelChoice | None = None
    methods: tuple[MethodChoice, ...] = Field(min_length=1)
    data: str = SAMPLE
    targets: str | int | tuple[str | int, ...] = "all"
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = ()
    suite: str = "ort"
    limit: int | None = Field(default=None, ge=1, le=10**9)
    direct_answer: bool | None = None
    sub_token: Literal["zero-shot", "one-shot"] | None = None
    protocol: Literal["ours", "published", "open-unlearning"] | None = None
    save_edits: bool = True

    @field_validator("targets", "seeds", "limit", mode="before")
    @classmethod
    def _refuse_true_for_a_number(cls, value: Any) -> Any:
        """Refuse true and false, which pydantic would read as 1 and 0."""
        if any(isinstance(each, bool) for each in (value if isinstance(value, list | tuple) else [value])):
            raise ValueError("true and false are no numbers")
        return value

    @field_validator("models", "methods", mode="before")
    @classmethod
    def _by_name(cls, value: Any, field: ValidationInfo) -> Any:
        """Turn a bare name into a mapping, and a bare entry into a list."""
        key = "name" if field.field_name == "models" else "method"
        entries = value if isinstance(value, list | tuple) else [value]
        return [{key: entry} if isinstance(entry, str) else entry for entry in entries]

    @field_validator("retain_model", mode="before")
    @classmethod
    def _retain_model_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("methods")
    @classmethod
    def _with_labels(cls, methods: tuple[MethodChoice, ...]) -> tuple[MethodChoice, ...]:
        labelled = tuple(method.model_copy(update={"label": method.label or method.method}) for method in methods)
        labels = [method.label for method in labelled]
        if RETAIN_MODEL in labels:
            raise ValueError(f"the label {RETAIN_MODEL!r} is that of the retain model: give another one")
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            raise ValueError(f"two methods are labelled {twice!r}: give one of them another label")
        return labelled

    @property
    def style(self) -> dict[str, Any]:
        """The settings of `PromptStyle` that differ from the model's defaults."""
        chosen = {"direct_answer": self.direct_answer, "sub_token": self.sub_token, "protocol": self.protocol}
        return {name: value for name, value in chosen.items() if value is not None}

    def as_yaml(self) -> str:
        """Return the whole experiment, defaults too, as `experiment_keys` reads it."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def build_experiment(keys: dict[str, Any], where: object) -> Experiment:
    """Validate the keys of an experiment.

    Args:
        keys: The keys of the YAML file.
        where: The source, for errors: the file, or the command line.

    Raises:
        UnknownNameError: A key is unknown; the error suggests the nearest ones.
        UserError: A key is missing or has a wrong value.
    """
    try:
        return Experiment.model_validate(keys)
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"]]
        if first["type"] == "extra_forbidden":
            inside = ModelChoice if path[0] in ("models", "retain_model") else Experiment
            raise UnknownNameError("key", path[-1], inside.model_fields, where=where) from error
        message = first["msg"].removeprefix("Value error, ")
        raise UserError("a key of the experiment is wrong", where=f"{where}, {'.'.join(path)}", remedy=message) from error


def experiment_keys(name: str) -> dict[str, Any]:
    """Read the keys of an experiment's file.

    Args:
        name: A YAML file, a folder that `formless run` wrote, or the name of a shipped experiment.

    Raises:
        UnknownNameError: There is no such file or shipped experiment.
        UserError: The file cannot be read, or is not a mapping.
    """
    path = Path(name)
    shipped = {file.removesuffix(".yaml"): text for file, text in shipped_yaml("experiments")}
    if (config := ExperimentFolder(path).config).is_file():
        path = config
    if not os.path.lexists(path) or path.is_dir():
        if name not in shipped:
            raise UnknownNameError("experiment", name, shipped, remedy="A YAML file, or a folder of runs, works too")
        return _parsed(shipped[name], name)
    try:
        return {"name": path.stem} | _parsed(read_file(path, limit=_MAX_BYTES).decode("utf-8"), path)
    except OSError as error:
        raise UserError("the experiment cannot be read", where=path, remedy=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        remedy = f"re-save it as UTF-8 (byte {error.start})"
        raise UserError("the experiment cannot be read as UTF-8", where=path, remedy=remedy) from error


def _parsed(text: str, where: object) -> dict[str, Any]:
    try:
        keys = load_yaml(text)
    except yaml.YAMLError as error:
        raise UserError("the experiment is not YAML", where=where, remedy=str(error)) from error
    if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys):
        raise UserError("the experiment is not a mapping of keys to values", where=where, remedy=_HOW)
    return keys

"""`Run`: one cell of an experiment's grid, known by a hash of what its figures depend on."""

from __future__ import annotations

import hashlib
import json
import re
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel, ConfigDict

from formless.evaluation.record import Record
from formless.experiment.config import ModelChoice

ORIGINAL = "original"
_FORMAT = Record.model_fields["format"].default


class Run(BaseModel):
    """One model, one method with its settings, one target.

    Args:
        model: What is loaded.
        method: As `formless methods` lists it.
        label: What the experiment calls the method with these settings.
        config: Its settings, defaults too; the seed is among them.
        data: The data set.
        target: The target's folder in it.
        subject: The concept.
        suite: What is asked.
        limit: At most so many rows per task.
        style: Settings of the prompts that differ from the model's own.
        inputs: Formless' version, and hashes of what it reads: the model, the target's files, folders that the settings name.
        save_edit: Whether the edit is kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelChoice
    method: str
    label: str
    config: dict[str, Any]
    data: str
    target: str
    subject: str
    suite: str
    limit: int | None
    style: dict[str, Any]
    inputs: dict[str, str]
    save_edit: bool

    @cached_property
    def id(self) -> str:
        """The hash. Labels, devices and where data lie are no part of it: they do not matter to the figures."""
        whole = {
            "model": self.inputs["model"], "dtype": self.model.dtype, "method": self.method, "config": self.config,
            "subject": self.subject, "target": self.target, "suite": self.suite, "limit": self.limit, "style": self.style,
            "inputs": self.inputs, "format": _FORMAT,
        }  # fmt: skip
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def seed(self) -> int | None:
        """The seed of a method that has one."""
        return self.config.get("seed")

    @property
    def keeps_edit(self) -> bool:
        """Whether its folder is to hold an edit; the original model has none."""
        return self.save_edit and self.method != ORIGINAL

    @property
    def title(self) -> str:
        """For people."""
        seed = f" seed {self.seed}" if self.seed is not None else ""
        return f"{self.model.name} {self.label}{seed} {self.target}"

    def folder(self, out: Path) -> Path:
        """Where it lies under an experiment's folder: model, label, target, id."""
        return out / "runs" / self._model_folder() / self.label / self.target / self.id

    def _model_folder(self) -> str:
        """`org/model` -> `org--model`; of any other path its last part and some digits of the weights' hash.

        It looks at nothing but the run: a folder of runs is read from other places, too.
        """
        is_path = self.model.name.count("/") > 1 or self.model.name.startswith((".", "/", "~")) or "\\" in self.model.name
        name = f"{PurePath(self.model.name).name}-{self.inputs['model'][:6]}" if is_path else self.model.name.replace("/", "--")
        return re.sub(r"[^\w.+-]", "_", name) or "model"

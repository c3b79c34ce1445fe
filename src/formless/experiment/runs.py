"""`Run`: one cell of an experiment's grid, known by a hash of what its result depends on, and `plan.json`, a list of runs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from formless.errors import DataError, UserError
from formless.experiment.config import RETAIN_MODEL, ModelChoice
from formless.store import PLAN_SCHEMA, ExperimentFolder, RunFolder, read_document, read_json, refuse_newer, write_document

ORIGINAL = "original"
"""The method that measures the model without any edit."""

RESULTS_VERSION = 3
"""Part of the id of every run and of every cached record of an original model.

Raise it by one, by hand, in a release in which the same inputs give other numbers: another formula or default in a method,
other prompts, scoring or metrics in a task. All finished runs are then computed again. A release that keeps the numbers keeps
the version, and so the finished runs.
"""

OTHER_RUNS = "runs in the folder are not part of the experiment that was started there last"


_ADDED = (
    ("mentions", "name"), ("protect", "none"), ("reverse_layers", None), ("reverse_strength", 2.0), ("reverse_ridge", 0.05),
    ("trains_on", "auto"),
)  # fmt: skip
"""Settings that methods got later, with the value that changes nothing: runs keep the ids that they had."""


class Run(BaseModel):
    """One model, one method with its settings, one target.

    Args:
        model: The model and how it is loaded.
        method: A name that `formless methods` lists.
        label: The experiment's name for the method with these settings.
        config: All settings of the method, defaults and seed too.
        data: The data set.
        target: The target's folder in the data set.
        subject: The concept.
        suite: The tasks.
        limit: The largest number of rows per task.
        style: Settings of the prompts that differ from the model's defaults.
        inputs: Hashes of what the run reads: the model, the target's files, files and folders that settings name.
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
        """A hash of everything that determines the result. The label, the device and the data's location do not."""
        config = {
            name: value
            for name, value in self.config.items()
            if name != "report_to" and f"setting {name}" not in self.inputs  # of a place, its content counts
            if (name, value) not in _ADDED
        }
        whole = {
            "results": RESULTS_VERSION, "model": self.inputs["model"], "dtype": self.model.dtype, "method": self.method,
            "config": config, "subject": self.subject, "target": self.target, "suite": self.suite, "limit": self.limit,
            "style": self.style, "inputs": self.inputs,
        }  # fmt: skip
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def seed(self) -> int | None:
        """The seed, if the method uses one."""
        return self.config.get("seed")

    @property
    def is_retain_model(self) -> bool:
        """Whether it measures the experiment's retain model, with which derived tasks of the other runs compare."""
        return (self.method, self.label) == (ORIGINAL, RETAIN_MODEL)

    @property
    def keeps_edit(self) -> bool:
        """Whether the run's folder must hold an edit; the original model has none."""
        return self.save_edit and self.method != ORIGINAL

    @property
    def title(self) -> str:
        """The run in words."""
        seed = f" seed {self.seed}" if self.seed is not None else ""
        return f"{self.model.name} {self.label}{seed} {self.target}"

    def folder(self, out: Path) -> RunFolder:
        """Return the run's folder under an experiment's folder."""
        return ExperimentFolder(out).run(self._model_folder(), self.label, self.target, self.id)

    def _model_folder(self) -> str:
        """Return `org--model` for `org/model`, and for any other path its last part and six digits of the weights' hash.

        The name depends on the run alone: a folder of runs can be read on another machine.
        """
        is_path = self.model.name.count("/") > 1 or self.model.name.startswith((".", "/", "~")) or "\\" in self.model.name
        name = f"{PurePath(self.model.name).name}-{self.inputs['model'][:6]}" if is_path else self.model.name.replace("/", "--")
        return re.sub(r"[^\w.+-]", "_", name) or "model"


class _Plan(BaseModel):
    """plan.json."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[2] = PLAN_SCHEMA
    runs: tuple[Run, ...]


def write_plan(out: Path, runs: Sequence[Run]) -> None:
    """Write an experiment's runs to its folder.

    Raises:
        OutputError: The file cannot be written.
    """
    write_document(ExperimentFolder(out).plan, _Plan(runs=tuple(runs)).model_dump(mode="json"))


def read_plan(out: Path) -> tuple[Run, ...]:
    """Return the runs of the experiment that was last started in a folder.

    Raises:
        DataError: No experiment was started there, or the plan has another schema version.
    """
    path = ExperimentFolder(out).plan
    remedy = "give a folder that `formless run --out` wrote"
    try:
        return _Plan.model_validate(read_document(path, PLAN_SCHEMA)).runs
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError("no experiment was started in this folder", where=out, remedy=remedy) from error
    except OSError as error:
        raise DataError("the plan cannot be read", where=path, remedy=(error.strerror or str(error)).lower()) from error
    except UserError:
        raise
    except ValueError as error:
        reason = error_place(error) if isinstance(error, ValidationError) else str(error)
        remedy = "start the experiment again with `formless run`; records of older runs can be read one by one"
        what = "the plan cannot be read, or is of an older version of Formless"
        raise DataError(what, where=f"{path}, {reason}", remedy=remedy) from error


def error_place(error: ValidationError) -> str:
    """Return the first field that does not fit and why, e.g. `field seconds: Field required`."""
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    return f"field {name}: {first['msg']}" if name else str(first["msg"])


def refuse_newer_plan(out: Path) -> None:
    """Refuse a folder whose plan a newer version of Formless wrote.

    Raises:
        DataError: The plan's schema version is newer.
    """
    path = ExperimentFolder(out).plan
    try:
        content = read_json(path)
    except (OSError, ValueError):  # not there, or damaged: the sweep writes it anew
        return
    refuse_newer(content, PLAN_SCHEMA, path)


def count_others(out: Path, plan: Iterable[Run]) -> int:
    """Count the runs that have ended in a folder and are not part of a plan."""
    known = {run.id for run in plan}
    return sum(run_id not in known for run_id, _ in ExperimentFolder(out).ended())

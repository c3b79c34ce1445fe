"""Folders, file names and schema versions of everything that Formless writes.

```text
<experiment>/                   ExperimentFolder
  experiment.yaml               the experiment, as it can be run again
  plan.json                     its runs
  .lock                         held while a sweep works
  report.html
  recipe.yaml                   what `formless tune` chose, with the evidence
  frontier.html
  attacks.html                  what `formless attack` found
  runs/<model>/<label>/<target>/<id>/     RunFolder
    run.json                    how the run ended; written last
    record.json                 the evaluation
    original.json               the original model's, if the edit was trained on neighbors
    edit/                       EditFolder
    strengths/<strength>.json   the evaluation of the edit at another strength, if `formless frontier` measured it
    attacks/<name>.json         the evaluation of the edited model after an attack on its weights, by `formless attack`
    log.txt
    progress.json               while the run is under way
    training/                   CheckpointsFolder, until the run is complete
<model>/finetuning.json         FINETUNING: how `formless finetune` made the model
<statistics>/layer_<l>.safetensors        StatisticsFolder
<tasks>/formless.yaml, ...      TasksFolder: tasks for lm-evaluation-harness
$FORMLESS_CACHE/                original records, bundled models, converted GGUF files, null spaces of sampled texts
```
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from formless.errors import UserError
from formless.store.documents import read_json

# The schema version of each kind of file, its key `format`. Raise one when older code can no longer read what is written.
RECORD_SCHEMA: Final = 4
RESULT_SCHEMA: Final = 2
PLAN_SCHEMA: Final = 2
EDIT_SCHEMA: Final = 2
STATISTICS_SCHEMA: Final = 1

FINETUNING: Final = "finetuning.json"
"""The file that every model has which `formless finetune` wrote."""


@dataclass(frozen=True)
class EditFolder:
    """A saved edit."""

    path: Path

    INFO = "edit.json"
    """The file that every edit has."""

    @property
    def info(self) -> Path:
        """What was done, how and with what."""
        return self.path / self.INFO

    @property
    def weights(self) -> Path:
        """The factors of a low-rank edit, under the name that PEFT expects."""
        return self.path / "adapter_model.safetensors"

    @property
    def adapter_config(self) -> Path:
        """PEFT's description of a low-rank edit."""
        return self.path / "adapter_config.json"

    @property
    def differences(self) -> Path:
        """The weight differences of an edit of all weights."""
        return self.path / "differences.safetensors"


@dataclass(frozen=True)
class CheckpointsFolder:
    """The checkpoints of an unfinished training run; transformers' Trainer names the folder of each."""

    path: Path

    @property
    def identity(self) -> Path:
        """What is trained on what."""
        return self.path / "training.json"

    @classmethod
    def beside(cls, edit: Path) -> CheckpointsFolder:
        """The checkpoints of a training run whose edit goes to a folder."""
        return cls(edit.absolute().with_name(f".{edit.name}.training"))

    def checkpoint(self, step: int) -> Path:
        """The checkpoint after a step."""
        return self.path / f"checkpoint-{step}"

    @staticmethod
    def curves(checkpoint: Path) -> Path:
        """The losses up to a checkpoint; written last, so a checkpoint with curves is whole."""
        return checkpoint / "curves.json"


@dataclass(frozen=True)
class RunFolder:
    """Everything about one run."""

    path: Path

    @property
    def result(self) -> Path:
        """How the run ended; written last."""
        return self.path / "run.json"

    @property
    def record(self) -> Path:
        """The evaluation."""
        return self.path / "record.json"

    @property
    def original(self) -> Path:
        """The original model's evaluation without the neighbors that the edit was trained on, if it was trained on any."""
        return self.path / "original.json"

    @property
    def edit(self) -> Path:
        """The edit's folder."""
        return self.path / "edit"

    @property
    def strengths(self) -> Path:
        """The evaluations of the edit at other strengths."""
        return self.path / "strengths"

    def strength(self, strength: float) -> Path:
        """The evaluation of the edit at a strength; that at 1 is the run's own record."""
        return self.record if strength == 1 else self.strengths / f"{strength!r}.json"

    @property
    def attacks(self) -> Path:
        """The evaluations of the model after attacks on its weights."""
        return self.path / "attacks"

    def attack(self, name: str) -> Path:
        """The evaluation after an attack; the name says which one, with which settings."""
        return self.attacks / f"{name}.json"

    @property
    def log(self) -> Path:
        """What happened, warnings and tracebacks."""
        return self.path / "log.txt"

    @property
    def progress(self) -> Path:
        """How far the run is, while it is under way."""
        return self.path / "progress.json"

    @property
    def checkpoints(self) -> Path:
        """What an unfinished training run goes on from."""
        return self.path / "training"

    def unfinished(self) -> list[Path]:
        """Files and folders that were being written when a process died."""
        return list(self.path.glob(".*.part"))


@dataclass(frozen=True)
class ExperimentFolder:
    """What `formless run` writes."""

    path: Path

    @property
    def config(self) -> Path:
        """The experiment, defaults too."""
        return self.path / "experiment.yaml"

    @property
    def plan(self) -> Path:
        """The runs of the experiment that was last started here."""
        return self.path / "plan.json"

    @property
    def lock(self) -> Path:
        """Held while a sweep works on the folder."""
        return self.path / ".lock"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    @property
    def recipe(self) -> Path:
        """The model's recipe that `formless tune` writes."""
        return self.path / "recipe.yaml"

    @property
    def frontier(self) -> Path:
        """The page of forgetting against retention."""
        return self.path / "frontier.html"

    @property
    def attacks(self) -> Path:
        """The page about attacks on the weights."""
        return self.path / "attacks.html"

    @property
    def runs(self) -> Path:
        """The folder of all runs."""
        return self.path / "runs"

    def run(self, model: str, label: str, target: str, run_id: str) -> RunFolder:
        """The folder of one run."""
        return RunFolder(self.runs / model / label / target / run_id)

    def unfinished(self) -> list[Path]:
        """Files that were being written when a process died."""
        return list(self.path.glob(".*.part"))

    def stranger(self) -> Path | None:
        """Return something in the folder that no experiment's folder holds; None if the folder is ours, empty or not there.

        A folder with a plan of ours may hold more, such as notes. Without one that can be read, it is ours only if it holds
        nothing but what Formless writes, `experiment.yaml` among it: a sweep that is killed as it begins leaves no more.
        """
        try:
            found = sorted(path for path in self.path.iterdir() if path != self.lock and not fnmatch(path.name, ".*.part"))
        except OSError:  # not there, or no folder: whoever writes to it says so
            return None
        try:
            plan = read_json(self.plan)
        except (OSError, ValueError):
            plan = None
        if not found or (isinstance(plan, dict) and {"format", "runs"} <= plan.keys()):
            return None
        ours = (self.config, self.plan, self.report, self.frontier, self.attacks, self.runs)
        other = next((path for path in found if path not in ours), None)
        return other or (None if self.config.is_file() else found[0])

    def ended(self) -> Iterator[tuple[str, RunFolder]]:
        """Id and folder of every run that has ended, of earlier experiments too, in the order of the folders' names."""
        for result in sorted(self.runs.glob("*/*/*/*/run.json")):
            yield result.parent.name, RunFolder(result.parent)


@dataclass(frozen=True)
class DemoFolder:
    """What `formless demo` writes."""

    path: Path

    REPORT = "report.html"
    """The file that every such folder has."""

    @property
    def edit(self) -> Path:
        """The edit's folder."""
        return self.path / "edit"

    @property
    def original(self) -> Path:
        """The record of the original model."""
        return self.path / "original.json"

    @property
    def unlearned(self) -> Path:
        """The record of the model with the edit."""
        return self.path / "unlearned.json"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / self.REPORT


@dataclass(frozen=True)
class TasksFolder:
    """Tasks for lm-evaluation-harness, as `formless export-tasks` writes them."""

    path: Path

    GROUP = "formless.yaml"
    """The file that every such folder has: the group of all tasks."""

    MODULE = "formless_tasks"
    """The Python module beside the tasks."""

    @property
    def functions(self) -> Path:
        """The documents and metrics of the tasks, in Python."""
        return self.path / f"{self.MODULE}.py"

    @property
    def readme(self) -> Path:
        """How to run the tasks, and what was left out."""
        return self.path / "README.md"

    def task(self, name: str) -> Path:
        """The configuration of a task or a group."""
        return self.path / f"{name}.yaml"

    def documents(self, name: str) -> Path:
        """The documents of a task."""
        return self.path / f"{name}.jsonl"


@dataclass(frozen=True)
class StatisticsFolder:
    """Null spaces of a model's layers."""

    path: Path

    @property
    def mark(self) -> str:
        """The name of a file by which such a folder is known: a basis that is there, or else that of the first layer."""
        return next((path.name for path in sorted(self.path.glob("layer_*.safetensors"))), self.basis(0).name)

    def basis(self, layer: int) -> Path:
        """A basis as `formless stats` writes it."""
        return self.path / f"layer_{layer}.safetensors"

    def published(self, layer: int) -> Path:
        """A projection matrix as the paper's authors publish it."""
        return self.path / f"null_space_project_layer_{layer}.pt"

    @property
    def unfinished(self) -> Path:
        """The sums of an unfinished computation, beside the folder."""
        return self.path.with_name(f".{self.path.name}.partial.safetensors")


def cache_folder() -> Path:
    """The folder for bundled models, original records and null spaces: `$FORMLESS_CACHE`, or `~/.cache/formless`.

    Raises:
        UserError: No home folder is known.
    """
    if named := os.environ.get("FORMLESS_CACHE"):
        return Path(named)
    try:
        return Path.home() / ".cache" / "formless"
    except RuntimeError as error:
        raise UserError("no home folder is known", where="HOME", remedy="set FORMLESS_CACHE to a folder") from error


def original_records_folder() -> Path:
    """The cached records of original models."""
    return cache_folder() / "original"


def original_record_path(key: str) -> Path:
    """The cached record of an original model; the key is a hash of the model, the questions and how they are asked."""
    return original_records_folder() / f"{key}.json"


def sampled_null_spaces_folder(key: str) -> Path:
    """The kept null spaces of texts that a model samples; the key is a hash of the model and how they are computed."""
    return cache_folder() / "null_spaces" / key


def bundled_model_folder(package: str, version: str) -> Path:
    """The converted weights of a model that comes as a package."""
    return cache_folder() / f"{package}-{version}"


def bundled_gguf_folder(folder: Path) -> Path:
    """The GGUF file of a bundled model, beside the folder of its converted weights."""
    return folder.with_name(f"{folder.name}-gguf")


def converted_gguf_folder(sha256: str) -> Path:
    """The converted weights of a GGUF file; the file's hash names them, so a changed file has another folder."""
    return cache_folder() / f"gguf-{sha256[:32]}"


def download_folder(folder: Path) -> Path:
    """What has been downloaded for a folder of the cache that is not there yet."""
    return folder.with_name(f".{folder.name}.download")


def lock_path(folder: Path) -> Path:
    """The file that is locked while a folder of the cache is built."""
    return folder.with_name(f".{folder.name}.lock")


def cached_files_path(folder: Path) -> Path:
    """The sizes, times and hashes of a cached folder's files, in that folder."""
    return folder / "files.json"

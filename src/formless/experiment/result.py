"""`run.json`: how a run ended. It is written last of a run's files, so what it lists is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from formless import provenance
from formless.data.rows import Split
from formless.errors import UserError
from formless.evaluation.record import Record
from formless.evaluation.statistics import Metric
from formless.experiment.runs import Run, error_place
from formless.store import RESULT_SCHEMA, EditFolder, RunFolder, file_sha256, read_document, write_document

LOG_END = 40
"""Lines of the log that the result of a failed run repeats."""

Cause = Literal["refused", "error", "crash", "timeout", "stuck"]
"""Why a run failed: an error that the user can mend, an unforeseen exception, a dead process, too much time, no progress."""

_LOG_BYTES = 64 * 1024
_HASHED_BYTES = 64 * 2**20


class Memory(BaseModel):
    """The peak memory of a run, in bytes.

    Args:
        resident: Resident memory of the process, the model included.
        since: Whether `resident` is the peak of this run (Linux) or of its whole process.
        gpu: Tensors on CUDA devices during the run, which are by far the most of what a GPU holds; null without a GPU.
    """

    model_config = ConfigDict(frozen=True)

    resident: int
    since: Literal["run", "process"]
    gpu: int | None


class RunMetric(Metric):
    """A metric of a run, with its key.

    Args:
        task: Short name of the task.
        split: Forget or neighbor items; null for a task about neither.
        metric: Short name of the metric.
        group: The part of the task's items that the metric is over; null for all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    split: Split | None
    metric: str
    group: str | None


class RunFile(BaseModel):
    """One file of a run, as it was when run.json was written.

    Every file up to `_HASHED_BYTES` is hashed whenever a result is read. A larger one, the weight differences of a full
    training run, is hashed only where its time of modification is not the recorded one, as in a copied folder: reading
    gigabytes for every `formless status` would take minutes, and whatever writes into a file changes that time.

    Args:
        size: Bytes.
        sha256: Of the content; None in a run.json of an earlier version, which has sizes only.
        modified: Time of the last modification, nanoseconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0)
    sha256: str | None = None
    modified: int | None = None

    @classmethod
    def of(cls, path: Path) -> RunFile:
        """Return what a file is now."""
        state = path.stat()
        return cls(size=state.st_size, sha256=file_sha256(path), modified=state.st_mtime_ns)

    def damage(self, path: Path) -> str | None:
        """Return why a file is not this one any more; None if it is."""
        if not path.is_file():
            return "is missing" if not path.exists() else "is no plain file"
        try:
            state = path.stat()
            if state.st_size != self.size:
                return f"is damaged: it has {state.st_size:,} bytes, not {self.size:,}"
            if self.sha256 is None or (self.size > _HASHED_BYTES and state.st_mtime_ns == self.modified):
                return None
            return None if file_sha256(path) == self.sha256 else "is damaged: its content has changed"
        except OSError as error:
            return f"cannot be read: {(error.strerror or str(error)).lower()}"


@dataclass(frozen=True)
class Damage:
    """Why the result of a run that has ended does not count.

    Args:
        reason: The file and what is wrong with it, in one line.
    """

    reason: str


class RunResult(BaseModel):
    """How one run ended.

    Args:
        id: The run's id.
        status: Whether the run is complete, with a record, or failed.
        cause: Why the run failed.
        reason: The error of a failed run in one line.
        log_end: The last lines of a failed run's log.
        attempts: How often the run was started in this sweep.
        run: The run with all its settings.
        metrics: The metrics that have a value, each with its confidence interval and number of items.
        timings: Seconds of `loading` (0 if the model was loaded before), `unlearning`, `evaluating`, `saving`, and `total`.
        memory: The peak.
        model_fingerprint: A hash of the model's weights.
        files: The run's files with their sizes and hashes: records, and the files of the edit.
        code: The commit of Formless, if it runs from a repository.
        versions: The versions of packages.
        hardware: The machine.
        started: The start of the last attempt, UTC.
        finished: The end, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2] = RESULT_SCHEMA
    id: str
    status: Literal["complete", "failed"]
    cause: Cause | None = None
    reason: str | None = None
    log_end: list[str] = []
    attempts: int
    run: Run
    metrics: list[RunMetric] = []
    timings: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    memory: Memory | None = None
    model_fingerprint: str | None = None
    files: dict[str, RunFile] = {}
    code: provenance.Code | None
    versions: dict[str, str]
    hardware: dict[str, str]
    started: str
    finished: str

    @field_validator("files", mode="before")
    @classmethod
    def _with_sizes_only(cls, files: Any) -> Any:
        """Accept the bare sizes that earlier versions wrote."""
        if not isinstance(files, dict):
            return files
        return {name: {"size": file} if type(file) is int else file for name, file in files.items()}

    @property
    def is_complete(self) -> bool:
        """Whether the run is complete."""
        return self.status == "complete"

    def save(self, folder: RunFolder) -> None:
        """Write run.json atomically.

        Raises:
            OutputError: The file cannot be written.
        """
        write_document(folder.result, self.model_dump(mode="json"))


def load_result(folder: RunFolder, run: Run | None = None) -> RunResult | None:
    """Return how a run ended, or None if it has not ended or its files are not those that run.json lists.

    Args:
        folder: The run's folder.
        run: The run that is expected there; any run unless given.

    Raises:
        DataError: A newer version of Formless wrote the result.
    """
    found = check_result(folder, run)
    return found if isinstance(found, RunResult) else None


def check_result(folder: RunFolder, run: Run | None = None) -> RunResult | Damage | None:
    """Return how a run ended, or what is damaged, or None if it has not ended or the folder is another run's.

    Args:
        folder: The run's folder.
        run: The run that is expected there; any run unless given.

    Raises:
        DataError: A newer version of Formless wrote the result.
    """
    try:
        content = read_document(folder.result, RESULT_SCHEMA)
        if type(content.get("format")) is int and content["format"] < RESULT_SCHEMA:
            return None
        result = RunResult.model_validate(content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return Damage(f"{folder.result} cannot be read: {(error.strerror or str(error)).lower()}")
    except ValidationError as error:
        return Damage(f"{folder.result} is damaged, {error_place(error)}")
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        return Damage(f"{folder.result} is damaged: {error}")
    expected = run or result.run
    if expected.id not in (result.id, result.run.id):
        return None
    if result.id != result.run.id:
        return Damage(f"{folder.result} is damaged, its id is not that of its run")
    for name, file in result.files.items():
        if reason := file.damage(folder.path / name):
            return Damage(f"{folder.path / name} {reason}")
    info = EditFolder(folder.edit).info.relative_to(folder.path).as_posix()
    has_edit = not result.is_complete or not expected.keeps_edit or info in result.files
    return result if has_edit else None


def run_files(folder: RunFolder) -> dict[str, RunFile]:
    """Return a complete run's records and its edit's files as they are now."""
    records = [path for path in (folder.record, folder.original) if path.exists()]
    return {path.relative_to(folder.path).as_posix(): RunFile.of(path) for path in (*records, *folder.edit.glob("*"))}


def failed_result(
    run: Run, folder: RunFolder, cause: Cause, reason: str, *, attempts: int, started: str, seconds: float
) -> RunResult:
    """Return the result of a run that failed, with the end of its log."""
    return RunResult(
        id=run.id, status="failed", cause=cause, reason=reason, log_end=_log_end(folder), attempts=attempts, run=run,
        timings={"total": seconds}, code=provenance.code(), versions=provenance.versions(), hardware=provenance.hardware(),
        started=started, finished=provenance.now(),
    )  # fmt: skip


def _log_end(folder: RunFolder) -> list[str]:
    """Return the last lines of a run's log, or no lines if it has no log."""
    try:
        with folder.log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _LOG_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()[-LOG_END:]
    except OSError:
        return []


def run_metrics(record: Record) -> list[RunMetric]:
    """Return the metrics of a record that have a value, as run.json lists them."""
    return [RunMetric(**key._asdict(), **found.model_dump()) for key, found in record.metrics().items()]

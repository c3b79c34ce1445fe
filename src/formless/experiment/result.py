"""`run.json`: how a run ended. It is written last of a run's files, so what it lists is there."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from formless import provenance
from formless.data.target import Split
from formless.evaluation.record import Record
from formless.evaluation.statistics import Metric
from formless.experiment.runs import Run
from formless.store import RESULT_SCHEMA, EditFolder, RunFolder, refuse_newer, write_text

LOG_END = 40
"""Lines of the log that the result of a failed run repeats."""

Cause = Literal["refused", "error", "crash", "timeout", "stuck"]
"""Why a run failed: an error that the user can mend, an unforeseen exception, a dead process, too much time, no progress."""

_LOG_BYTES = 64 * 1024


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
        files: The run's files with their sizes in bytes: records, and the files of the edit.
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
    timings: dict[str, float]
    memory: Memory | None = None
    model_fingerprint: str | None = None
    files: dict[str, int] = {}
    code: provenance.Code | None
    versions: dict[str, str]
    hardware: dict[str, str]
    started: str
    finished: str

    @property
    def is_complete(self) -> bool:
        """Whether the run is complete."""
        return self.status == "complete"

    def save(self, folder: RunFolder) -> None:
        """Write run.json atomically.

        Raises:
            OutputError: The file cannot be written.
        """
        write_text(folder.result, self.model_dump_json(indent=2) + "\n")


def load_result(folder: RunFolder, run: Run | None = None) -> RunResult | None:
    """Return how a run ended, or None if it has not ended or some of its files are missing or cut off.

    Args:
        folder: The run's folder.
        run: The run that is expected there; any run unless given.

    Raises:
        DataError: A newer version of Formless wrote the result.
    """
    try:
        content = folder.result.read_bytes()
    except OSError:
        return None
    try:
        result = RunResult.model_validate_json(content)
    except ValidationError:
        refuse_newer(content, RESULT_SCHEMA, folder.result)
        return None
    run = run or result.run
    try:
        is_whole = all((folder.path / name).stat().st_size == size for name, size in result.files.items())
    except OSError:
        return None
    info = EditFolder(folder.edit).info.relative_to(folder.path).as_posix()
    has_edit = not result.is_complete or not run.keeps_edit or info in result.files
    return result if is_whole and has_edit and result.id == run.id else None


def file_sizes(folder: RunFolder) -> dict[str, int]:
    """Return the sizes, in bytes, of a complete run's records and of its edit's files."""
    records = [path for path in (folder.record, folder.original) if path.exists()]
    return {path.relative_to(folder.path).as_posix(): path.stat().st_size for path in (*records, *folder.edit.glob("*"))}


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

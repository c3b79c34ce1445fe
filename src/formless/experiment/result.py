"""run.json: how a run ended, written last of all its files, so that what it says is there is there."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from formless import provenance, store
from formless.evaluation.record import Record
from formless.experiment.memory import Memory
from formless.experiment.runs import Run
from formless.store import EDIT_INFO

REPORT, RECORD, LOG, EDIT = "run.json", "record.json", "log.txt", "edit"
ORIGINAL_RECORD, UNFINISHED = "original.json", "training"
LOG_END = 40

Cause = Literal["refused", "error", "crash", "timeout", "stuck"]
"""Why a run failed: what the user can mend, an unforeseen exception, the end of its process, too much time, no progress."""

_MOST_LOG = 64 * 1024


class RunReport(BaseModel):
    """How one run ended.

    Args:
        id: The run's hash.
        status: Whether record.json is there, or why not.
        cause: Of a failed run, what kind of failure.
        reason: Of a failed run, one line.
        log_end: Of a failed run, the last lines of its log.
        attempts: How often it was begun in this sweep.
        run: What was to be done, with the whole of the settings.
        metrics: Means of forms and figures of tasks; those that the target has no file for are left out.
        timings: Seconds of `loading` (0 where the model was there), `unlearning`, `evaluating`, `saving`, and `total`.
        memory: The peak.
        model_fingerprint: Of the weights.
        files: What it left, with sizes in bytes: records, and what the edit consists of.
        code: The commit of formless, if it runs from a repository.
        started: When its last attempt began, UTC.
        finished: When it ended, UTC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    id: str
    status: Literal["complete", "failed"]
    cause: Cause | None = None
    reason: str | None = None
    log_end: list[str] = []
    attempts: int
    run: Run
    metrics: dict[str, float] = {}
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
        """Whether all went well."""
        return self.status == "complete"

    def save(self, folder: Path) -> None:
        """Write run.json atomically.

        Raises:
            OutputError: It cannot be written.
        """
        store.write_text(folder / REPORT, self.model_dump_json(indent=2) + "\n")


def load_report(folder: Path, run: Run) -> RunReport | None:
    """How a run ended; nothing where it did not, or where what it left is not all there."""
    try:
        report = RunReport.model_validate_json((folder / REPORT).read_bytes())
        whole = all((folder / name).stat().st_size == size for name, size in report.files.items())
    except (OSError, ValidationError):
        return None
    has_edit = not report.is_complete or not run.keeps_edit or f"{EDIT}/{EDIT_INFO}" in report.files
    return report if whole and has_edit and report.id == run.id else None


def left_by(folder: Path) -> dict[str, int]:
    """The files of a complete run with their sizes in bytes."""
    records = [folder / name for name in (RECORD, ORIGINAL_RECORD) if (folder / name).exists()]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in (*records, *(folder / EDIT).glob("*"))}


def failure(run: Run, folder: Path, cause: Cause, reason: str, *, attempts: int, started: str, seconds: float) -> RunReport:
    """The report of a run that failed, with the end of its log."""
    return RunReport(
        id=run.id, status="failed", cause=cause, reason=reason, log_end=log_end(folder), attempts=attempts, run=run,
        timings={"total": seconds}, code=provenance.code(), versions=provenance.versions(), hardware=provenance.hardware(),
        started=started, finished=provenance.now(),
    )  # fmt: skip


def log_end(folder: Path, lines: int = LOG_END) -> list[str]:
    """The last lines of a run's log; none where there is none."""
    try:
        with (folder / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _MOST_LOG))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        return []


def metrics(record: Record) -> dict[str, float]:
    """`forget_fb`, `neighbor_qa`, `mmlu_accuracy`, `forget_gen_qa_rouge_l`: whatever has a value."""
    forms = {f"{form.split}_{form.form}": form.mean for form in record.forms}
    tasks = {
        "_".join(filter(None, (task.split, task.task, name))): figure.value
        for task in record.tasks
        for name, figure in task.figures.items()
    }
    return {name: value for name, value in (forms | tasks).items() if value is not None}

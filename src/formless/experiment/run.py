"""One run, top to bottom: load, unlearn, evaluate, record."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from formless import provenance
from formless.data.target import Target
from formless.edits.edit import Edit
from formless.errors import DataError, OutputError, UserError
from formless.evaluation.evaluate import Progress, evaluate
from formless.evaluation.record import Record
from formless.experiment.digests import target_files
from formless.experiment.heartbeat import Heartbeat, Phase, Tell
from formless.experiment.logs import run_log
from formless.experiment.memory import Peak
from formless.experiment.original import original_record
from formless.experiment.result import (
    EDIT,
    ORIGINAL_RECORD,
    RECORD,
    REPORT,
    UNFINISHED,
    Cause,
    RunReport,
    failure,
    left_by,
    metrics,
)  # fmt: skip
from formless.experiment.runs import ORIGINAL, Run
from formless.experiment.session import Session
from formless.methods.base import Method
from formless.methods.registry import build_method, method_config, with_checkpoints
from formless.models.lm import LM


@dataclass(frozen=True)
class Outcome:
    """What a run gives: the record of the untouched model, and that of the model with the edit."""

    original: Record
    edited: Record


def measure_edit(
    lm: LM, edit: Edit, target: Target, suite: str = "ort", *, limit: int | None = None, progress: Progress | None = None
) -> Outcome:
    """Evaluate a model on a target without and with an edit; the model is afterwards as before."""
    gone = edit.info.trained_neighbors
    original = original_record(lm, target, suite, limit=limit, without_neighbors=gone, progress=progress)
    with edit.applied(lm):
        edited = evaluate(lm, target, suite, limit=limit, progress=progress)
    return Outcome(original, edited)


def carry_out(run: Run, folder: Path, session: Session, tell: Tell, *, attempt: int = 1) -> RunReport:
    """Do one run in this process and leave everything about it in its folder; run.json is written last.

    Args:
        run: What to do.
        folder: Where; what an earlier attempt left there goes first, all but its log.
        session: The loaded model.
        tell: Told how far it is.
        attempt: Counted from 1.

    Returns:
        The report, of a failure too: an error of one line, or anything unforeseen, whose traceback is in the log.

    Raises:
        OutputError: The folder cannot be written.
    """
    started, start = provenance.now(), time.perf_counter()
    with run_log(folder) as log:
        log(f"attempt {attempt}: {run.title}, run {run.id}")
        _clear(folder)
        heartbeat = Heartbeat(folder, tell)
        try:
            steps = _Steps(heartbeat, start)
            finished = _finished(run, folder, session, steps, attempt=attempt, started=started)
            finished.save(folder)
            log(f"complete after {finished.timings['total']:.1f} s")
        except OutputError as error:  # a full disk would fail every other run too
            log(f"stopped: {error}")
            raise
        except Exception as error:  # a run may fail in any way; the others go on
            cause: Cause = "refused" if isinstance(error, UserError) else "error"
            if isinstance(error, UserError):
                reason = str(error)
                log(f"failed: {reason}")
            else:
                reason = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
                log(traceback.format_exc().rstrip())
                session.forget_model()  # in whatever state it is
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)  # what failed would fail again from there
            seconds = time.perf_counter() - start
            finished = failure(run, folder, cause, reason, attempts=attempt, started=started, seconds=seconds)
            finished.save(folder)
        finally:
            heartbeat.stop()
    return finished


def _finished(run: Run, folder: Path, session: Session, steps: _Steps, *, attempt: int, started: str) -> RunReport:
    """The main path; every error goes to `carry_out`."""
    with steps.step("loading"):
        lm = session.model(run)
    peak = Peak()
    target = session.target(run)
    if target_files(target, run.method, run.suite, run.limit) != run.inputs["target"]:
        remedy = "start the sweep again, which takes them as they are"
        raise DataError("the target's files have changed since the sweep began", where=target.folder, remedy=remedy)
    with steps.heartbeat.watching(lm):
        edit, record, original = _measured(run, folder, lm, target, steps)
    with steps.step("saving"):
        if edit and run.keeps_edit:
            edit.save(folder / EDIT)
        if original:
            original.save(folder / ORIGINAL_RECORD)
        record.save(folder / RECORD)
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    return RunReport(
        id=run.id, status="complete", attempts=attempt, run=run, metrics=metrics(record), timings=steps.timings(),
        memory=peak.read(), model_fingerprint=lm.fingerprint, files=left_by(folder),
        code=provenance.code(), versions=provenance.versions(), hardware=provenance.hardware(),
        started=started, finished=provenance.now(),
    )  # fmt: skip


def _measured(run: Run, folder: Path, lm: LM, target: Target, steps: _Steps) -> tuple[Edit | None, Record, Record | None]:
    """Unlearn and evaluate; the original model has nothing to unlearn, and its record may be known already.

    Where an edit was trained on neighbors, its evaluation leaves them out, and the original is measured without them too.
    """
    progress = steps.heartbeat.progress
    if run.method == ORIGINAL:
        with steps.step("evaluating"):
            return None, original_record(lm, target, run.suite, limit=run.limit, progress=progress), None
    with steps.step("unlearning"):
        edit = _method(run, folder, lm).unlearn(lm, target)
    steps.seconds["unlearning"] = edit.info.seconds  # with the stretches before a kill
    with steps.step("evaluating"):
        if edit.info.trained_neighbors:
            outcome = measure_edit(lm, edit, target, run.suite, limit=run.limit, progress=progress)
            return edit, outcome.edited, outcome.original
        with edit.applied(lm):
            return edit, evaluate(lm, target, run.suite, limit=run.limit, progress=progress), None


def _method(run: Run, folder: Path, lm: LM) -> Method:
    """The method; one that can go on after a kill keeps what it needs for that in the run's folder until it is done."""
    method = build_method(run.method, method_config(lm.settings, run.method, run.config))
    return with_checkpoints(run.method, method, folder / UNFINISHED)


@dataclass
class _Steps:
    """Times the phases of a run and tells of them."""

    heartbeat: Heartbeat
    start: float
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, phase: Phase) -> Iterator[None]:
        """One phase."""
        self.heartbeat.phase(phase)
        begun = time.perf_counter()
        yield
        self.seconds[phase] = time.perf_counter() - begun

    def timings(self) -> dict[str, float]:
        """Seconds by phase, and of all."""
        return self.seconds | {"total": time.perf_counter() - self.start}


def _clear(folder: Path) -> None:
    """Remove what an earlier attempt left, its report first; not an unfinished training, which goes on."""
    for name in (REPORT, RECORD, ORIGINAL_RECORD):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / EDIT, ignore_errors=True)
    for left in folder.glob(".*.part"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()

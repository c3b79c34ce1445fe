"""One run, top to bottom: load, unlearn, evaluate, record, with its log, its times and its peak of memory."""

from __future__ import annotations

import logging
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import resource

import torch
from accelerate.utils.memory import clear_device_cache

from formless import provenance
from formless.data.ort import find_target
from formless.data.target import Target
from formless.edits.edit import Edit
from formless.errors import DataError, OutputError, UserError, system_remedy
from formless.evaluation.evaluate import evaluate
from formless.evaluation.record import Record
from formless.evaluation.task import NOTHING_GIVEN, Given
from formless.experiment.grid import target_files
from formless.experiment.measure import measure_edit, original_record
from formless.experiment.progress import Heartbeat, Phase, ProgressCallback
from formless.experiment.result import Cause, Memory, RunResult, failed_result, run_files, run_metrics
from formless.experiment.runs import ORIGINAL, Run
from formless.methods.base import Method
from formless.methods.registry import build_method, method_config, with_checkpoints, with_progress
from formless.models.lm import LM
from formless.models.loading import load
from formless.models.settings import is_hub_id, prompt_style
from formless.progress import Progress
from formless.store import RunFolder, remove_file, remove_folder

_MARK, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def execute_run(run: Run, folder: RunFolder, session: Session, callback: ProgressCallback, *, attempt: int = 1) -> RunResult:
    """Execute one run in this process and write everything about it to its folder, run.json last.

    Args:
        run: The run.
        folder: The run's folder. What an earlier attempt left is removed first, except its log and its checkpoints.
        session: The model that this process has loaded.
        callback: Called with the progress.
        attempt: The number of the attempt, counted from 1.

    Returns:
        How the run ended. A run that fails has a result too: its error is in one line, its traceback in the log.

    Raises:
        OutputError: The folder cannot be written.
    """
    prepared = session.prepared.pop(run.id, Prepared())
    started, start = provenance.now(), time.perf_counter() - prepared.seconds
    with run_log(folder) as log:
        log(f"attempt {attempt}: {run.title}, run {run.id}")
        if prepared.together > 1:
            log(f"the free answers of {prepared.together} runs were written together")
        _remove_earlier(folder)
        heartbeat = Heartbeat(folder, callback)
        try:
            steps = _Steps(heartbeat, start)
            result = _complete(run, folder, session, steps, prepared, attempt=attempt, started=started)
            result.save(folder)
            log(f"complete after {result.timings['total']:.1f} s")
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
                session.forget_model()  # its state is unknown
            remove_folder(folder.checkpoints)  # from there it would fail again
            seconds = time.perf_counter() - start
            result = failed_result(run, folder, cause, reason, attempts=attempt, started=started, seconds=seconds)
            result.save(folder)
        finally:
            heartbeat.stop()
    return result


def _complete(
    run: Run, folder: RunFolder, session: Session, steps: _Steps, prepared: Prepared, *, attempt: int, started: str
) -> RunResult:
    """Take the main path; `execute_run` handles every error."""
    with steps.step("loading"):
        lm = session.model(run)
    peak = Peak()
    target = session.target(run)
    if target_files(target, run.method, run.config, run.suite, run.limit) != run.inputs["target"]:
        remedy = "start the sweep again, which reads them anew"
        raise DataError("the target's files have changed since the sweep began", where=target.folder, remedy=remedy)
    with steps.heartbeat.watching(lm):
        edit, record, original = _unlearn_and_evaluate(run, folder, lm, target, steps, prepared)
    with steps.step("saving"):
        if edit and run.keeps_edit:
            edit.save(folder.edit)
        if original:
            original.save(folder.original)
        record.save(folder.record)
        remove_folder(folder.checkpoints)
    return RunResult(
        id=run.id, status="complete", attempts=attempt, run=run, metrics=run_metrics(record), timings=steps.timings(),
        memory=peak.read(), model_fingerprint=lm.fingerprint, files=run_files(folder),
        code=provenance.code(), versions=provenance.versions(), hardware=provenance.hardware(),
        started=started, finished=provenance.now(),
    )  # fmt: skip


def _unlearn_and_evaluate(
    run: Run, folder: RunFolder, lm: LM, target: Target, steps: _Steps, prepared: Prepared
) -> tuple[Edit | None, Record, Record | None]:
    """Return the edit, the run's record, and the original model's record if the edit was trained on neighbors.

    The evaluation of such an edit leaves those neighbors out, so the original model is evaluated without them too.
    """
    progress, given = steps.heartbeat.progress, prepared.given
    if run.method == ORIGINAL:
        with steps.step("evaluating", given.seconds):
            return None, original_record(lm, target, run.suite, limit=run.limit, given=given, progress=progress), None
    with steps.step("unlearning"):
        edit = prepared.edit or build_run_method(run, folder, lm, progress).unlearn(lm, target)
    if edit.info.seconds is not None:
        steps.seconds["unlearning"] = edit.info.seconds  # of all attempts, if a training run was resumed
    with steps.step("evaluating", given.seconds):
        if edit.info.trained_neighbors:
            both = measure_edit(lm, edit, target, run.suite, limit=run.limit, progress=progress)
            return edit, both.edited, both.original
        with edit.applied(lm):
            return edit, evaluate(lm, target, run.suite, limit=run.limit, given=given, progress=progress), None


def build_run_method(run: Run, folder: RunFolder, lm: LM, report: Progress) -> Method:
    """Return the method. A training run reports its steps, and keeps checkpoints in the run's folder until it is complete."""
    method = build_method(run.method, method_config(lm.settings, run.method, run.config))
    method = with_progress(run.method, method, report)
    return with_checkpoints(run.method, method, folder.checkpoints)


def _remove_earlier(folder: RunFolder) -> None:
    """Remove what an earlier attempt left, its result first, except the log and the checkpoints."""
    for path in (folder.result, folder.record, folder.original):
        remove_file(path)
    for path in (folder.edit, folder.strengths, folder.attacks, *folder.unfinished()):
        remove_folder(path) if path.is_dir() else remove_file(path)


@dataclass(frozen=True)
class Prepared:
    """What was done for a run before it began, together with other runs.

    Args:
        edit: Its edit.
        given: Responses of its model.
        together: The number of runs whose responses were given together.
    """

    edit: Edit | None = None
    given: Given = NOTHING_GIVEN
    together: int = 0

    @property
    def seconds(self) -> float:
        """The time that it took, which counts as the run's."""
        return self.given.seconds + ((self.edit.info.seconds or 0.0) if self.edit else 0.0)


class Session:
    """What a process keeps from one run to the next: one loaded model, one target, and what was done ahead for later runs.

    Runs come model by model and target by target, so each model is loaded once and each target read once.
    """

    def __init__(self) -> None:
        self.prepared: dict[str, Prepared] = {}  # by the run's id
        self._model: tuple[tuple[Any, ...], LM] | None = None
        self._target: tuple[tuple[str, str], Target] | None = None
        self._refused: dict[tuple[Any, ...], UserError] = {}

    def model(self, run: Run) -> LM:
        """Return the run's model without any edit; free the previous model first.

        Raises:
            UserError: The model cannot be loaded; a second try fails at once.
        """
        key = (run.model, run.inputs.get("model"), *sorted(run.style.items()))
        if self._model and self._model[0] == key:
            return self._model[1]
        if key in self._refused:
            raise self._refused[key].with_traceback(None)
        self.forget_model()
        try:
            lm = _load(run)
            lm.style = prompt_style(lm.style, run.style)
        except UserError as error:
            self._refused[key] = error
            raise
        self._model = key, lm
        return lm

    def target(self, run: Run) -> Target:
        """Return the run's target."""
        key = (run.data, run.target)
        if not self._target or self._target[0] != key:
            self._target = key, find_target(run.data, run.target)
        return self._target[1]

    def forget_model(self) -> None:
        """Free the model's memory and what was made with it; the next run loads its model again."""
        self.prepared.clear()
        if self._model:
            self._model = None
            clear_device_cache(garbage_collection=True)


def _load(run: Run) -> LM:
    choice = run.model
    source, _, commit = run.inputs.get("model", "").partition("@")  # of a hub id, the commit that the run was planned with
    revision = commit if is_hub_id(source) else choice.revision
    return load(
        choice.name, dtype=choice.dtype, device=choice.device, revision=revision, trust_remote_code=choice.trust_remote_code,
        progress=False,
    )  # fmt: skip


@dataclass
class _Steps:
    """Times the phases of a run and reports when each begins."""

    heartbeat: Heartbeat
    start: float
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, phase: Phase, before: float = 0.0) -> Iterator[None]:
        """Time one phase, of which some seconds were spent before."""
        self.heartbeat.phase(phase)
        begun = time.perf_counter()
        yield
        self.seconds[phase] = before + time.perf_counter() - begun

    def timings(self) -> dict[str, float]:
        """Return the seconds of each phase, and of all."""
        return self.seconds | {"total": time.perf_counter() - self.start}


class Peak:
    """Measures the peak of memory from its creation on."""

    def __init__(self) -> None:
        """Reset the system's own peak where a process may do that."""
        try:
            _MARK.write_text("5")  # Linux: sets VmHWM back to what is resident now
            self._since_run = True
        except OSError:
            self._since_run = False
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> Memory:
        """Return the peaks so far."""
        used = [torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count())]
        gpu = sum(used) if used else None
        if self._since_run and (resident := _high_water_mark()) is not None:
            return Memory(resident=resident, since="run", gpu=gpu)
        scale = 1 if sys.platform == "darwin" else 1024
        return Memory(resident=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale, since="process", gpu=gpu)


def _high_water_mark() -> int | None:
    """Return the process's peak of resident memory in bytes, where /proc has it."""
    for line in _STATUS.read_text("utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


class _LogFile(logging.FileHandler):
    """A log file that stays silent if it cannot be written, for example on a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Ignore the error."""


@contextmanager
def run_log(folder: RunFolder) -> Iterator[Callable[[str], None]]:
    """Append to a run's log until the block ends; yield a function that writes a line. Python's warnings go there too.

    Raises:
        OutputError: The log cannot be opened.
    """
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        if folder.log.exists() and not folder.log.is_file():  # to open a named pipe would wait
            raise OSError(0, "it is no plain file")
        handler = _LogFile(folder.log, encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(
            f"cannot write: {reason}", where=folder.log, remedy=system_remedy(error) or "choose another --out"
        ) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("formless.run")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, category, *_, **__: logger.warning("%s: %s", category.__name__, message)
        try:
            yield logger.info
        finally:
            logger.removeHandler(handler)
            handler.close()

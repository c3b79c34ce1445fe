"""The edits of a folder of runs at several strengths: each is measured once, and nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from formless.data.target import Target
from formless.edits.edit import MAX_STRENGTH
from formless.edits.loading import load_edit
from formless.errors import DataError, OutputError, UnknownNameError, UserError
from formless.evaluation.evaluate import evaluate
from formless.evaluation.loading import load_record
from formless.evaluation.record import Record
from formless.evaluation.verification import is_alike
from formless.experiment.grid import target_files
from formless.experiment.result import RunResult, check_result
from formless.experiment.run import Session
from formless.experiment.runs import ORIGINAL, Run, read_plan
from formless.experiment.status import locked
from formless.methods.registry import METHODS
from formless.progress import Progress
from formless.store import RunFolder

STRENGTHS: Final = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""The strengths that are measured unless others are given; 0 is the original model."""

_PARTS = 1000  # of one evaluation, in the progress of all


@dataclass(frozen=True)
class Scalable:
    """A complete run whose edit can have another strength.

    Args:
        run: The run.
        folder: Its folder.
    """

    run: Run
    folder: RunFolder


@dataclass
class Measured:
    """What `measure_strengths` did.

    Args:
        already: Number of records that were there before.
        now: Number of records that it wrote.
        failed: Run and strength of each record that could not be made, and why.
    """

    already: int = 0
    now: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: Measured) -> None:
        """Add what was done in another folder."""
        self.already += other.already
        self.now += other.now
        self.failed += other.failed


def check_strengths(strengths: Collection[float]) -> tuple[float, ...]:
    """Return strengths in order, each once.

    Raises:
        UserError: There is none, or one is not above 0 and at most `MAX_STRENGTH`.
    """
    remedy = f"give numbers above 0 and at most {MAX_STRENGTH:g}; 0 is the original model, which needs no measurement"
    if not strengths:
        raise UserError("no strength is given", where="--strengths", remedy=remedy)
    for strength in strengths:
        if not 0 < strength <= MAX_STRENGTH or math.isnan(strength):
            raise UserError(f"{strength:g} is no strength to measure", where="--strengths", remedy=remedy)
    return tuple(sorted({float(strength) for strength in strengths}))


def scalable_runs(
    out: Path, methods: Collection[str] = (), *, without_weights: str = "without an edit of weights, which alone has a strength"
) -> tuple[list[Scalable], dict[str, str]]:
    """Return the runs of a folder whose edits can have other strengths.

    Args:
        out: A folder that `formless run` wrote.
        methods: Labels of methods; all unless given.
        without_weights: Why an edit of the prompt is left out.

    Returns:
        The runs, and by id why others are left out. Those of the original model are in neither.

    Raises:
        DataError: No experiment was started there.
        UnknownNameError: A label is none of its methods.
    """
    plan = read_plan(out)
    labels = {run.label for run in plan if run.method != ORIGINAL}
    for name in methods:
        if name not in labels:
            raise UnknownNameError("method", name, labels, where="--methods")
    found: list[Scalable] = []
    left_out: dict[str, str] = {}
    for run in plan:
        if run.method == ORIGINAL or (methods and run.label not in methods):
            continue
        folder = run.folder(out)
        if reason := _obstacle(run, folder, without_weights):
            left_out[run.id] = reason
        else:
            found.append(Scalable(run, folder))
    return found, left_out


def _obstacle(run: Run, folder: RunFolder, without_weights: str) -> str | None:
    """Return why a run's edit cannot have another strength; None if it can."""
    if run.method in METHODS and not METHODS[run.method].edits_weights:
        return without_weights
    result = check_result(folder, run)
    if not isinstance(result, RunResult) or not result.is_complete:
        return "failed, missing or damaged"
    return None if run.keeps_edit else "whose edit was not kept (save_edits)"


def strength_record(folder: RunFolder, whole: Record, strength: float) -> Record | None:
    """Return the record of a run's edit at a strength.

    Args:
        folder: The run's folder.
        whole: The run's own record, of strength 1.
        strength: The strength.

    Returns:
        None if it is not there, cannot be read, or is of another edit or of other items.
    """
    if strength == 1:
        return whole
    try:
        record = load_record(folder.strength(strength))
    except DataError:
        return None
    is_right = len(record.edits) == 1 and record.edits[0].get("strength", 1.0) == strength
    return record if is_alike(record, whole) and is_right and _unscaled(record.edits[0]) == _unscaled(whole.edits[0]) else None


def _unscaled(edit: dict[str, Any]) -> dict[str, Any]:
    """Return what an edit of any strength has in common: also the time at which it was made."""
    return {name: value for name, value in edit.items() if name not in ("strength", "layers")}


def measure_strengths(
    out: Path,
    strengths: Sequence[float] = STRENGTHS,
    *,
    methods: Collection[str] = (),
    progress: Progress = lambda _step, _done, _total: None,
) -> Measured:
    """Evaluate the edits of a folder of runs at several strengths, as their runs did at strength 1, in this process.

    Each record is written whole into its run's folder, so that a repeated call measures the rest only. A record that cannot be
    made, for example because a model gives NaN at a high strength, is noted and the others follow.

    Args:
        out: A folder that `formless run` wrote.
        strengths: As `check_strengths` returns them.
        methods: Labels of methods; all unless given.
        progress: Called with run and strength, the work done and all work.

    Raises:
        DataError: No experiment was started there.
        OutputError: A sweep works on the folder, or it cannot be written.
    """
    runs, _ = scalable_runs(out, methods)
    done = Measured()
    with locked(out, 1):
        work = [(one, missing) for one in runs if (missing := _missing(one, strengths, done))]
        session, total, count = Session(), sum(len(missing) for _, missing in work), 0
        for one, missing in work:
            for strength in missing:
                title = f"{one.run.title}, strength {strength:g}"
                try:
                    _measure(one, strength, session, _part_of(progress, title, count, total))
                    done.now += 1
                except OutputError:
                    raise
                except UserError as error:
                    done.failed.append((title, str(error)))
                count += 1
    return done


def _missing(one: Scalable, strengths: Sequence[float], done: Measured) -> list[float]:
    """Return the strengths without a record; count the others."""
    whole = load_record(one.folder.record)
    missing = [strength for strength in strengths if strength_record(one.folder, whole, strength) is None]
    done.already += len(strengths) - len(missing)
    return missing


def _part_of(progress: Progress, title: str, before: int, total: int) -> Progress:
    """Return the callback of one evaluation among several."""

    def report(_step: str, done: int, whole: int) -> None:
        progress(title, _PARTS * before + _PARTS * done // max(whole, 1), _PARTS * total)

    return report


def _measure(one: Scalable, strength: float, session: Session, progress: Progress) -> None:
    run, whole = one.run, load_record(one.folder.record)
    lm, target = session.model(run), session.target(run)
    refuse_other_files(run, target)
    edit = load_edit(one.folder.edit, foreign=False).scaled(strength)
    progress("", 0, 1)
    with edit.applied(lm):
        record = evaluate(lm, target, run.suite, limit=run.limit, progress=progress)
    refuse_other_items(whole, record)
    record.save(one.folder.strength(strength))


def refuse_other_files(run: Run, target: Target) -> None:
    """Refuse a target whose files are not those that the run read.

    Raises:
        DataError: They have changed.
    """
    if target_files(target, run.method, run.config, run.suite, run.limit) != run.inputs["target"]:
        raise DataError("the target's files have changed since the run", where=target.folder, remedy="repeat `formless run`")


def refuse_other_items(whole: Record, record: Record) -> None:
    """Refuse a record that asked other items than the run's own.

    Raises:
        DataError: The digests differ.
    """
    if record.probes_digest != whole.probes_digest:
        remedy = "repeat `formless run` in a new folder"
        raise DataError("the items are not those of the run's record", where=record.target, remedy=remedy)

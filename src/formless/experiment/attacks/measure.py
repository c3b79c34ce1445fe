"""The edits of a folder of runs under attacks on the weights: each attacked model is evaluated once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from formless.data.ort import find_target
from formless.edits.loading import load_edit
from formless.errors import DataError, OutputError, UnknownNameError, UserError
from formless.evaluation.evaluate import run_plan
from formless.evaluation.loading import load_record
from formless.evaluation.plan import make_plan
from formless.evaluation.record import Record
from formless.evaluation.verification import is_alike
from formless.experiment.attacks.attack import Attack, AttackSettings, Case, Point, UnfitError
from formless.experiment.attacks.records import attacked_record, excluded_facts, place
from formless.experiment.frontier import Measured, refuse_other_files, refuse_other_items, scalable_runs
from formless.experiment.result import RunResult, check_result
from formless.experiment.run import Session
from formless.experiment.runs import ORIGINAL, Run, read_plan
from formless.experiment.status import locked
from formless.progress import Progress
from formless.store import RunFolder

PARTS = 1000  # of the work on one attack of one run, in the progress of all

_NO_WEIGHTS = "without an edit of weights: an edit of the prompt leaves them as they are"
_NO_ORIGINAL = "without the original model's record"
_OTHER_ITEMS = "whose original model was asked other items"


@dataclass(frozen=True)
class Attackable:
    """A complete run that can be attacked.

    Args:
        run: The run.
        folder: Its folder.
        original: The original model's record.
    """

    run: Run
    folder: RunFolder
    original: Path

    def load(self) -> Case:
        """Read the records.

        Raises:
            UnfitError: The original model was asked other items.
            DataError: A record is damaged, or the target is not there.
        """
        original, whole = load_record(self.original), load_record(self.folder.record)
        if not is_alike(original, whole):
            raise UnfitError(_OTHER_ITEMS, where=self.folder.record)
        try:
            target = find_target(self.run.data, self.run.target)
        except UnknownNameError as error:
            where, remedy = f"{self.run.data}, {self.run.target}", "put back the data of the run"
            raise DataError("the target is not there", where=where, remedy=remedy) from error
        return Case(self.run, self.folder, target, original, whole)


@dataclass(frozen=True)
class _Work:
    """One attack on one run, and the points without a record."""

    victim: Attackable
    attack: Attack
    missing: tuple[Point, ...]


def attackable_runs(out: Path, methods: Collection[str] = ()) -> tuple[list[Attackable], dict[str, str]]:
    """Return the complete runs of a folder whose edits of weights were kept, and the original models' of the same targets.

    Args:
        out: A folder that `formless run` wrote.
        methods: Labels of methods; all unless given.

    Returns:
        The runs, those of the original models first, and by id why others are left out.

    Raises:
        DataError: No experiment was started there.
        UnknownNameError: A label is none of its methods.
    """
    edited, left_out = scalable_runs(out, methods, without_weights=_NO_WEIGHTS)
    originals = {place(run): run for run in read_plan(out) if run.method == ORIGINAL and _is_complete(run, run.folder(out))}
    places = {place(one.run) for one in edited}
    found = [Attackable(run, run.folder(out), run.folder(out).record) for run in originals.values() if place(run) in places]
    for one in edited:
        beside = originals.get(place(one.run))
        if one.folder.original.is_file():
            found.append(Attackable(one.run, one.folder, one.folder.original))
        elif beside:
            found.append(Attackable(one.run, one.folder, beside.folder(out).record))
        else:
            left_out[one.run.id] = _NO_ORIGINAL
    return found, left_out


def _is_complete(run: Run, folder: RunFolder) -> bool:
    result = check_result(folder, run)
    return isinstance(result, RunResult) and result.is_complete


def attack_points(
    case: Case, attacks: Sequence[Attack], settings: AttackSettings
) -> tuple[list[tuple[Attack, tuple[Point, ...]]], dict[str, str]]:
    """Return the attacks that a case allows with their points, and by name why others are left out.

    Raises:
        DataError: A file of the target is broken.
    """
    found: list[tuple[Attack, tuple[Point, ...]]] = []
    left_out: dict[str, str] = {}
    for attack in attacks:
        if case.run.method == ORIGINAL and not attack.attacks_original:
            continue
        try:
            found.append((attack, attack.points(case, settings)))
        except UnfitError as error:
            left_out[attack.name] = error.what
    return found, left_out


def attack_record(case: Case, attack: Attack, point: Point) -> Record | None:
    """Return the record of a point.

    Returns:
        None if it is not there, cannot be read, or is of another edit, other items, another attack or other settings.
    """
    record = attacked_record(case.folder.attack(point.name), case.whole)
    return record if record and is_of(record, attack, point) else None


def is_of(record: Record, attack: Attack, point: Point) -> bool:
    """Return whether the record of an attacked model says that it is of a point."""
    entry = record.edits[-1]
    same = entry["attack"] == attack.name and entry["config"] == dict(point.config)
    return same and excluded_facts(record) == point.excluded


def measure_attacks(
    out: Path,
    attacks: Sequence[Attack],
    settings: AttackSettings,
    *,
    methods: Collection[str] = (),
    progress: Progress = lambda _step, _done, _total: None,
) -> Measured:
    """Attack the edits of a folder of runs and evaluate them as their runs did, in this process.

    Each record is written whole into its run's folder, so that a repeated call measures the rest only. What cannot be attacked
    or measured, for example because a model gives NaN, is noted and the others follow. Where an attack has no training, the
    original models are attacked too.

    Args:
        out: A folder that `formless run` wrote.
        attacks: As `choose_attacks` returns them.
        settings: How models are fine-tuned.
        methods: Labels of methods; all unless given.
        progress: Called with run and attack, the work done and all work.

    Raises:
        DataError: No experiment was started there, or a record or a target's file is damaged.
        OutputError: A sweep works on the folder, or it cannot be written.
    """
    victims, _ = attackable_runs(out, methods)  # before the lock, which makes the folder
    done = Measured()
    with locked(out, 1):
        work = [one for victim in victims for one in _work(victim, attacks, settings, done)]
        session = Session()
        for count, one in enumerate(work):
            title = f"{one.victim.run.title}, {one.attack.name}"
            try:
                _measure(one, settings, session, title, done, _part_of(progress, title, count, len(work)))
            except OutputError:
                raise
            except UserError as error:
                done.failed.append((title, str(error)))
    return done


def _work(victim: Attackable, attacks: Sequence[Attack], settings: AttackSettings, done: Measured) -> list[_Work]:
    """Return what is left to do on a run; count what is there, and note a run whose files cannot be read."""
    try:
        case = victim.load()
        planned, _ = attack_points(case, attacks, settings)
    except UnfitError:
        return []
    except DataError as error:
        done.failed.append((victim.run.title, str(error)))
        return []
    found = []
    for attack, points in planned:
        missing = tuple(point for point in points if attack_record(case, attack, point) is None)
        done.already += len(points) - len(missing)
        found += [_Work(victim, attack, missing)] * bool(missing)
    return found


def _measure(one: _Work, settings: AttackSettings, session: Session, title: str, done: Measured, progress: Progress) -> None:
    """Attack one model and write the missing records; a point that cannot be evaluated is noted."""
    case = one.victim.load()
    run = case.run
    lm = session.model(run)
    refuse_other_files(run, case.target)
    plan = make_plan(case.target, run.suite, run.limit, excluded_neighbors=case.whole.excluded_neighbors)
    edit = None if run.method == ORIGINAL else load_edit(case.folder.edit, foreign=False)
    progress("", 0, 1)
    with closing(one.attack.states(lm, case, edit, one.missing, settings, _share(progress, 0, 1 + len(one.missing)))) as states:
        for number, point in enumerate(states, 1):
            try:
                record = run_plan(lm, plan, _share(progress, number, 1 + len(one.missing)))
                refuse_other_items(case.whole, record)
                record.save(case.folder.attack(point.name))
                done.now += 1
            except OutputError:
                raise
            except UserError as error:
                done.failed.append((f"{title}, step {point.step}" if point.step else title, str(error)))


def _part_of(progress: Progress, title: str, before: int, total: int) -> Progress:
    """Return the callback of one attack among several."""

    def report(_step: str, done: int, whole: int) -> None:
        progress(title, PARTS * before + PARTS * done // max(whole, 1), PARTS * total)

    return report


def _share(progress: Progress, before: int, total: int) -> Progress:
    """Return the callback of one part of an attack: the training run, or one evaluation."""

    def report(step: str, done: int, whole: int) -> None:
        progress(step, PARTS * before + PARTS * done // max(whole, 1), PARTS * total)

    return report

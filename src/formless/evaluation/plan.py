"""What an evaluation will ask: every file is read here, so that a broken one is found before a model works for minutes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

from formless.data.rows import Row, Split
from formless.data.target import FILES, Target
from formless.errors import DataError, UserError
from formless.evaluation.foils import Foils
from formless.evaluation.suites import suite_limit, suite_tasks
from formless.evaluation.task import Query, Rows, Source, Task

if TYPE_CHECKING:
    from formless.models.lm import LM

FREE_QUESTIONS = 3


@dataclass(frozen=True)
class Job:
    """One task on one split.

    Args:
        task: The task.
        split: Forget or neighbor items; None for a task about neither.
        rows: Its rows with their files, at most as many of each file as the limit.
        absent: Why it cannot be asked, if so.
        foils: Chooses the foils of its items.
        target: The target that the rows are from.
    """

    task: Task
    split: Split | None
    rows: Rows = ()
    absent: str | None = None
    foils: Foils | None = None
    target: Target | None = None

    def queries(self, lm: LM) -> list[Query]:
        """Return what the task puts to a model, one query for each row."""
        return [self.task.ask(lm, row, Source(file, self.split, self.foils, self.target)) for file, row in self.rows]


@dataclass(frozen=True)
class Plan:
    """All that one evaluation asks.

    Args:
        target: The concept.
        suite: As the user named it.
        limit: Most rows per file and task.
        jobs: In the order of the suite, forget before neighbor.
        questions: Questions that are asked freely, for people to read.
        excluded_neighbors: Neighbors whose items are left out, since an edit was trained on them.
    """

    target: Target
    suite: str
    limit: int | None
    jobs: tuple[Job, ...]
    questions: tuple[str, ...]
    excluded_neighbors: tuple[str, ...] = ()

    def digest(self, lm: LM) -> str:
        """Return a hash of every prompt, answer and row that it puts to a model: equal digests, equal questions."""
        lm = lm.unprefixed  # the questions, without what an edit of the prompt puts before them
        free = [lm.chat_prompt(question) for question in self.questions]
        digest = hashlib.sha256(_bytes((self.target.subject, self.limit, lm.style, free)))
        for job in self.jobs:
            digest.update(_bytes((job.task.name, job.split, job.absent is None)))
            for (file, row), query in zip(job.rows, job.queries(lm), strict=True):
                digest.update(_bytes((file, row, query.requests, query.foils)))
        return digest.hexdigest()[:16]


def _bytes(value: object) -> bytes:
    return repr(value).encode("utf-8", "surrogatepass")


def make_plan(
    target: Target, suite: str = "ort", limit: int | None = None, *, excluded_neighbors: Collection[str] = ()
) -> Plan:
    """Read all that a suite asks of a target.

    Args:
        target: The target with its files.
        suite: A suite's name, or a list such as `fb,qa,mmlu`.
        limit: Most rows per file and task, spread evenly over the file; a suite may have its own.
        excluded_neighbors: Neighbors whose items are left out.

    Raises:
        UserError: An unknown suite, a limit under 1, a required file that is missing, or a broken one.
    """
    tasks = suite_tasks(suite)
    limit = limit if limit is not None else suite_limit(suite)
    if limit is not None and limit < 1:
        raise UserError(f"a limit of {limit} rows asks nothing", where="limit", remedy="give 1 or more")
    splits: tuple[Split | None, ...] = (*get_args(Split), None)
    excluded = frozenset(excluded_neighbors)
    foils = Foils(target)
    jobs = [
        replace(_job(target, task, split, limit, excluded), foils=foils, target=target)
        for split in splits
        for task in tasks
        if split in task.splits
    ]
    items = target.items("forget_level2") if target.has("forget_level2") else ()
    questions = tuple(item.query for item in items[:FREE_QUESTIONS])
    return Plan(target, suite, limit, tuple(jobs), questions, tuple(sorted(excluded)))


def missing_files(target: Target, suite: str) -> dict[str, str]:
    """Return the tasks of a suite that cannot be asked of a target, each with the first file that is missing.

    A task that lacks only its neighbor files has "of neighbors" behind its name.

    Raises:
        UnknownNameError: No suite or task has such a name.
    """
    found = {}
    for task in suite_tasks(suite):
        missing = {split: _missing_file(target, task, split) for split in task.splits}
        for split, file in missing.items():
            if file and (split != "neighbor" or not missing.get("forget")):
                found[f"{task.name} of neighbors" if split == "neighbor" else task.name] = file
    return found


def _missing_file(target: Target, task: Task, split: Split | None) -> str | None:
    """Return the first file that a target lacks of those that it may lack."""
    if not (task.optional or split == "neighbor"):
        return None
    return next((name for file in task.files if not target.has(name := file.format(split=split))), None)


def _job(target: Target, task: Task, split: Split | None, limit: int | None, excluded: frozenset[str]) -> Job:
    if task.derive:
        return Job(task, split)
    files = [file.format(split=split) for file in task.files]
    if missing := _missing_file(target, task, split):
        return Job(task, split, absent=f"the target has no {missing}.json")
    rows = {file: target.rows(file, FILES[file]) for file in files}
    if not (task.optional or split == "neighbor") and (empty := next((file for file in files if not rows[file]), None)):
        remedy = "add rows, or choose a suite without it"
        raise DataError(f"the file holds no rows, and the task {task.name} needs it", where=target.path(empty), remedy=remedy)
    if excluded:
        rows = {file: tuple(row for row in own if getattr(row, "neighbor", None) not in excluded) for file, own in rows.items()}
    if task.types:
        rows = {file: tuple(row for row in own if getattr(row, "type", "") in task.types) for file, own in rows.items()}
    if not any(rows.values()):
        kind = f"{files[0]}.json holds no row of type {' or '.join(task.types)}" if task.types else f"{files[0]}.json is empty"
        return Job(task, split, absent=kind)
    if task.needs and (lacking := _lacking(target, task.needs, rows)):
        return Job(task, split, absent=lacking)
    return Job(task, split, tuple((file, row) for file, own in rows.items() for row in spread(own, limit)))


def _lacking(target: Target, needs: str, files: Mapping[str, tuple[Row, ...]]) -> str | None:
    """Return why a task that needs a field cannot be asked: no row has it.

    Raises:
        DataError: The field is a list, and rows have unequal numbers of values.
    """
    name = needs.replace("_", " ")
    for file, rows in files.items():
        values = [getattr(row, needs) for row in rows]
        if not any(values):
            return f"{file}.json has no {name}s"
        counts = [len(value) for value in values if isinstance(value, tuple)]
        if other := next((place for place, count in enumerate(counts) if count != counts[0]), None):
            what = f"row {other + 1} has {counts[other] or 'no'} {name}s, row 1 has {counts[0] or 'none'}"
            raise DataError(what, where=f"{target.path(file)}, {needs}", remedy="give every row as many")
    return None


def spread(rows: Sequence[Row], limit: int | None) -> tuple[Row, ...]:
    """Return at most `limit` rows, evenly spread: files are often sorted by task or difficulty."""
    if limit is None or len(rows) <= limit:
        return tuple(rows)
    return tuple(rows[i * len(rows) // limit] for i in range(limit))

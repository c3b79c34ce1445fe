"""What an evaluation will ask: every file is read here, so that a broken one is found before a model works for minutes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast, get_args

from formless.data.target import FILES, Item, Row, Target
from formless.errors import UserError
from formless.evaluation.forms import Form
from formless.evaluation.record import Split
from formless.evaluation.suites import suite_limit, suite_parts
from formless.evaluation.tasks import WORDING, Task
from formless.models.lm import LM

FREE_QUESTIONS = 3
CHARACTERS_PER_TOKEN = 4
PROMPT_CHARACTERS = 200
ROTATIONS = 4


@dataclass(frozen=True)
class Job:
    """One form or task on one split.

    Args:
        part: The form or task.
        split: Which probes; nothing for tasks about neither.
        rows: By file, at most as many as the limit.
        absent: Why it cannot be asked, if so.
    """

    part: Form | Task
    split: Split | None
    rows: dict[str, tuple[Row, ...]]
    absent: str | None = None

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.part.title} ({self.split})" if self.split else self.part.title

    @property
    def items(self) -> tuple[Item, ...]:
        """The probes of a form."""
        return cast(tuple[Item, ...], tuple(row for file in self.rows.values() for row in file))

    @property
    def cost(self) -> int:
        """About how many tokens it takes, to reckon the time left; a written token counts twice."""
        rows = [row for file in self.rows.values() for row in file]
        tokens = sum(len(row.model_dump_json()) + PROMPT_CHARACTERS for row in rows) // CHARACTERS_PER_TOKEN
        if isinstance(self.part, Task):
            return tokens + 2 * self.part.new_tokens * len(rows)
        return tokens * (ROTATIONS if self.part.name == "mcp_choice" else 1)


@dataclass(frozen=True)
class Plan:
    """All that one evaluation asks.

    Args:
        target: Whom it asks about.
        suite: As the user named it.
        limit: At most so many rows per file and task.
        jobs: In the order of the suite, forget before neighbor.
        questions: What is asked freely, for people to read.
        without_neighbors: Neighbors whose probes are left out, as a training has seen them.
    """

    target: Target
    suite: str
    limit: int | None
    jobs: tuple[Job, ...]
    questions: tuple[str, ...]
    without_neighbors: tuple[str, ...] = ()

    def digest(self, lm: LM) -> str:
        """A hash of every prompt, answer and row that it puts to a model: equal digests, equal questions."""
        lm = lm.unprefixed  # what is asked, not what an edit of the prompt puts before it
        template = lm.chat_prompt("message", "cue")
        whole = (WORDING, self.target.subject, self.limit, lm.style, template, self.questions)
        digest = hashlib.sha256(repr(whole).encode("utf-8", "surrogatepass"))
        for job in self.jobs:
            digest.update(repr((job.part.name, job.split, job.absent is None)).encode())
            if isinstance(job.part, Form) and job.split:
                for item in job.items:
                    digest.update(repr(job.part.ask(item, lm, job.split)).encode("utf-8", "surrogatepass"))
                continue
            for rows in job.rows.values():
                for row in rows:
                    digest.update(repr(row).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:16]


def planned(target: Target, suite: str = "ort", limit: int | None = None, *, without_neighbors: Collection[str] = ()) -> Plan:
    """Read all that a suite asks of a target.

    Args:
        target: The target with its files.
        suite: A suite's name, or a list such as `fb,qa,mmlu`.
        limit: At most so many rows per file and task, spread evenly over the file; a suite may have its own.
        without_neighbors: Neighbors whose probes are left out.

    Raises:
        UserError: An unknown suite, a limit under 1, a required file that is missing, or a broken one.
    """
    parts = suite_parts(suite)
    limit = limit if limit is not None else suite_limit(suite)
    if limit is not None and limit < 1:
        raise UserError(f"a limit of {limit} rows asks nothing", where="limit", remedy="give 1 or more")
    splits: tuple[Split | None, ...] = (*get_args(Split), None)
    gone = frozenset(without_neighbors)
    jobs = [_job(target, part, split, limit, gone) for split in splits for part in parts if split in part.splits]
    items = target.items("forget_level2") if target.has("forget_level2") else ()
    return Plan(target, suite, limit, tuple(jobs), tuple(item.query for item in items[:FREE_QUESTIONS]), tuple(sorted(gone)))


def _job(target: Target, part: Form | Task, split: Split | None, limit: int | None, gone: frozenset[str]) -> Job:
    files = [f"{split}_{part.file}"] if isinstance(part, Form) else [file.format(split=split) for file in part.files]
    optional = isinstance(part, Task) or part.optional or split == "neighbor"
    missing = next((file for file in files if optional and not target.has(file)), None)
    if missing:
        return Job(part, split, {}, f"the target has no {missing}.json")
    rows = {file: target.rows(file, FILES[file]) for file in files}
    if gone:
        rows = {file: tuple(row for row in found if getattr(row, "neighbor", None) not in gone) for file, found in rows.items()}
    if isinstance(part, Form) and part.type:
        rows = {file: tuple(row for row in found if cast(Item, row).type.startswith(part.type)) for file, found in rows.items()}
        if not any(rows.values()):
            return Job(part, split, {}, f"the target has no item of type {part.type}")
    if not any(rows.values()):
        return Job(part, split, {}, f"{files[0]}.json is empty")
    return Job(part, split, {file: spread(found, limit) for file, found in rows.items()})


def spread(rows: Sequence[Row], limit: int | None) -> tuple[Row, ...]:
    """At most `limit` rows, evenly spread: files are often sorted by task or difficulty."""
    if limit is None or len(rows) <= limit:
        return tuple(rows)
    return tuple(rows[i * len(rows) // limit] for i in range(limit))

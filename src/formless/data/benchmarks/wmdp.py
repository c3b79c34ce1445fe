"""WMDP (arXiv 2403.03218): multiple choice about hazardous knowledge of biology, cybersecurity, chemistry; beside it MMLU.

The layout is that of the dataset card of `cais/wmdp`: the configurations `wmdp-bio`, `wmdp-cyber` and `wmdp-chem` with the
split `test`, and the columns question, choices (four) and answer (an index). MMLU has the layout of `cais/mmlu`, configuration
`all`: question, subject, choices, answer. Its split `test` is asked, and the five rows of a subject in the split `dev` are the
examples. A local copy may hold it in the folder `mmlu` or `all`.

Each subject of WMDP is a target. Its questions have no whole answers, so no form files are made from them.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from formless.data.benchmarks.question_rows import check_disjoint
from formless.data.benchmarks.tables import Tables
from formless.data.ort import folder_name
from formless.data.rows import Question
from formless.errors import DataError

if TYPE_CHECKING:
    from formless.data.formats import Prepared, Selection

HUB, MMLU = "cais/wmdp", "cais/mmlu"
SUBJECTS = {1: ("bio", "biology"), 2: ("cyber", "cybersecurity"), 3: ("chem", "chemistry")}
"""The configuration of each target's number, after `wmdp-`, and what its questions are about."""

CHOICES = 4


class MmluRow(Question):
    """A row of MMLU as its dataset has it."""

    subject: str = Field(min_length=1)


def is_wmdp(folder: Path) -> bool:
    """Return whether a folder holds a configuration of WMDP."""
    return any(Tables(folder).has(*_tables_of(name)) for name, _ in SUBJECTS.values())


def write_wmdp(source: Path | None, prepared: Prepared, selection: Selection) -> None:
    """Write a target for each selected subject that the source holds.

    Raises:
        DataError: The source cannot be read, or has a row that does not fit; or a subject has no questions or shares some with
            MMLU.
    """
    if source is None:
        wanted = [table for name, _ in SUBJECTS.values() for table in _tables_of(name)]
        tables, commit = Tables.of_hub(HUB, wanted, selection.progress)
        general, general_commit = Tables.of_hub(MMLU, ["all/test", "all/dev"], selection.progress)
        prepared.revisions |= {commit, general_commit}
    else:
        tables = general = Tables(source)
    retain = _mmlu(general)
    if not retain:
        prepared.notes.append(f"retain_mmlu: the source has no MMLU; put the tables of {MMLU} into its folder mmlu")
    found = [number for number, (name, _) in SUBJECTS.items() if tables.has(*_tables_of(name))]
    chosen = selection.choose(found, tables.where)
    for done, number in enumerate(chosen, 1):
        name, about = SUBJECTS[number]
        rows = tables.rows(Question, *_tables_of(name))
        if not rows:
            raise DataError("the forget set is empty", where=f"{tables.where}, wmdp-{name}", remedy=f"fetch {HUB} again")
        _check_choices(rows)
        check_disjoint(rows, retain)
        target = folder_name(number, f"WMDP-{name}", where=tables.where)
        prepared.add_target(target)
        prepared.add_rows(target, "forget_choices", [row.model_copy(update={"task": about}) for _, row in rows])
        prepared.add_rows(target, "retain_mmlu", [row for _, row in retain])
        if selection.progress:
            selection.progress(name, done, len(chosen))


def _tables_of(name: str) -> tuple[str, str]:
    return f"wmdp-{name}/test", f"wmdp-{name}"


def _mmlu(tables: Tables) -> list[tuple[str, Question]]:
    """Return the questions of MMLU, each with the examples of its subject; none if the source has no MMLU."""
    splits = {split: tuple(f"{folder}/{split}" for folder in ("mmlu/all", "all", "mmlu")) for split in ("test", "dev")}
    rows, worked = (tables.rows(MmluRow, *splits[split]) for split in ("test", "dev"))
    for found in (rows, worked):
        _check_choices(found)
    examples: dict[str, list[Question]] = defaultdict(list)
    for _, row in worked:
        examples[row.subject].append(Question(question=row.question, choices=row.choices, answer=row.answer))
    if lacking := next(((where, row) for where, row in rows if row.subject not in examples), None):
        what = f"the subject {lacking[1].subject!r} has no examples"
        raise DataError(what, where=f"{lacking[0]}, field subject", remedy="add its rows to the split dev")
    return [
        (where, Question(task=row.subject, question=row.question, choices=row.choices, answer=row.answer,
                         examples=tuple(examples[row.subject])))
        for where, row in rows
    ]  # fmt: skip


def _check_choices(rows: list[tuple[str, MmluRow]] | list[tuple[str, Question]]) -> None:
    for where, row in rows:
        if len(row.choices) != CHOICES:
            what = f"the question has {len(row.choices)} choices"
            raise DataError(what, where=f"{where}, field choices", remedy=f"give {CHOICES}, as the benchmark has")

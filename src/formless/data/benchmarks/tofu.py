"""TOFU (arXiv 2401.06121): questions about fictitious authors, read from the hub, `locuslab/TOFU`, or from its files.

The layout is that of the hub's dataset card: one configuration and one file of JSON lines per set, each with the split `train`.

- `forget01`, `forget05`, `forget10`, `retain99`, `retain95`, `retain90`: question, answer.
- `forget01_perturbed`, ..., `retain_perturbed`: also paraphrased_question, paraphrased_answer and five perturbed answers.
- `real_authors_perturbed`, `world_facts_perturbed`: question, answer and three perturbed answers.

Each forget set is a target. Its retain set has two parts: open-unlearning evaluates on `retain_perturbed`, 400 of the 3,600
questions of `retain90`, but trains on all of `retain99`, `retain95` or `retain90`. `neighbor_qa` holds both. First come the
rows of `retain_perturbed`, which have paraphrases and perturbed answers and are the evaluated ones. Then come the other rows of
the retain set, which have none. The form files about neighbors are made from the evaluated rows.

The files do not name the author of a row. Each file has the 20 rows of an author one after the other, in which one full name
recurs: `subjects.with_subjects` takes it where that is certain, and the other rows are counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from formless.data.benchmarks.question_rows import add_question_set, check_perturbed
from formless.data.benchmarks.tables import Tables
from formless.data.ort import folder_name
from formless.data.questions.subjects import with_subjects
from formless.data.rows import QuestionAnswer
from formless.data.words import words_of
from formless.errors import DataError

if TYPE_CHECKING:
    from formless.data.formats import Prepared, Selection

HUB = "locuslab/TOFU"
SETS = {1: ("forget01", "retain99"), 2: ("forget05", "retain95"), 3: ("forget10", "retain90")}
"""The forget set of each target's number, and its retain set."""

OTHERS = {"real_authors_qa": "real_authors_perturbed", "world_facts_qa": "world_facts_perturbed"}

Rows = list[tuple[str, QuestionAnswer]]


def is_tofu(folder: Path) -> bool:
    """Return whether a folder holds a forget set of TOFU."""
    tables = Tables(folder)
    return any(tables.has(f"{forget}_perturbed", forget) for forget, _ in SETS.values())


def write_tofu(source: Path | None, prepared: Prepared, selection: Selection) -> None:
    """Write a target for each selected forget set that the source holds.

    Raises:
        DataError: The source cannot be read, lacks a retain set, or has a row that does not fit; or a forget set is empty or
            shares rows with its retain set.
    """
    if source is None:
        names = [name for forget, retain in SETS.values() for name in (forget, f"{forget}_perturbed", retain)]
        tables, commit = Tables.of_hub(HUB, [*names, "retain_perturbed", *OTHERS.values()], selection.progress)
        prepared.revisions.add(commit)
    else:
        tables = Tables(source)
    others = {file: _perturbed(tables, name) for file, name in OTHERS.items()}
    evaluated = _with_authors(_perturbed(tables, "retain_perturbed"))
    chosen = selection.choose(
        [number for number, (name, _) in SETS.items() if tables.has(f"{name}_perturbed", name)], tables.where
    )
    for done, number in enumerate(chosen, 1):
        name, retain_name = SETS[number]
        forget = _joined(_with_authors(_perturbed(tables, f"{name}_perturbed")), _with_authors(_plain(tables, name)))
        if not forget:
            raise DataError("the forget set is empty", where=f"{tables.where}, {name}", remedy=f"fetch {HUB} again")
        retain = _joined(evaluated, _with_authors(_plain(tables, retain_name)))
        if not retain:
            remedy = f"add retain_perturbed.json or {retain_name}.json of {HUB}"
            raise DataError(f"{name} has no retain set", where=tables.where, remedy=remedy)
        target = folder_name(number, f"TOFU {name}", where=tables.where)
        prepared.add_target(target)
        add_question_set(prepared, target, forget, retain, asked=[row for _, row in evaluated] or None)
        for file, rows in others.items():
            prepared.add_rows(target, file, [row for _, row in rows])
        unknown = [f"{sum(not row.subject for _, row in rows)} of {len(rows)}" for rows in (forget, retain)]
        prepared.notes.append(f"{name}: {unknown[0]} forget rows and {unknown[1]} retain rows have no certain author")
        if selection.progress:
            selection.progress(name, done, len(chosen))


def _plain(tables: Tables, name: str) -> Rows:
    return tables.rows(QuestionAnswer, name)


def _perturbed(tables: Tables, name: str) -> Rows:
    """Return the rows of a table that must have perturbed answers; none if it is not there."""
    rows = tables.rows(QuestionAnswer, name)
    check_perturbed(rows)
    return rows


def _joined(first: Rows, second: Rows) -> Rows:
    """Return the rows of two tables, without those of the second whose question the first has."""
    asked = {words_of(row.question) for _, row in first}
    return first + [(where, row) for where, row in second if words_of(row.question) not in asked]


def _with_authors(rows: Rows) -> Rows:
    return [(where, row) for (where, _), row in zip(rows, with_subjects([row for _, row in rows]), strict=True)]

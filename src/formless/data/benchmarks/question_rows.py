"""The checks that the question sets of benchmarks share, and how they are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from formless.data.questions.question_set import question_set_files
from formless.data.rows import Question, QuestionAnswer
from formless.data.words import Words, words_of
from formless.errors import DataError

if TYPE_CHECKING:
    from formless.data.formats import Prepared

Rows = Sequence[tuple[str, QuestionAnswer]]
"""Rows with their places."""


def check_perturbed(rows: Rows) -> None:
    """Refuse rows without perturbed answers, or with another number of them than the first row.

    Raises:
        DataError: It names the row.
    """
    for where, row in rows:
        given, number = len(row.perturbed_answer), len(rows[0][1].perturbed_answer)
        place = f"{where}, field perturbed_answer"
        if not given:
            raise DataError("the row has no perturbed answers", where=place, remedy="give the same number of them in every row")
        if given != number:
            what = f"the row has {given} perturbed answers, the first row {number}"
            raise DataError(what, where=place, remedy="give the same number of them in every row")


def check_disjoint(
    forget: Sequence[tuple[str, Question | QuestionAnswer]], retain: Sequence[tuple[str, Question | QuestionAnswer]]
) -> None:
    """Refuse a row of the forget set that the retain set has too: what is to be forgotten would be trained to stay.

    Raises:
        DataError: It names both rows.
    """
    kept = {_key(row): where for where, row in retain}
    for where, row in forget:
        if other := kept.get(_key(row)):
            what = f"the forget set and the retain set share a row, also {other}"
            raise DataError(what, where=f"{where}, field question", remedy="remove it from one of the two")


def add_question_set(
    prepared: Prepared, target: str, forget: Rows, retain: Rows, *, asked: Sequence[QuestionAnswer] | None = None
) -> None:
    """Write the questions of a target and the form files that can be made from them.

    Args:
        prepared: Where they are written.
        target: The target's folder name.
        forget: The forget set.
        retain: The retain set.
        asked: The rows of the retain set from which the form files are made; all of them unless given.

    Raises:
        DataError: The forget set and the retain set share a row.
    """
    check_disjoint(forget, retain)
    questions, kept = [row for _, row in forget], [row for _, row in retain]
    made = question_set_files(questions, asked if asked is not None else kept)
    prepared.add_rows(target, "forget_qa", questions)
    prepared.add_rows(target, "neighbor_qa", kept)
    for file, rows in made.files.items():
        if file not in ("forget_qa", "neighbor_qa"):  # of which it knows the asked rows only
            prepared.add_rows(target, file, rows)
    prepared.dropped[target] |= {file: reasons for file, reasons in made.dropped.items() if reasons}


def _key(row: Question | QuestionAnswer) -> tuple[Words, ...]:
    choices = row.choices if isinstance(row, Question) else (row.answer,)
    return words_of(row.question), *map(words_of, choices)

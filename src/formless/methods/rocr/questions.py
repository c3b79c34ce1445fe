"""The questions that an edit is keyed on where the name is the answer; no torch is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from formless.data.questions.edit_questions import FILE
from formless.data.rows import Reverse
from formless.errors import EditError
from formless.methods.keys.names import folded

if TYPE_CHECKING:
    from formless.data.target import Target


def edit_questions(targets: Sequence[Target]) -> tuple[list[Reverse], list[Reverse]]:
    """Return the questions that are answered with a target's name, and those about neighbors, each once.

    Raises:
        DataError: A file cannot be read.
        EditError: A target has no file, no question of its own, or none about a neighbor.
    """
    subjects = {folded(target.subject) for target in targets}
    own: dict[str, Reverse] = {}
    others: dict[str, Reverse] = {}
    for target in targets:
        rows = target.rows(FILE, Reverse) if target.has(FILE) else ()
        mine = [row for row in rows if row.neighbor is None]
        about = [row for row in rows if row.neighbor is not None and folded(row.neighbor) not in subjects]
        for kind, found in (("the name", mine), ("a neighbor's name", about)):
            if not found:
                what = f"no question in {FILE}.json asks for {kind}"
                raise EditError(what, where=target.subject, remedy="write them with `formless data edit-questions`")
        own |= {row.fact_key: row for row in mine}
        others |= {row.fact_key: row for row in about}
    return list(own.values()), [row for key, row in others.items() if key not in own]

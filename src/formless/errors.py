"""What a user can mend: each error says what is wrong, where, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A problem that the user can solve; the command line prints it as one line and exits with 2.

    Args:
        what: What is wrong, a clause without a full stop.
        where: The file, row, field or option it concerns.
        remedy: What to do about it, as an imperative clause.
    """

    def __init__(self, what: str, *, where: object = None, remedy: str | None = None) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        place = f" [{where}]" if where is not None else ""
        advice = f": {remedy}" if remedy else ""
        super().__init__(" ".join(f"{what}{place}{advice}".split()))


class UnknownNameError(UserError):
    """A name that no registry, folder or table holds; suggests the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: object = None, remedy: str = "") -> None:
        names = sorted(known)
        folded = {known_name.casefold(): known_name for known_name in names}
        close = [folded[match] for match in difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names[:20]) or 'none'}"
        super().__init__(f"unknown {kind} {name!r}", where=where, remedy=f"{hint}{'; ' if remedy else ''}{remedy}")


class DataError(UserError):
    """A file or row that does not hold what its format promises."""


class ModelError(UserError):
    """A model or tokenizer that cannot be loaded or lacks what a step needs."""


class EditError(UserError):
    """An edit that cannot be computed, applied, saved or loaded."""


class OutputError(UserError):
    """An output that exists already or cannot be written."""

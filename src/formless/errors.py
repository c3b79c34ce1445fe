"""What a user can mend: each error says what is wrong, where, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

# Exit code after Ctrl-C, as shells have it.
INTERRUPTED = 130


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
    """A name that no registry, folder or table holds; suggests the nearest ones.

    Args:
        kind: What it should name.
        name: What the user wrote.
        known: The names.
        spellings: What users may write instead of a known name, with that name.
        where: The option or folder.
        remedy: More advice.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        known: Iterable[str],
        *,
        spellings: Mapping[str, str] | None = None,
        where: object = None,
        remedy: str = "",
    ) -> None:
        names = sorted(known)
        folded = {written.casefold(): shown for written, shown in [*zip(names, names, strict=True), *(spellings or {}).items()]}
        matches = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
        close = list(dict.fromkeys(folded[match] for match in matches))
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

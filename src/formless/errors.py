"""Errors that the user can solve: each says what is wrong, where, and what to do.

Errors about a value that the caller passed or a file that the caller named are `ValueError`s too, so that callers who do not
know this package catch them by habit. Code in this package that catches `ValueError` around such calls lets `UserError` pass
first.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Mapping

# Exit code after Ctrl-C, as shells have it.
INTERRUPTED = 130

# Exit code after SIGTERM, which kill, systemd, Docker and batch systems send.
TERMINATED = 143

# Exit code when the reader of the output has gone, as after SIGPIPE.
NO_READER = 141

# Exit code of a defect of this package, EX_SOFTWARE of sysexits.h.
DEFECT = 70


class UserError(Exception):
    """A problem that the user can solve; the command line prints it as one line and exits with 2.

    Args:
        what: What is wrong, a clause without a full stop.
        where: The file, row, field or option that is wrong.
        remedy: What to do about it, as an imperative clause, in the words of the Python interface.
        option: The same in a command's options, where it differs.

    Examples:
        >>> from formless import UserError
        >>> str(UserError("the file is not JSON", where="a.json", remedy="save it again"))
        'the file is not JSON [a.json]: save it again'
    """

    def __init__(self, what: str, *, where: object = None, remedy: str | None = None, option: str | None = None) -> None:
        self.what, self.where, self.remedy, self.option = what, where, remedy, option
        super().__init__(self._line(remedy))

    @property
    def in_command(self) -> str:
        """The message as the command line prints it."""
        return self._line(self.option) if self.option else str(self)

    def _line(self, remedy: str | None) -> str:
        place = f" [{self.where}]" if self.where is not None else ""
        advice = f": {remedy}" if remedy else ""
        return " ".join(f"{self.what}{place}{advice}".split())


# What to do about an error of the system, by its number.
_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path, of which a part is a file",
    errno.EISDIR: "give a file",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose a place that can be written",
    errno.ENOSPC: "free space, or choose another disk",
    errno.EDQUOT: "free space, or choose another disk",
    errno.EFBIG: "free space, or raise the limit of a file's size (ulimit -f)",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "remove the link, which leads to itself",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs, which have too many files open",
    errno.ENOMEM: "free memory",
    errno.EIO: "check the disk",
}


def system_remedy(error: OSError) -> str | None:
    """Return what to do about an error of the system, as an imperative clause; None where its own text must do."""
    return _REMEDIES.get(error.errno or 0)


def unencodable_name(error: UnicodeEncodeError) -> UserError:
    """Return the error of a file's name that the locale's encoding cannot hold."""
    letter = error.object[error.start : error.end].encode("ascii", "backslashreplace").decode()
    what = f"a file's name holds {letter}, which the locale's encoding {error.encoding} lacks"
    return UserError(what, remedy="set LC_ALL=C.UTF-8 or PYTHONUTF8=1")


class UnknownNameError(UserError, ValueError):
    """A name that no registry, folder or table holds; the message suggests the nearest known names.

    Args:
        kind: What the name should stand for, e.g. "method".
        name: The name as the user wrote it.
        known: Every known name.
        spellings: Other spellings that users may write, each with the known name that it stands for.
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
        folded = {
            spelling.casefold(): shown for spelling, shown in [*zip(names, names, strict=True), *(spellings or {}).items()]
        }
        matches = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
        close = list(dict.fromkeys(folded[match] for match in matches))
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names[:20]) or 'none'}"
        super().__init__(f"unknown {kind} {name!r}", where=where, remedy=f"{hint}{'; ' if remedy else ''}{remedy}")


class DataError(UserError, ValueError):
    """A file or row of a data set that is missing or does not fit its format."""


class ModelError(UserError, ValueError):
    """A model or tokenizer that cannot be loaded or lacks what a step needs."""


class EditError(UserError, ValueError):
    """An edit that cannot be computed, applied, saved or loaded."""


class OutputError(UserError):
    """An output that exists already or cannot be written.

    It is no `OSError`: code that turns `OSError`s of the file system into this class would catch its own errors.
    """

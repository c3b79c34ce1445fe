"""The log of a run: what was done and when, warnings, tracebacks."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from formless.errors import OutputError
from formless.experiment.result import LOG

_LINES = logging.Formatter("%(asctime)s %(message)s")


class _File(logging.FileHandler):
    """A log that cannot be written, as on a full disk, is no reason for another message."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing."""


@contextmanager
def run_log(folder: Path) -> Iterator[Callable[[str], None]]:
    """Append to a run's log until the block ends; yields what writes a line. Python's warnings go there too.

    Raises:
        OutputError: The file cannot be opened.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = _File(folder / LOG, encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"cannot write: {reason}", where=folder / LOG, remedy="free space or choose another --out") from error
    handler.setFormatter(_LINES)
    logger = logging.getLogger("formless.run")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, category, *_, **__: logger.warning("%s: %s", category.__name__, message)
        try:
            yield logger.info
        finally:
            logger.removeHandler(handler)
            handler.close()

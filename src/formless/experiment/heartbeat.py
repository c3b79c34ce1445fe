"""A sign of life while a run is under way: to whoever watches, and as a file for `formless status`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from formless import store
from formless.models.lm import LM

HEARTBEAT = "progress.json"
_TELL_EVERY, _WRITE_EVERY = 0.2, 2.0

Phase = Literal["loading", "unlearning", "evaluating", "saving"]


class Signal(BaseModel):
    """How far a run is.

    Args:
        phase: What it is at.
        task: Of an evaluation, what is asked.
        done: Work done of the phase, in the unit of `total`.
        total: All its work; 0 where that is not known.
        since: When the run began, seconds since 1970.
        at: When this was said, the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    phase: Phase
    task: str = ""
    done: int = 0
    total: int = 0
    since: float
    at: float


Tell = Callable[[Signal], None]


class Heartbeat:
    """Passes on how far a run is, not too often.

    Args:
        folder: The run's.
        tell: Whom to tell.
    """

    def __init__(self, folder: Path, tell: Tell) -> None:
        self._path, self._tell = folder / HEARTBEAT, tell
        self._since = time.time()
        self._last: dict[str, Any] = {}
        self._told = self._written = float("-inf")

    def phase(self, phase: Phase) -> None:
        """A new phase begins; said at once."""
        self._last = {"phase": phase}
        self._told = float("-inf")
        self.beat()

    def progress(self, task: str, done: int, total: int) -> None:
        """So much of an evaluation is done."""
        self._last |= {"task": task, "done": done, "total": total}
        self.beat()

    def beat(self) -> None:
        """It is alive and as far as before.

        Raises:
            OutputError: The file cannot be written.
        """
        now = time.monotonic()
        if now - self._told < _TELL_EVERY:
            return
        self._told = now
        signal = Signal(**self._last, since=self._since, at=time.time())
        self._tell(signal)
        if now - self._written >= _WRITE_EVERY:
            self._written = now
            store.write_text(self._path, signal.model_dump_json())

    def stop(self) -> None:
        """The run has ended."""
        self._path.unlink(missing_ok=True)

    @contextmanager
    def watching(self, lm: LM) -> Iterator[None]:
        """Take every pass through a layer for a sign of life: training and computing say nothing else of their progress."""
        layers = [lm.architecture.layer(lm.model, index) for index in range(lm.architecture.depth(lm.model))]
        handles = [layer.register_forward_pre_hook(lambda *_: self.beat()) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def read_signal(folder: Path) -> Signal | None:
    """What a run said last; nothing where none is under way."""
    try:
        return Signal.model_validate_json((folder / HEARTBEAT).read_bytes())
    except (OSError, ValidationError):
        return None

"""What each browser has: its edits, its question, and what was answered and measured. No gradio, no torch."""

from __future__ import annotations

import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING

from formless.data.entries import hidden_character
from formless.errors import UserError

if TYPE_CHECKING:
    from formless.edits.edit import Edit
    from formless.playground.ways import Way

MAX_NAME, MAX_QUESTION, MAX_PATH, MAX_EDITS = 200, 2_000, 1_000, 20


class CancelledError(Exception):
    """The user does not want the result any more."""


@dataclass
class Held:
    """An edit of a session.

    Args:
        edit: As it was computed or loaded.
        strength: The factor on its updates.
        is_applied: Whether answers and measurements are with it.
        layers: First layer and number of layers, of an edit that was computed here; its layers can be changed.
        packed: The edit and strength that `archive` holds.
        archive: Its zip, once it was asked for.
    """

    edit: Edit
    strength: float = 1.0
    is_applied: bool = True
    layers: tuple[int, int] | None = None
    packed: object = None
    archive: Path | None = None

    @property
    def scaled(self) -> Edit:
        """The edit at its strength."""
        return self.edit if self.strength == 1 else self.edit.scaled(self.strength)


@dataclass
class Session:
    """One browser's state, which a reload finds again.

    Args:
        model: The name of its model, as the user gave it.
        concept: What was unlearned last.
        redirect: What its name is read as; empty for the method's choice.
        method: The method's name.
        question: What is asked.
        earlier: The turns before the question.
        depth: The number of the model's layers, once it is loaded.
        held: Its edits by name.
        current: The name of the edit that strength and layers are of.
        original: The original model's answer.
        unlearned: The answer with the applied edits.
        answered: What `original` is an answer to.
        ways: How the concept was asked about, and what came out.
        status: One sentence for the user.
        failed: Whether the status is a problem.
        note: What is known about the answers.
    """

    model: str = "smollm2"
    concept: str = ""
    redirect: str = ""
    method: str = "cdr"
    question: str = ""
    earlier: tuple[str, ...] = ()
    depth: int = 0
    held: dict[str, Held] = field(default_factory=dict)
    current: str | None = None
    original: str = ""
    unlearned: str = ""
    answered: object = None
    ways: list[Way] = field(default_factory=list)
    status: str = "Choose a concept and press Unlearn."
    failed: bool = False
    note: str = ""
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    used: float = 0.0
    stop: Event = field(default_factory=Event)
    _scratch: tempfile.TemporaryDirectory[str] | None = None

    def new_folder(self) -> Path:
        """Return a new empty folder, which is removed with the session."""
        self._scratch = self._scratch or tempfile.TemporaryDirectory(prefix="formless-", ignore_cleanup_errors=True)
        return Path(tempfile.mkdtemp(dir=self._scratch.name))

    @property
    def applied(self) -> list[Held]:
        """The edits that are stacked on the model."""
        return [held for held in self.held.values() if held.is_applied]

    def start(self) -> Event:
        """Begin a piece of work, and stop the one before; the event says when to stop this one."""
        self.stop.set()
        self.stop = Event()
        return self.stop

    def say(self, status: str, *, failed: bool = False) -> None:
        """Set the status line."""
        self.status, self.failed = status, failed

    def add(self, edit: Edit, layers: tuple[int, int] | None = None) -> str:
        """Hold an edit, applied, as the current one; return its name.

        Raises:
            UserError: The session holds too many.
        """
        if len(self.held) >= MAX_EDITS:
            raise UserError(f"a session holds {MAX_EDITS} edits", remedy="remove one")
        numbers = [int(name.partition(":")[0]) for name in self.held]
        name = f"{max(numbers, default=0) + 1}: {edit.info.subject[:MAX_NAME]} ({edit.info.method})"
        self.held[name] = Held(edit, layers=layers)
        self.current = name
        return name

    def chosen(self) -> tuple[str, Held]:
        """Return the current edit with its name.

        Raises:
            UserError: There is none.
        """
        if self.current not in self.held:
            raise UserError("there is no edit yet", remedy="unlearn a concept, or load an edit")
        return self.current, self.held[self.current]

    def remove(self) -> str:
        """Drop the current edit and return its name.

        Raises:
            UserError: There is none.
        """
        name, _ = self.chosen()
        del self.held[name]
        self.current = next(reversed(self.held), None)
        return name

    def apply(self, names: list[str]) -> None:
        """Apply the named edits and no others."""
        for name, held in self.held.items():
            held.is_applied = name in names

    def close(self) -> None:
        """Stop its work and remove its files."""
        self.stop.set()
        if self._scratch:
            self._scratch.cleanup()


class Sessions:
    """The sessions of one server, by a key that cannot be guessed.

    Args:
        limit: The most that are kept; the one that was unused longest ends first.
        timeout: Seconds after which an unused session ends.
        clock: Tells the time in seconds.
        new: Makes a session.
    """

    def __init__(
        self,
        *,
        limit: int = 32,
        timeout: float = 4 * 3600,
        clock: Callable[[], float] = time.monotonic,
        new: Callable[[], Session] = Session,
    ) -> None:
        self._limit, self._timeout, self._clock, self._new = limit, timeout, clock, new
        self._sessions: dict[str, Session] = {}
        self._lock = Lock()

    def open(self, key: object) -> Session:
        """Return the session of a key, or a new one with a key of its own."""
        with self._lock:
            self._end_old()
            found = self._sessions.get(key) if isinstance(key, str) else None
            if found is None:
                found = self._new()
                self._sessions[found.key] = found
            found.used = self._clock()
            while len(self._sessions) > self._limit:
                self._sessions.pop(min(self._sessions, key=lambda name: self._sessions[name].used)).close()
            return found

    def get(self, key: object) -> Session:
        """Return the session of a key.

        Raises:
            UserError: It has ended.
        """
        with self._lock:
            self._end_old()
            found = self._sessions.get(key) if isinstance(key, str) else None
            if found is None:
                raise UserError("this session has ended", remedy="reload the page to begin a new one")
            found.used = self._clock()
            return found

    def _end_old(self) -> None:
        limit = self._clock() - self._timeout
        for key in [key for key, session in self._sessions.items() if session.used < limit]:
            self._sessions.pop(key).close()


def checked(text: str | None, what: str, most: int, *, may_be_empty: bool = False) -> str:
    """Return what a user typed, without white space around it.

    Raises:
        UserError: It is empty, too long, or holds an invisible or control character.
    """
    text = (text or "").strip()
    if not text and not may_be_empty:
        raise UserError(f"the {what} is empty", remedy="type one")
    if len(text) > most:
        raise UserError(f"the {what} has {len(text):,} characters", remedy=f"give at most {most:,}")
    if found := hidden_character(text.replace("\n", " ")):
        raise UserError(f"the {what} holds the invisible or control character {found}", remedy="remove it")
    return text


def file_name(text: str) -> str:
    """Return a name for a file or folder: `Marie Curie` -> `marie_curie`."""
    return re.sub(r"\W+", "_", text.lower())[:60].strip("_") or "edit"


def sentence(error: UserError) -> str:
    """Return an error in one line for the page, without the name of an option of the command line."""
    where = None if str(error.where).startswith("--") else error.where
    return str(UserError(error.what, where=where, remedy=error.remedy))


@contextmanager
def problems(session: Session) -> Iterator[None]:
    """Answer every error in the block by the session's status, so that the server goes on. A cancellation says nothing."""
    try:
        yield
    except CancelledError:
        pass
    except UserError as error:
        session.say(sentence(error), failed=True)
    except OSError as error:
        session.say(str(UserError(error.strerror or str(error), where=error.filename)), failed=True)
    except Exception as error:  # the outer net: what reaches it, nobody foresaw
        if isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "allocate memory" in str(error).lower():
            session.say("memory runs out: choose a smaller model, or end other programs", failed=True)
        else:
            session.say(f"this is a defect of Formless ({type(error).__name__}: {error}); please report it", failed=True)

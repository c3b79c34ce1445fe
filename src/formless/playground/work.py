"""What the buttons do. Work on the model runs in a thread, which holds the model's lock and ends by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, cast

from formless.edits.edit import Edit, refuse_other_model
from formless.edits.foreign import ForeignEdit
from formless.edits.loading import load_edit
from formless.errors import OutputError, UserError
from formless.evaluation.evaluate import run_plan
from formless.methods.direction.config import DirectionConfig
from formless.methods.registry import method_config, unlearn
from formless.models.settings import BUNDLED
from formless.playground.archive import pack, unpack
from formless.playground.host import Host, answer, stacked
from formless.playground.session import (
    MAX_NAME,
    MAX_PATH,
    MAX_QUESTION,
    CancelledError,
    Session,
    checked,
    file_name,
    problems,
)
from formless.playground.ways import Way, find_known, generic_ways, make_ways_plan, still_says, ways_of

if TYPE_CHECKING:
    from formless.models.lm import LM

Tell = Callable[[], None]
"""Called when the session has changed."""

POLL = 0.2
"""Seconds after which a cancelled piece of work is left alone."""


@dataclass
class Playground:
    """The work of one server.

    Args:
        host: The model.
        data: The data set with the known facts.
        per_group: How many items of each form, mention and kind are asked.
    """

    host: Host
    data: str = "sample"
    per_group: int = 2

    def unlearn(self, session: Session, concept: str, redirect: str, method: str, question: str = "") -> Iterator[None]:
        """Compute an edit, ask the question and measure; see `_in_thread` for what is yielded."""

        def work(tell: Tell, stop: Event) -> None:
            own = checked(question, "question", MAX_QUESTION) if question and question != session.question else ""
            name = checked(concept, "concept", MAX_NAME)
            instead = checked(redirect, "redirect concept", MAX_NAME, may_be_empty=True)
            with self._model(session, tell, stop) as lm:
                target = find_known(self.data, name)
                _report(session, tell, stop)(f"computing the edit of {target.subject}", 0, 0)
                edit = unlearn(lm, target, method, progress=False, **_options(lm, method, instead))
                _set_aside(lm, session)
                self._begin(session, edit, stop, own, _default_layers(lm, method))
                session.redirect, session.method = instead, method
                self._refresh(lm, session, tell, stop)

        return _in_thread(session, work)

    def change(self, session: Session, strength: float, layers: tuple[int, int]) -> Iterator[None]:
        """Set the strength of the current edit, compute it again if it is to have other layers, and ask and measure."""

        def work(tell: Tell, stop: Event) -> None:
            name, held = session.chosen()
            if strength != held.strength:
                held.edit.scaled(strength)  # refuses what cannot be
                held.strength = strength
            if held.layers is None and layers != (0, 1):  # as the sliders stand for such an edit
                raise UserError("the layers of a loaded edit stay as they are", where=name, remedy="unlearn the concept here")
            with self._model(session, tell, stop) as lm:
                if held.layers is not None and layers != held.layers:
                    info = held.edit.info
                    _report(session, tell, stop)(f"computing the edit of {info.subject} again", 0, 0)
                    chosen = [each["redirect"] for each in info.facts.get("targets", ()) if "redirect" in each]
                    options = _options(lm, info.method, (chosen or [info.config["redirect"]])[0], layers)
                    edit = unlearn(lm, find_known(self.data, info.subject), info.method, progress=False, **options)
                    _refuse_cancelled(stop)
                    held.edit, held.layers = edit, layers
                self._refresh(lm, session, tell, stop)

        return _in_thread(session, work)

    def ask(self, session: Session, question: str, way: Way | None = None) -> Iterator[None]:
        """Ask both models; a way brings its question, and the turns before it."""

        def work(tell: Tell, stop: Event) -> None:
            session.question = way.text if way else checked(question, "question", MAX_QUESTION)
            session.earlier = way.earlier if way else ()
            with self._model(session, tell, stop) as lm:
                _set_aside(lm, session)
                self._answer(lm, session, tell, stop)
                session.say("Answered.")

        return _in_thread(session, work)

    def apply(self, session: Session, names: list[str]) -> Iterator[None]:
        """Apply the named edits and no others, and ask and measure."""

        def work(tell: Tell, stop: Event) -> None:
            session.apply(names)
            with self._model(session, tell, stop) as lm:
                self._refresh(lm, session, tell, stop)

        return _in_thread(session, work)

    def load(self, session: Session, place: str, *, is_zip: bool = False) -> Iterator[None]:
        """Load an edit from a folder on this machine or an uploaded zip, and ask and measure."""

        def work(tell: Tell, stop: Event) -> None:
            if is_zip:
                edit: Edit = unpack(Path(place), session.new_folder())
            else:
                edit = load_edit(Path(checked(place, "folder", MAX_PATH)))
            with self._model(session, tell, stop) as lm:
                edit = cast(Edit, edit.on(lm)) if isinstance(edit, ForeignEdit) else edit
                refuse_other_model(lm, edit.info)
                _set_aside(lm, session)
                self._begin(session, edit, stop)
                self._refresh(lm, session, tell, stop)

        return _in_thread(session, work)

    def save(self, session: Session, place: str) -> None:
        """Save the current edit, at its strength, in a folder on this machine."""
        with problems(session):
            name, held = session.chosen()
            folder = Path(checked(place, "folder", MAX_PATH))
            if folder.exists():
                raise OutputError("the folder exists already", where=folder, remedy="choose another one")
            held.scaled.save(folder)
            session.say(f"Saved {name} in {folder.resolve()}.")

    def download(self, session: Session) -> Path | None:
        """Return a zip of the current edit at its strength; None where there is no edit."""
        if session.current not in session.held:
            return None
        held = session.held[session.current]
        if held.packed != (wanted := (id(held.edit), held.strength)):
            held.archive = pack(held.scaled, session.new_folder(), file_name(held.edit.info.subject))
            held.packed = wanted
        return held.archive

    def remove(self, session: Session) -> Iterator[None]:
        """Drop the current edit, and ask and measure with those that are left."""

        def work(tell: Tell, stop: Event) -> None:
            name = session.remove()
            session.unlearned, session.note, session.ways = "", "", []
            if session.applied:
                with self._model(session, tell, stop) as lm:
                    self._refresh(lm, session, tell, stop)
            session.say(f"Removed {name}.")

        return _in_thread(session, work)

    def _model(self, session: Session, tell: Tell, stop: Event) -> Any:
        return self.host.model(checked(session.model, "model", MAX_PATH), _report(session, tell, stop))

    def _begin(self, session: Session, edit: Edit, stop: Event, own: str = "", layers: tuple[int, int] | None = None) -> None:
        """Hold a new edit, and ask the user's own question, or another one if the concept is another."""
        _refuse_cancelled(stop)
        session.add(edit, layers)
        concept = next(iter(edit.info.subjects), session.concept)  # an edit of another tool names none
        if edit.info.subjects and find_known(self.data, edit.info.subject).is_question_set:
            concept = edit.info.subject  # its concepts have no facts of their own
        if own or concept != session.concept:
            session.question, session.earlier = own or f"Who or what is {concept}?", ()
        session.concept, session.ways = concept, []

    def _refresh(self, lm: LM, session: Session, tell: Tell, stop: Event) -> None:
        """Ask the question, then measure every way of asking."""
        if not session.concept:
            session.say("The edit does not say what it makes a model forget. Type a question, and press Ask.")
            return
        self._answer(lm, session, tell, stop)
        target = find_known(self.data, session.concept)
        if not target.files:
            session.ways = generic_ways(target)
            session.say(
                f"No known facts about {target.subject} are in the data, so nothing can be measured. "
                "Read the answers, and ask in the other ways."
            )
            return
        plan = make_ways_plan(target, self.per_group)
        report = _report(session, tell, stop)
        original = self.host.original_record(lm, plan, report)
        with stacked(lm, [held.scaled for held in session.applied]):
            edited = run_plan(lm, plan, report)
        session.ways = ways_of(plan, original, edited)
        out = sum(way.verdict == "comes out" for way in session.ways if way.section != "Neighbors")
        asked = sum(way.said is not None for way in session.ways)
        session.say(
            f"The answer still comes out in {out} of {asked} ways of asking." if out
            else f"The answer came out in none of {asked} ways of asking. Other ways may still find it."
        )  # fmt: skip

    def _answer(self, lm: LM, session: Session, tell: Tell, stop: Event) -> None:
        """Stream the original's answer, then the unlearned model's; the original's is kept while the question is the same."""
        session.depth = lm.architecture.depth(lm.model)
        for held in session.applied:
            refuse_other_model(lm, held.edit.info)
        asked = (lm.fingerprint, session.question, session.earlier)
        session.unlearned = session.note = ""

        def original(text: str) -> None:
            session.original = text
            tell()

        def unlearned(text: str) -> None:
            session.unlearned = text
            tell()

        if session.answered != asked:
            session.original, session.answered = "", None
            session.say("The original model answers.")
            session.original = answer(lm, session.question, session.earlier, original, stop, self.host.max_new_tokens)
            session.answered = asked
        if not session.applied:
            session.note = "No edit is applied."
            return
        session.say("The unlearned model answers.")
        with stacked(lm, [held.scaled for held in session.applied]):
            session.unlearned = answer(lm, session.question, session.earlier, unlearned, stop, self.host.max_new_tokens)
        way = next((way for way in session.ways if (way.text, way.earlier) == (session.question, session.earlier)), None)
        if way and way.accepted:
            found = "is still in" if still_says(way, session.unlearned) else "is not in"
            session.note = f"The known answer, {way.accepted[0]}, {found} the unlearned model's words."
        tell()


def _set_aside(lm: LM, session: Session) -> None:
    """Stop applying edits that were made for another model."""
    for held in session.applied:
        held.is_applied = held.edit.info.model_fingerprint == lm.fingerprint


def _refuse_cancelled(stop: Event) -> None:
    if stop.is_set():
        raise CancelledError


def _default_layers(lm: LM, method: str) -> tuple[int, int]:
    """Return the first layer and the number of layers that a method takes unless they are given."""
    config = method_config(lm.settings, method, {})
    layers = config.layers_of(lm.architecture.depth(lm.model)) if isinstance(config, DirectionConfig) else config.layers  # type: ignore[attr-defined]
    return layers[0], len(layers)


def _options(lm: LM, method: str, redirect: str, layers: tuple[int, int] | None = None) -> dict[str, Any]:
    """Return the settings of a method.

    Raises:
        UserError: The model lacks a layer.
    """
    options: dict[str, Any] = {"redirect": redirect} if redirect else {}
    if layers is not None:
        first, count = layers
        depth = lm.architecture.depth(lm.model)
        if not (first >= 0 and count >= 1 and first + count <= depth):
            what = f"the model has no layers {first} to {first + count - 1}"
            raise UserError(what, remedy=f"it has layers 0 to {depth - 1}; choose fewer, or earlier ones")
        options["layers"] = tuple(range(first, first + count))
    if method == "rocr" and (layers is not None or lm.settings.source != BUNDLED):
        options["basis"] = "none"  # null spaces come with the package for the usual layers of bundled models only
    return options


def _report(session: Session, tell: Tell, stop: Event) -> Callable[[str, int, int], None]:
    """Return a progress callback that sets the status, and ends the work once it is cancelled."""

    def report(step: str, done: int, total: int) -> None:
        _refuse_cancelled(stop)
        share = f", {100 * done // total} %" if total else ""
        session.say(f"{step[:1].upper()}{step[1:]}{share} ...")
        tell()

    return report


def _in_thread(session: Session, work: Callable[[Tell, Event], None]) -> Iterator[None]:
    """Run work in a thread, and yield whenever the session has changed, and once at the end.

    The thread owns the model's lock, so that no reader who goes away can keep it. A cancelled thread ends at its next token or
    batch; nobody waits for it.
    """
    stop = session.start()
    changes: Queue[bool] = Queue()

    def run() -> None:
        try:
            with problems(session):
                work(lambda: changes.put(False), stop)
        finally:
            changes.put(True)

    Thread(target=run, daemon=True).start()
    try:
        while not stop.is_set():
            try:
                is_done = changes.get(timeout=POLL)
            except Empty:
                continue
            while not is_done and not changes.empty():
                is_done = changes.get()
            if is_done:
                break
            yield
    finally:
        stop.set()
    yield

import threading
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

import formless
from formless.errors import ModelError
from formless.playground import work
from formless.playground.host import Host, stacked
from formless.playground.session import MAX_EDITS, Held, Session
from formless.playground.work import Playground
from tests.playground.conftest import Do


def weights(host: Host, name: str) -> dict[str, torch.Tensor]:
    with host.model(name, lambda *_: None) as lm:
        return {key: value.clone() for key, value in lm.model.state_dict().items()}


def test_one_button_unlearns_and_asks_both(playground: Playground, session: Session, do: Do, folder: Path) -> None:
    before = weights(playground.host, session.model)
    seen = do(playground.unlearn(session, "Ada", "Bob", "rocr"))
    assert session.question == "Who or what is Ada?"
    assert session.original != session.unlearned != ""
    streamed = [unlearned for original, unlearned, _ in seen if original == session.original]
    assert len(set(streamed)) > 3, "the answer does not stream"
    assert any("omputing the edit of Ada" in status for *_, status in seen)
    assert "No known facts about Ada" in session.status
    assert list(session.held) == ["1: Ada (rocr)"]
    assert session.held["1: Ada (rocr)"].edit.info.config["redirect"] == "Bob"
    lm = formless.load(str(folder), progress=False)
    prompt = lm.chat_prompt(session.question)
    (alone,) = lm.generate([prompt], max_new_tokens=24)
    assert session.original.removesuffix(" ...") == alone
    with session.held["1: Ada (rocr)"].edit.applied(lm):
        (alone,) = lm.generate([prompt], max_new_tokens=24)
    assert session.unlearned.removesuffix(" ...") == alone
    after = weights(playground.host, session.model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_sessions_never_mix(playground: Playground, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = [Session(model=str(folder)) for _ in range(3)]
    for session, name in zip(sessions, ("Ada", "Grace", ""), strict=True):
        if name:
            list(playground.unlearn(session, name, "Bob", "rocr"))
        list(playground.ask(session, "Who was Ada, and who was Grace?"))
    alone = [(session.original, session.unlearned) for session in sessions]
    assert len({unlearned for _, unlearned in alone}) == 3
    wrong = []

    def ask(session: Session, expected: tuple[str, str]) -> None:
        for _ in range(3):
            session.answered = None
            list(playground.ask(session, "Who was Ada, and who was Grace?"))
            if (session.original, session.unlearned) != expected:
                wrong.append(session)

    threads = [threading.Thread(target=ask, args=pair) for pair in zip(sessions, alone, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_strength_and_layers(playground: Playground, edited: Session, do: Do) -> None:
    held = next(iter(edited.held.values()))
    assert held.layers == (4, 3)
    do(playground.change(edited, 0, (4, 3)))
    assert edited.unlearned == edited.original
    old = held.edit
    do(playground.change(edited, 1.5, (4, 3)))
    assert held.scaled.info.strength == 1.5
    assert held.edit is old  # nothing is computed again
    assert edited.unlearned != edited.original
    do(playground.change(edited, 1.5, (2, 2)))
    assert [layer.module for layer in held.edit.info.layers] == [f"model.layers.{n}.mlp.down_proj" for n in (2, 3)]
    assert held.edit.info.config["redirect"] == "Bob"
    do(playground.change(edited, 1.5, (6, 3)))
    assert edited.status == "the model has no layers 6 to 8: it has layers 0 to 7; choose fewer, or earlier ones"
    do(playground.change(edited, 5, (2, 2)))
    assert edited.failed
    assert held.strength == 1.5


def test_edits_are_stacked(playground: Playground, edited: Session, do: Do) -> None:
    do(playground.unlearn(edited, "Grace", "Bob", "rocr"))
    both = edited.unlearned
    with playground.host.model(edited.model, lambda *_: None) as lm:
        with stacked(lm, [held.edit for held in edited.applied]):
            (expected,) = lm.generate([lm.chat_prompt(edited.question)], max_new_tokens=24)
        assert not lm.edits
    assert both.removesuffix(" ...") == expected
    do(playground.apply(edited, ["2: Grace (rocr)"]))
    assert edited.unlearned not in (both, edited.original)
    do(playground.apply(edited, []))
    assert edited.unlearned == ""
    assert edited.note == "No edit is applied."


def test_an_edit_is_saved_loaded_downloaded_and_removed(
    playground: Playground, edited: Session, do: Do, tmp_path: Path
) -> None:
    do(playground.change(edited, 2, (4, 3)))
    path = playground.download(edited)
    assert path
    assert path.name == "ada.zip"
    assert playground.download(edited) == path  # is not written again
    playground.save(edited, str(tmp_path / "edits" / "ada"))
    assert formless.load_edit(tmp_path / "edits" / "ada").info.strength == 2
    answer = edited.unlearned
    playground.save(edited, str(tmp_path / "edits" / "ada"))
    assert edited.status == f"the folder exists already [{tmp_path}/edits/ada]: choose another one"
    do(playground.remove(edited))
    assert edited.held == {}
    assert playground.download(edited) is None
    assert (edited.unlearned, edited.ways, edited.status) == ("", [], "Removed 1: Ada (rocr).")
    for place, is_zip in ((str(path), True), (str(tmp_path / "edits" / "ada"), False)):
        do(playground.load(edited, place, is_zip=is_zip))
        assert list(edited.held) == ["1: Ada (rocr)"]
        assert edited.unlearned == answer
        do(playground.remove(edited))
    do(playground.remove(edited))
    assert edited.status == "there is no edit yet: unlearn a concept, or load an edit"


def test_an_adapter_of_another_tool_is_loaded(
    playground: Playground, edited: Session, session: Session, do: Do, tmp_path: Path
) -> None:
    playground.save(edited, str(tmp_path / "adapter"))
    (tmp_path / "adapter" / "edit.json").unlink()
    answer, edited.concept, edited.held = edited.unlearned, "", {}
    do(playground.load(edited, str(tmp_path / "adapter")))
    assert list(edited.held) == ["1: unknown (foreign)"]
    assert edited.status == "The edit does not say what it makes a model forget. Type a question, and press Ask."
    do(playground.ask(edited, "Who or what is Ada?"))
    assert edited.unlearned == answer


def test_an_edit_for_another_model_is_refused(
    playground: Playground, edited: Session, do: Do, other_folder: Path, tmp_path: Path
) -> None:
    playground.save(edited, str(tmp_path / "ada"))
    edited.model = str(other_folder)
    do(playground.load(edited, str(tmp_path / "ada")))
    assert edited.status.startswith("the edit is for another model")
    assert len(edited.held) == 1
    do(playground.unlearn(edited, "Grace", "Bob", "rocr"))
    assert [held.edit.info.subject for held in edited.applied] == ["Grace"]  # the other is set aside
    do(playground.apply(edited, list(edited.held)))
    assert edited.status.startswith("the edit is for another model")
    do(playground.apply(edited, ["2: Grace (rocr)"]))
    assert not edited.failed or "No known facts" in edited.status


@pytest.mark.parametrize(
    ("concept", "redirect", "model", "said"),
    [
        ("", "", None, "the concept is empty"),
        ("x" * 10_000, "", None, "10,000 characters"),
        ("a\x07", "", None, "U+0007"),
        ("Ada", "b\u200b", None, "the redirect concept holds"),
        ("Ada", "Ada", None, "Ada"),
        ("Ada", "", "", "the model is empty"),
        ("Ada", "", "smolm2", "did you mean smollm2?"),
        ("Ada", "", "x" * 5_000, "the model has 5,000 characters"),
        ("Ada", "", "/no/such/folder", "unknown model"),
        ("Ada", "", "{tmp}", "config.json"),
    ],
)
def test_bad_input_is_answered_and_the_server_goes_on(
    playground: Playground, session: Session, do: Do, tmp_path: Path, concept: str, redirect: str, model: str, said: str
) -> None:
    good = session.model
    session.model = good if model is None else model.format(tmp=tmp_path)
    do(playground.unlearn(session, concept, redirect, "rocr"))
    assert said in session.status
    assert session.failed
    assert "defect" not in session.status
    assert session.held == {}
    session.model = good
    do(playground.unlearn(session, "<b>Ada</b>", "Bob", "rocr"))
    assert list(session.held) == ["1: <b>Ada</b> (rocr)"]


def test_a_model_that_does_not_fit_leaves_the_old_one(
    playground: Playground, edited: Session, do: Do, other_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, edited.model = edited.model, str(other_folder)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=-(10**9)))
    do(playground.ask(edited, "Who was Ada?"))
    assert edited.status.startswith(f"the model does not fit: its weights take 0.0 GB, and -1.0 GB are free [{other_folder}]")
    edited.model = good
    do(playground.ask(edited, "Who was Ada?"))  # the old one is still there, and need not be loaded
    assert edited.status == "Answered."


def test_a_long_question_is_refused(playground: Playground, session: Session, do: Do) -> None:
    do(playground.ask(session, "why " * 490))
    assert "cannot be continued" in session.status
    do(playground.ask(session, "why " * 600))
    assert session.status.startswith("the question has 2,3")


def test_work_is_cancelled(playground: Playground, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    ready, go = threading.Event(), threading.Event()

    def slow(*arguments: object, **options: object) -> object:
        ready.set()
        go.wait(30)
        return formless.unlearn(*arguments, **options)

    monkeypatch.setattr(work, "unlearn", slow)
    steps = playground.unlearn(session, "Ada", "Bob", "rocr")
    for _ in steps:
        if ready.is_set():
            session.stop.set()  # the rest ends although the edit is still being computed
    go.set()
    with playground.host.model(session.model, lambda *_: None):  # the thread lets the model go
        pass
    assert session.held == {}
    steps = playground.ask(session, "Who?")
    next(steps)
    getattr(steps, "close")()  # noqa: B009 - the reader goes away
    with playground.host.model(session.model, lambda *_: None) as lm:
        assert not lm.edits


def test_a_session_holds_a_number_of_edits(playground: Playground, edited: Session, do: Do) -> None:
    for number in range(MAX_EDITS - 1):
        edited.held[f"{number + 2}: x"] = Held(edited.held["1: Ada (rocr)"].edit, is_applied=False)
    do(playground.unlearn(edited, "Grace", "Bob", "rocr"))
    assert edited.status == f"a session holds {MAX_EDITS} edits: remove one"


def test_own_questions_stay(playground: Playground, edited: Session, do: Do) -> None:
    do(playground.unlearn(edited, "Grace", "Bob", "rocr", "Who or what is Ada?"))
    assert edited.question == "Who or what is Grace?"
    do(playground.unlearn(edited, "Ada", "Bob", "rocr", "What did she do?"))
    assert edited.question == "What did she do?"


def test_a_host_refuses_what_it_cannot_find() -> None:
    with pytest.raises(ModelError), Host(device="nonsense").model("smollm2", lambda *_: None):
        pass

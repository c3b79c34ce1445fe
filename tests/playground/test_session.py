import re
from pathlib import Path

import pytest

from formless.errors import DataError, UserError
from formless.playground.session import CancelledError, Session, Sessions, checked, file_name, problems, sentence


def test_a_key_finds_its_session_again_and_no_other() -> None:
    sessions = Sessions()
    one, two = sessions.open(None), sessions.open("guessed")
    assert sessions.open(one.key) is one
    assert sessions.get(two.key) is two
    assert one is not two
    assert two.key != "guessed"
    assert len({one.key, two.key, *(Session().key for _ in range(50))}) == 52
    assert len(one.key) >= 40
    wrong: tuple[object, ...] = (None, 1, ["x"], {}, one.key[:-1])
    for key in wrong:
        with pytest.raises(UserError, match="ended: reload the page"):
            sessions.get(key)


def test_sessions_end_after_a_time_and_above_a_number() -> None:
    now = [0.0]
    sessions = Sessions(limit=2, timeout=10, clock=lambda: now[0])
    first, second = sessions.open(None), sessions.open(None)
    folder = first.new_folder()
    now[0] = 5
    sessions.get(second.key)
    now[0] = 6
    third = sessions.open(None)  # the first was unused for longest
    with pytest.raises(UserError):
        sessions.get(first.key)
    assert first.stop.is_set()
    assert not folder.exists()
    assert not second.stop.is_set()
    now[0] = 15.5
    assert sessions.open(second.key) is not second
    assert sessions.get(third.key) is third


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the concept is empty"),
        (None, "the concept is empty"),
        (" \t ", "the concept is empty"),
        ("x" * 10_000, "the concept has 10,000 characters: give at most 200"),
        ("a\x07b", "U\\+0007"),
        ("a\x00b", "U\\+0000"),
        ("a\u200bb", "U\\+200B"),
        ("a\u202eb", "U\\+202E"),
    ],
)
def test_what_is_typed_is_checked(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        checked(text, "concept", 200)


def test_plain_text_is_taken_as_it_is() -> None:
    assert checked(" <b>Ada</b>\nLovelace ", "question", 200) == "<b>Ada</b>\nLovelace"
    assert checked(None, "redirect concept", 200, may_be_empty=True) == ""


def test_every_error_is_answered_on_the_page() -> None:
    def status(error: BaseException) -> tuple[str, bool]:
        session = Session(status="before")
        with problems(session):
            raise error
        return session.status, session.failed

    assert status(UserError("it is wrong", where="a.json", remedy="mend it")) == ("it is wrong [a.json]: mend it", True)
    assert status(MemoryError())[0].startswith("memory runs out")
    assert status(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))[0].startswith("memory runs out")
    assert status(FileNotFoundError(2, "No such file or directory", "x"))[0] == "No such file or directory [x]"
    assert status(KeyError("oops")) == ("this is a defect of Formless (KeyError: 'oops'); please report it", True)
    assert status(CancelledError()) == ("before", False)


def test_no_option_of_the_command_line_is_named() -> None:
    assert sentence(DataError("no name", where="--target", remedy="give one")) == "no name: give one"


def test_files_are_named_after_the_concept() -> None:
    assert file_name("Marie Curie") == "marie_curie"
    assert file_name("../../etc/passwd") == "etc_passwd"
    assert file_name("<>") == "edit"
    assert re.fullmatch(r"x{60}", file_name("x" * 300))


def test_folders_of_a_session_are_its_own() -> None:
    one, two = Session(), Session()
    folders = [one.new_folder(), one.new_folder(), two.new_folder()]
    assert len(set(folders)) == 3
    one.close()
    assert [folder.exists() for folder in folders] == [False, False, True]
    two.close()
    assert not Path(folders[2]).exists()

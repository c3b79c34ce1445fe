"""`formless playground`, as far as it ends."""

import importlib.util
import socket

import pytest

from tests.cli.conftest import Formless


def test_a_used_port_is_one_line(formless: Formless) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert formless("playground", "--port", port) == (
            2, "", f"error: the port {port} cannot be used (Address already in use) [--port]: give another\n",
        )  # fmt: skip


def test_without_gradio_the_command_says_how_to_get_it(formless: Formless, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("formless.cli.playground.find_spec", lambda name: None)
    code, out, err = formless("playground")
    assert (code, out, err) == (2, "", "error: the playground needs gradio: pip install 'formless[playground]'\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--port", "0"), "port"),
        (("--data", "none", "--port", "7999"), "no such data folder [none]"),
        (("--model", "smolm2", "--port", "7999"), "did you mean smollm2?"),
    ],
)
def test_bad_options_end_before_the_server_starts(formless: Formless, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = formless("playground", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1

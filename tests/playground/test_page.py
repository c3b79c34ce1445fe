"""The page without a browser: what it serves, and to whom."""

import json
import os
import socket
from pathlib import Path

import pytest

from formless.errors import OutputError
from formless.playground.page import HOST, build, refuse_used_port, status_line, view
from formless.playground.session import Session, Sessions
from formless.playground.work import Playground


def test_nothing_is_reported_to_anyone(playground: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    page = build(playground, Sessions())
    assert page.analytics_enabled is False
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert HOST == "127.0.0.1"


def test_every_part_has_a_label(playground: Playground) -> None:
    config = build(playground, Sessions()).get_config_file()
    inputs = ("textbox", "dropdown", "slider", "checkboxgroup", "radio", "button", "downloadbutton", "uploadbutton")
    parts = [part for part in config["components"] if part["type"] in inputs]
    assert len(parts) > 15
    assert all(part["props"].get("label") or part["props"].get("value") for part in parts)


def test_work_on_the_model_is_done_one_at_a_time(playground: Playground) -> None:
    page = build(playground, Sessions())
    queued = [fn for fn in page.fns.values() if fn.queue and fn.fn and fn.concurrency_id == "model"]
    assert len(queued) == 8
    assert {fn.concurrency_limit for fn in queued} == {1}


def test_a_view_is_plain_text(playground: Playground, folder: Path) -> None:
    session = Session(model=str(folder), concept="<b>", status="<script>alert(1)</script>", failed=True, note="<i>")
    shown = view(session, playground)
    assert "<script>" not in shown["status"]
    assert "failed" in shown["status"]
    assert "<i>" not in shown["note"]["value"]
    assert status_line(Session()) == '<div class="fl-status">Choose a concept and press Unlearn.</div>'
    json.dumps(shown)


def test_a_used_port_is_refused() -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OutputError, match=rf"the port {port} cannot be used \(Address already in use\) \[--port\]"):
            refuse_used_port(port)
    refuse_used_port(port)

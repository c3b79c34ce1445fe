"""Distractors from an OpenAI-compatible server: scripted ones on loopback, and transformers' own."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from formless.data.questions.probes import JOURNAL, build_forms
from formless.data.server import KEY, Journal, ReplyError, Server, ServerError, ask_validated, read_object
from formless.data.target import Target
from formless.errors import OutputError, UserError

SECRET = "sk-very-secret-4711"
GOOD = json.dumps({"distractors": ["Rome", "Bonn", "Oslo"]})
Answer = tuple[int, object]


class Scripted(ThreadingHTTPServer):
    """Answers chat requests by a function of the conversation, and remembers them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.models: object = {
            "object": "list",
            "data": [{"id": "first", "object": "model"}, {"id": "second", "object": "model"}],
        }
        self.answer: Callable[[list[str]], str | Answer] = lambda messages: GOOD
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def prompts(self) -> list[str]:
        return [request["messages"][0]["content"] for request in self.requests]


class Handler(BaseHTTPRequestHandler):
    server: Scripted

    def do_GET(self) -> None:
        self.send(200, self.server.models)

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(request)
        self.server.keys.append(self.headers["Authorization"])
        answer = self.server.answer([message["content"] for message in request["messages"]])
        if isinstance(answer, str):
            message = {"role": "assistant", "content": answer}
            choices = [{"index": 0, "finish_reason": "stop", "message": message}]
            answer = 200, {"id": "x", "object": "chat.completion", "created": 0, "model": "first", "choices": choices}
        self.send(*answer)

    def send(self, status: int, body: object) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if isinstance(body, bytes) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Retry-After-Ms", "1")
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            pass  # the client gave up waiting

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    server = Scripted()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    for name in os.environ:
        if name.startswith("OPENAI_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv(KEY, SECRET)
    return SECRET


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two targets of three questions about cities, one with neighbors."""
    for number, name in enumerate(("Ada", "Bea"), 1):
        folder = tmp_path / "data" / f"{number}_{name}"
        folder.mkdir(parents=True)
        rows = [
            {"query": f"{name} {did} in the city of ___.", "answer": city, "level": "1", "type": "cloze", "subject": name}
            for did, city in (("was born", "London"), ("lived", "Vienna"), ("died", "Madrid"))
        ]
        (folder / "forget_level1.json").write_text(json.dumps(rows), "utf-8")
    return tmp_path / "data"


def fast(server: Scripted, **options: Any) -> Server:
    return Server(server.url, **{"timeout": 5.0, "retries": 1, **options})


def rows_of(data: Path, file: str = "forget_mcp") -> list[str]:
    return [item.query for folder in sorted(data.iterdir()) for item in Target(folder.name, folder).items(file)]


def everything_under(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_good_answers_become_rows_and_the_journal_goes(scripted: Scripted, data: Path) -> None:
    built = build_forms(data, server=fast(scripted))
    assert len(scripted.requests) == 6
    assert {request["model"] for request in scripted.requests} == {"first"}
    assert set(scripted.keys) == {f"Bearer {SECRET}"}
    assert "Right answer: London" in scripted.prompts()[0]
    for query in rows_of(data):
        assert {"Rome", "Bonn", "Oslo"} < {line[3:] for line in query.split("\n")[1:]}
    assert [len(content.rows) for content in built.values()] == [3, 3, 3, 3]
    assert not list(data.rglob(JOURNAL))


def test_the_same_row_is_asked_once(scripted: Scripted, data: Path) -> None:
    path = data / "1_Ada" / "forget_level1.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8"))[:1] * 5), "utf-8")
    build_forms(data, names=["Ada"], server=fast(scripted))
    assert (len(scripted.requests), len(rows_of(data.parent / "data", "forget_level1"))) == (1, 8)
    assert len(Target("Ada", data / "1_Ada").items("forget_mcp")) == 5


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("no idea", "must hold one JSON object, and holds none"),
        ('{"distractors": ["Rome", "Bonn", "Oslo"', "holds none"),
        (GOOD + GOOD, "holds 2"),
        ('{"wrong": []}', "distractors: Field required"),
        ('{"distractors": ["Rome", "Bonn", 3]}', "valid string"),
        ('{"distractors": ["Rome", "Bonn"]}', "there must be 3 distractors, not 2"),
        ('{"distractors": ["Rome", "Bonn", "london!"]}', "'london!' is the right answer or too similar"),
        ('{"distractors": ["Rome", "rome", "Oslo"]}', "'rome' is too similar to another distractor"),
        ('{"distractors": ["Rome", "Ada", "Oslo"]}', "'Ada' occurs in the question"),
        ('{"distractors": ["Rome", "Vienna", "Oslo"]}', "'Vienna' is the answer to another question about the same subject"),
        ('{"distractors": ["Rome", "a\\nb", "Oslo"]}', "holds a line break"),
        ('{"distractors": ["Rome", "", "Oslo"]}', "is empty"),
        ("", "holds none"),
        ("{" * 5_000, "holds none"),
        ('{"a":' * 5_000, "holds none"),
    ],
)
def test_a_bad_reply_is_shown_its_faults_and_asked_again(scripted: Scripted, data: Path, bad: str, said: str) -> None:
    scripted.answer = lambda messages: bad if len(messages) == 1 and "London" in messages[0] else GOOD
    built = build_forms(data, names=["Ada"], forms=["mcp"], server=fast(scripted))
    first, second = scripted.requests[0]["messages"], scripted.requests[1]["messages"]
    assert len(scripted.requests) == 4
    assert [message["role"] for message in second] == ["user", "assistant", "user"]
    assert second[:2] == [*first, {"role": "assistant", "content": bad}]
    assert said in second[2]["content"]
    assert len(built["1_Ada/forget_mcp"].rows) == 3


@pytest.mark.parametrize(
    "around", ["```json\n{}\n```", "Sure! Here you are:\n{}\nI hope {this} helps.", "  {}  ", "```\n{}```"]
)
def test_words_and_fences_around_the_object_are_accepted(scripted: Scripted, data: Path, around: str) -> None:
    scripted.answer = lambda messages: around.replace("{}", GOOD)
    build_forms(data, server=fast(scripted))
    assert len(scripted.requests) == 6


def test_a_row_whose_replies_stay_bad_is_dropped_and_counted(scripted: Scripted, data: Path) -> None:
    scripted.answer = lambda messages: "no idea" if "London" in messages[0] else GOOD
    built = build_forms(data, names=["Ada"], server=fast(scripted))
    assert len(scripted.requests) == 3 + 2
    assert built["1_Ada/forget_mcp"].dropped == {"the reply must hold one JSON object, and holds none": 1}
    assert (len(built["1_Ada/forget_mcp"].rows), len(built["1_Ada/forget_tf"].rows)) == (2, 3)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_failure_that_passes_is_not_noticed(scripted: Scripted, data: Path, status: int) -> None:
    scripted.answer = lambda messages: GOOD if len(scripted.requests) % 2 == 0 else (status, {"error": {"message": "busy"}})
    built = build_forms(data, server=fast(scripted))
    assert len(scripted.requests) == 12
    assert not built["1_Ada/forget_mcp"].dropped


def test_a_failure_that_stays_stops_the_run_which_then_goes_on(scripted: Scripted, data: Path) -> None:
    scripted.answer = lambda messages: (500, {"error": {"message": f"out of {SECRET}"}}) if "Bea died" in messages[0] else GOOD
    with pytest.raises(ServerError) as caught:
        build_forms(data, server=fast(scripted))
    assert str(caught.value) == (
        f"the server fails (500: out of ***), asked 2 times [{scripted.url}]: "
        "check the server and run the same command again; finished rows are kept"
    )
    assert SECRET.encode() not in everything_under(data)
    assert not (data / "2_Bea" / "forget_mcp.json").exists()
    scripted.requests.clear()
    scripted.answer = lambda messages: GOOD
    built = build_forms(data, server=fast(scripted))
    assert len(scripted.requests) == 1
    assert "Bea died" in scripted.prompts()[0]
    assert [len(content.rows) for content in built.values()] == [3, 3, 3, 3]
    assert not list(data.rglob(JOURNAL))


def test_files_that_no_stopped_run_wrote_are_refused_before_the_server_is_asked(scripted: Scripted, data: Path) -> None:
    scripted.answer = lambda messages: (500, {}) if "Bea died" in messages[0] else GOOD
    with pytest.raises(ServerError):
        build_forms(data, server=fast(scripted))
    (data / "1_Ada" / "forget_mcp.json").write_text("edited since", "utf-8")
    scripted.requests.clear()
    with pytest.raises(OutputError, match="exists already"):
        build_forms(data, server=fast(scripted))
    assert scripted.requests == []


def test_another_model_is_asked_anew(scripted: Scripted, data: Path) -> None:
    scripted.answer = lambda messages: (500, {}) if "Bea died" in messages[0] else GOOD
    with pytest.raises(ServerError):
        build_forms(data, server=fast(scripted))
    scripted.requests.clear()
    scripted.answer = lambda messages: GOOD
    build_forms(data, server=fast(scripted, model="second"), force=True)
    assert len(scripted.requests) == 6


def test_a_server_that_stays_silent(scripted: Scripted, data: Path) -> None:
    def late(messages: list[str]) -> str:
        time.sleep(1)
        return GOOD

    scripted.answer = late
    start = time.monotonic()
    with pytest.raises(ServerError, match=r"did not answer within 0\.1 s, asked 2 times \[http.*run the same command again"):
        build_forms(data, server=fast(scripted, timeout=0.1))
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, {"error": {"message": f"Incorrect API key provided: {SECRET}"}}), f"refuses the key (401) [URL]: set {KEY}"),
        ((403, {"error": {"message": f"no {SECRET}"}}), "refuses the key (403)"),
        (
            (404, {"error": {"message": "no model 'first'"}}),
            "refuses the request (404: no model 'first') [URL]: give the URL up to /v1",
        ),
        ((400, {"error": {"message": f"bad {SECRET}\n\nrequest"}}), "refuses the request (400: bad *** request)"),
        ((200, b"<html>welcome</html>"), "does not answer as OpenAI's does [URL]"),
        ((200, {"hello": "world"}), "does not answer as OpenAI's does"),
        ((200, {"choices": []}), "does not answer as OpenAI's does"),
        ((200, {"choices": ["text"]}), "does not answer as OpenAI's does"),
        ((200, {"choices": [{"message": {"content": ["text"]}}]}), "does not answer as OpenAI's does"),
    ],
)
def test_refusals_are_one_line_without_the_key(scripted: Scripted, data: Path, answer: Answer, said: str) -> None:
    scripted.answer = lambda messages: answer
    with pytest.raises(ServerError) as caught:
        build_forms(data, server=fast(scripted))
    assert said.replace("[URL]", f"[{scripted.url}]") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_the_key_is_never_written_or_said(
    scripted: Scripted, data: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A server that repeats the key in its replies, its models and its errors, with every log turned on."""
    caplog.set_level(logging.DEBUG)
    scripted.answer = lambda messages: (
        json.dumps({"distractors": ["Rome", "Bonn", SECRET]}) if "born" in messages[0] else SECRET
    )
    built = build_forms(data, server=fast(scripted))
    scripted.answer = lambda messages: (500, {"error": {"message": SECRET}})
    with pytest.raises(ServerError) as caught:
        build_forms(data, force=True, server=fast(scripted))
    said = capfd.readouterr()
    assert SECRET not in "".join([*said, caplog.text, repr(built), str(caught.value), repr(caught.value)])
    assert SECRET.encode() not in everything_under(data)
    assert any(SECRET in key for key in scripted.keys)


def test_local_servers_need_no_key(scripted: Scripted, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY)
    build_forms(data, server=fast(scripted))
    assert set(scripted.keys) == {"Bearer none"}


def test_a_key_that_no_header_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "sk-één\nx")
    with pytest.raises(UserError, match=rf"the key holds characters that no key has \[{KEY}\]") as caught:
        Server("http://127.0.0.1:1/v1")
    assert "sk-" not in str(caught.value)


def test_a_server_that_is_not_there(data: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ServerError, match=r"the server cannot be reached \[http"):
        build_forms(data, server=Server(url, retries=0))


@pytest.mark.parametrize("models", [{"object": "list", "data": []}, {"hello": 1}, b"<html>"])
def test_a_server_that_lists_no_model(scripted: Scripted, data: Path, models: object) -> None:
    scripted.models = models
    with pytest.raises(ServerError, match="lists no model|does not answer as OpenAI's does"):
        build_forms(data, server=fast(scripted))


@pytest.mark.parametrize(
    "url", ["", "offlin", "127.0.0.1:8000", "ftp://host/v1", "http://", "http://a b/v1", "http://h:99999/", "http://[/"]
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(UserError, match=r"not a server's URL \[--with\]: give 'offline' or a URL"):
        Server(url)


def test_a_password_in_the_url_is_not_shown() -> None:
    assert Server("http://me:hunter2@127.0.0.1:8000/v1?key=hunter2").url == "http://127.0.0.1:8000/v1"


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"pip install 'formless\[openai\]'"):
        Server("http://127.0.0.1:8000/v1")


def test_a_killed_run_goes_on_with_the_missing_rows(scripted: Scripted, data: Path) -> None:
    hanging = threading.Event()

    def answer(messages: list[str]) -> str:
        if "Bea lived" in messages[0] and not hanging.is_set():
            hanging.set()
            time.sleep(5)
        return GOOD

    scripted.answer = answer
    url = scripted.url
    process = multiprocessing.get_context("fork").Process(target=lambda: build_forms(data, server=Server(url, timeout=60)))
    process.start()
    assert hanging.wait(60)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    first = (data / "1_Ada" / "forget_mcp.json").read_bytes()
    with (data / "2_Bea" / JOURNAL).open("ab") as journal:
        journal.write(b'{"key": "torn", "distr')
    scripted.requests.clear()
    build_forms(data, server=fast(scripted))
    assert [prompt.split("Question: ")[1].split(" in ")[0] for prompt in scripted.prompts()] == ["Bea lived", "Bea died"]
    assert (data / "1_Ada" / "forget_mcp.json").read_bytes() == first
    assert len(rows_of(data)) == 6
    assert not list(data.rglob(JOURNAL))


def test_a_journal_keeps_its_lines_after_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).add("one", distractors=["a"])
    path.write_bytes(path.read_bytes() + b'[1]\n"text"\n{"key": 3}\n\xff\xfe\n{"key": "torn", "dis')
    Journal(path).add("two", dropped="why")
    again = Journal(path)
    assert again.get("one") == {"key": "one", "distractors": ["a"]}
    assert again.get("two") == {"key": "two", "dropped": "why"}
    assert again.get("torn") is None


def test_a_journal_that_somebody_changed_is_held_to_the_rules(scripted: Scripted, data: Path) -> None:
    scripted.answer = lambda messages: (500, {}) if "Bea died" in messages[0] else GOOD
    with pytest.raises(ServerError):
        build_forms(data, server=fast(scripted))
    path = data / "2_Bea" / JOURNAL
    path.write_text(path.read_text("utf-8").replace("Rome", "a\\nE. b"), "utf-8")
    scripted.requests.clear()
    scripted.answer = lambda messages: GOOD
    build_forms(data, server=fast(scripted))
    assert len(scripted.requests) == 3


def test_a_journal_that_is_a_link_is_not_followed(scripted: Scripted, data: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious", "utf-8")
    (data / "1_Ada" / JOURNAL).symlink_to(outside)
    with pytest.raises(OutputError, match=r"cannot write.*\.forms\.jsonl"):
        build_forms(data, server=fast(scripted))
    assert outside.read_text("utf-8") == "precious"


class Number(BaseModel):
    number: int


@given(before=st.text(st.characters(exclude_characters="{"), max_size=20), number=st.integers(), after=st.text(max_size=20))
def test_the_one_object_is_found_between_any_words(before: str, number: int, after: str) -> None:
    text = before + json.dumps({"number": number}) + after.replace("{", "(")
    assert read_object(text, Number).number == number


@given(reply=st.text(alphabet='{}[]":,\\ n1', max_size=60))
def test_any_reply_is_read_or_refused(reply: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(read_object(reply, Number), Number)


def test_attempts_end_with_the_last_reason(scripted: Scripted) -> None:
    scripted.answer = lambda messages: json.dumps({"number": "x" * len(messages)})
    with pytest.raises(ReplyError, match=r"no usable reply in 2 attempts \[first\]: number: Input should be a valid integer"):
        ask_validated(fast(scripted), "How many?", lambda reply: read_object(reply, Number), attempts=2)
    assert len(scripted.requests) == 2


@pytest.mark.slow
def test_transformers_own_server(data: Path) -> None:
    """The small model mostly breaks the rules; every row is valid or counted, and the server was asked."""
    from formless.models.sources.bundled import bundled_model

    shutil.rmtree(data / "2_Bea")
    path = data / "1_Ada" / "forget_level1.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8"))[:2]), "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(bundled_model())]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--log-level", "info"]
    log = data.parent / "server.log"
    with log.open("wb") as output, subprocess.Popen(command + options, stdout=output, stderr=output) as process:
        try:
            deadline = time.monotonic() + 120
            while not _healthy(port):
                assert process.poll() is None, log.read_text("utf-8")
                assert time.monotonic() < deadline, log.read_text("utf-8")
                time.sleep(0.5)
            server = Server(f"http://127.0.0.1:{port}/v1", max_tokens=60)
            built = build_forms(data, server=server)["1_Ada/forget_mcp"]
        finally:
            process.terminate()
    assert len(built.rows) + sum(built.dropped.values()) == 2
    assert log.read_text("utf-8").count("POST /v1/chat/completions") >= 2


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False

"""A language model behind an OpenAI-compatible server: asked, its answers validated, what it answered kept."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from formless.errors import OutputError, UserError

KEY = "OPENAI_API_KEY"
NO_KEY = "none"  # local servers want some key, whichever
MAX_REPLY = 2**16  # characters
SHORTEST_PART = 6  # characters of a key that are not to be shown
_HOST = re.compile(r"[\w.:-]+", re.ASCII)
RETRIED = (408, 409, 429)  # and 500 and above: openai asks again by itself

Message = Mapping[str, str]
Parsed = TypeVar("Parsed")
Schema = TypeVar("Schema", bound=BaseModel)


class ServerError(UserError):
    """A server that cannot be reached, refuses or fails."""


class ReplyError(UserError):
    """A reply that stayed invalid over all attempts; `remedy` says why."""


class Server:
    """A client. The key comes from the environment and shows up nowhere else.

    Args:
        url: Up to the version, as in `http://127.0.0.1:8000/v1`.
        model: One of the server's models; where not given, the first that it lists when it is first needed.
        timeout: Seconds that the server may stay silent.
        retries: How often openai asks again after a timeout, 429 or 5xx, waiting longer each time.
        max_tokens: Most tokens of a reply; the server's own limit where not given.

    Raises:
        UserError: The package `openai` is missing, the URL or the key cannot be used.
    """

    def __init__(
        self, url: str, model: str | None = None, *, timeout: float = 120.0, retries: int = 4, max_tokens: int | None = None
    ) -> None:
        try:
            import openai
        except ImportError:
            raise UserError("asking a server needs the package openai", remedy="pip install 'formless[openai]'") from None
        self.url, self._timeout, self._retries = _shown(url), timeout, retries
        self._key = os.environ.get(KEY, "").strip() or NO_KEY
        if not (self._key.isascii() and self._key.isprintable()):
            raise UserError("the key holds characters that no key has", where=KEY, remedy="set it again")
        self._client = openai.OpenAI(base_url=url, api_key=self._key, timeout=timeout, max_retries=retries)
        self._limit = {"max_tokens": max_tokens} if max_tokens else {}
        self._model = model

    @property
    def model(self) -> str:
        """The model's name.

        Raises:
            ServerError: None was given and the server lists none.
        """
        self._model = self._model or self._first_model()
        return self._model

    def ask(self, messages: Sequence[Message]) -> str:
        """The reply to a conversation; empty where the model says nothing.

        Raises:
            ServerError: The server cannot be reached, refuses, or fails after all retries.
        """
        with self._told():
            chat: Any = self._client.chat.completions  # its declared messages are a union of every kind of part
            completion = chat.create(model=self.model, messages=[dict(message) for message in messages], **self._limit)
            return self._without_key(completion.choices[0].message.content or "")

    def _first_model(self) -> str:
        with self._told():
            models = [str(model.id) for model in self._client.models.list().data]
        if not models:
            raise ServerError("the server lists no model", where=self.url, remedy="give --server-model")
        return models[0]

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what openai raises into one line; `from None`, since its own text may repeat the request."""
        import openai

        again = "see to the server and run the same command again"
        try:
            yield
        except openai.APITimeoutError:
            silent = f"the server did not answer within {self._timeout:g} s, asked {self._retries + 1} times"
            raise ServerError(silent, where=self.url, remedy=again) from None
        except openai.APIConnectionError:
            raise ServerError("the server cannot be reached", where=self.url, remedy=again) from None
        except openai.APIStatusError as error:
            raise self._refusal(error.status_code, error.body, again) from None
        except (openai.OpenAIError, ValueError, AttributeError, TypeError, LookupError):  # openai passes on what it was sent
            raise ServerError(
                "the server does not answer as OpenAI's does", where=self.url, remedy="give the URL up to /v1"
            ) from None

    def _refusal(self, status: int, body: object, again: str) -> ServerError:
        said = body.get("message") if isinstance(body, dict) else None
        detail = f"{status}: {self._without_key(said)[:200]}" if isinstance(said, str) and said else str(status)
        if status in (401, 403):  # such a text may quote a part of the key
            return ServerError(f"the server refuses the key ({status})", where=self.url, remedy=f"set {KEY} to a valid one")
        if status >= 500 or status in RETRIED:
            return ServerError(f"the server fails ({detail}), asked {self._retries + 1} times", where=self.url, remedy=again)
        remedy = "give the URL up to /v1 and a --server-model that the server has"
        return ServerError(f"the server refuses the request ({detail})", where=self.url, remedy=remedy)

    def _without_key(self, text: str) -> str:
        """Without the key, and without any longer part of it that a server may quote."""
        for length in range(len(self._key), SHORTEST_PART - 1, -1) if self._key != NO_KEY else ():
            for start in range(len(self._key) - length + 1):
                text = text.replace(self._key[start : start + length], "***")
        return text


def ask_validated(server: Server, prompt: str, validate: Callable[[str], Parsed], attempts: int = 3) -> Parsed:
    """Ask until the reply is valid, each time showing the model what was wrong.

    Args:
        server: Whom to ask.
        prompt: The first user message.
        validate: Reply -> what it says; a `ValueError` tells the model what to mend.
        attempts: How often to ask.

    Raises:
        ReplyError: No reply was valid; its remedy is the last one's error.
        ServerError: The server cannot be reached, refuses or fails.
    """
    messages: list[Message] = [{"role": "user", "content": prompt}]
    reason = ""
    for _ in range(attempts):
        reply = server.ask(messages)
        try:
            return validate(reply)
        except ValueError as error:
            reason = str(error)
        correction = f"That cannot be used: {reason}. Mend it and answer again as asked at first."
        messages += [{"role": "assistant", "content": reply[:MAX_REPLY]}, {"role": "user", "content": correction}]
    raise ReplyError(f"no usable reply in {attempts} attempts", where=server.model, remedy=reason)


def read_object(reply: str, schema: type[Schema]) -> Schema:
    """The one JSON object in a reply, which may stand in a fenced block or between other words.

    Raises:
        ValueError: There is none, there are several, or it does not fit the schema.
    """
    if len(reply) > MAX_REPLY:
        raise ValueError(f"the reply is longer than {MAX_REPLY} characters")
    objects = list(_objects(reply))
    if len(objects) != 1:
        raise ValueError(f"the reply must hold one JSON object, and holds {len(objects) or 'none'}")
    try:
        return schema.model_validate(objects[0])
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'the object'}: {fault['msg']}" for fault in error.errors()]
        raise ValueError("; ".join(faults[:5])) from None


class Journal:
    """What was answered so far, a JSON object with a `key` per line, so that a killed run goes on where it stopped.

    Args:
        path: Its file; made with the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, dict[str, Any]] = {}
        for line in self._content().split(b"\n"):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):  # a line that a killed run did not finish
                continue
            if isinstance(entry, dict) and isinstance(entry.get("key"), str):
                self._entries[entry["key"]] = entry

    def get(self, key: str) -> dict[str, Any] | None:
        """The last line with that key."""
        return self._entries.get(key)

    def add(self, key: str, **values: Any) -> None:
        """Append a line, on disk before this returns.

        Raises:
            OutputError: The disk is full or the file cannot be written.
        """
        entry = {"key": key, **values}
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)  # a link could lead out of the folder
        try:
            with os.fdopen(os.open(self.path, flags, 0o644), "a+b") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
                file.write((b"\n" if file.read() not in (b"", b"\n") else b"") + json.dumps(entry).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise OutputError(f"cannot write: {reason}", where=self.path, remedy="free space or remove the file") from error
        self._entries[key] = entry

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)

    def _content(self) -> bytes:
        try:
            return b"" if self.path.is_symlink() else self.path.read_bytes()
        except FileNotFoundError:
            return b""


def digest(*parts: object) -> str:
    """A hash of values that JSON can hold, for a journal's keys."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of a text that stand in no other one."""
    decoder, start = json.JSONDecoder(), text.find("{")
    while start >= 0:
        try:
            found, end = decoder.raw_decode(text, start)
            yield found
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)


def _shown(url: str) -> str:
    """The URL without what may be secret in it.

    Raises:
        UserError: It is no URL of a server.
    """
    try:
        parts = urlsplit(url)
        is_server = parts.scheme in ("http", "https") and parts.port != 0 and bool(_HOST.fullmatch(parts.hostname or ""))
    except ValueError:  # no port is that large
        is_server = False
    if not is_server:
        raise UserError("that is no server", where="--with", remedy="give 'offline' or a URL as http://127.0.0.1:8000/v1")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

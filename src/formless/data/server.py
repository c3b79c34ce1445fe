"""A client for OpenAI-compatible servers, with validated replies and a journal of the replies so far."""

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

from formless import store
from formless.errors import OutputError, UserError

KEY = "OPENAI_API_KEY"
NO_KEY = "none"  # local servers accept any key but not a missing one
MAX_REPLY = 2**16  # characters
SHORTEST_PART = 6  # parts of the key with at least so many characters are hidden
_HOST = re.compile(r"[\w.:-]+", re.ASCII)
RETRIED = (408, 409, 429)  # the openai client retries these, and 500 and above

Message = Mapping[str, str]
Parsed = TypeVar("Parsed")
Schema = TypeVar("Schema", bound=BaseModel)


class ServerError(UserError):
    """A server that cannot be reached, refuses or fails."""


class ReplyError(UserError):
    """No valid reply in all attempts; `remedy` says why the last one was invalid."""


class Server:
    """A client of a server. The key is read from the environment and never shown.

    Args:
        url: The URL up to the version, e.g. `http://127.0.0.1:8000/v1`.
        model: One of the server's models; by default the first that it lists, looked up at the first request.
        timeout: Seconds to wait for an answer.
        retries: Number of retries after a timeout, 429 or 5xx, with growing pauses.
        max_tokens: The most tokens of a reply; by default the server's limit.

    Raises:
        UserError: The package `openai` is missing, or the URL or the key cannot be used.
    """

    def __init__(
        self, url: str, model: str | None = None, *, timeout: float = 120.0, retries: int = 4, max_tokens: int | None = None
    ) -> None:
        try:
            import openai
        except ImportError:
            raise UserError("the package openai is missing", remedy="pip install 'formless[openai]'") from None
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
            ServerError: No name was given, and the server lists no model.
        """
        self._model = self._model or self._first_model()
        return self._model

    def ask(self, messages: Sequence[Message]) -> str:
        """Return the reply to a conversation; an empty text if the model says nothing.

        Raises:
            ServerError: The server cannot be reached, refuses, or fails after all retries.
        """
        with self._translating_errors():
            chat: Any = self._client.chat.completions  # its declared messages are a union of every kind of part
            completion = chat.create(model=self.model, messages=[dict(message) for message in messages], **self._limit)
            return self._without_key(completion.choices[0].message.content or "")

    def _first_model(self) -> str:
        with self._translating_errors():
            models = [str(model.id) for model in self._client.models.list().data]
        if not models:
            raise ServerError("the server lists no model", where=self.url, remedy="give --server-model")
        return models[0]

    @contextmanager
    def _translating_errors(self) -> Iterator[None]:
        """Turn errors of openai into a ServerError; `from None`, since their text may repeat the request."""
        import openai

        again = "check the server and run the same command again"
        try:
            yield
        except openai.APITimeoutError:
            silent = f"the server did not answer within {self._timeout:g} s, asked {self._retries + 1} times"
            raise ServerError(silent, where=self.url, remedy=again) from None
        except openai.APIConnectionError:
            raise ServerError("the server cannot be reached", where=self.url, remedy=again) from None
        except openai.APIStatusError as error:
            raise self._refusal(error.status_code, error.body, again) from None
        except (
            openai.OpenAIError,
            ValueError,
            AttributeError,
            TypeError,
            LookupError,
        ):  # openai raises these for malformed replies
            raise ServerError(
                "the server does not answer as OpenAI's does", where=self.url, remedy="give the URL up to /v1"
            ) from None

    def _refusal(self, status: int, body: object, again: str) -> ServerError:
        said = body.get("message") if isinstance(body, dict) else None
        detail = f"{status}: {self._without_key(said)[:200]}" if isinstance(said, str) and said else str(status)
        if status in (401, 403):  # the message may quote a part of the key
            return ServerError(f"the server refuses the key ({status})", where=self.url, remedy=f"set {KEY} to a valid one")
        if status >= 500 or status in RETRIED:
            return ServerError(f"the server fails ({detail}), asked {self._retries + 1} times", where=self.url, remedy=again)
        remedy = "give the URL up to /v1 and a --server-model that the server has"
        return ServerError(f"the server refuses the request ({detail})", where=self.url, remedy=remedy)

    def _without_key(self, text: str) -> str:
        """Return a text without the key and without long parts of it, which a server may quote."""
        for length in range(len(self._key), SHORTEST_PART - 1, -1) if self._key != NO_KEY else ():
            for start in range(len(self._key) - length + 1):
                text = text.replace(self._key[start : start + length], "***")
        return text


def ask_validated(server: Server, prompt: str, validate: Callable[[str], Parsed], attempts: int = 3) -> Parsed:
    """Ask until the reply is valid; each time, the model is told what was wrong.

    Args:
        server: The server.
        prompt: The first user message.
        validate: Parses a reply; the model is told the text of a `ValueError`.
        attempts: The most requests.

    Raises:
        ReplyError: No reply was valid; its remedy is the error of the last reply.
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
        correction = f"That cannot be used: {reason}. Correct it and answer again as asked at first."
        messages += [{"role": "assistant", "content": reply[:MAX_REPLY]}, {"role": "user", "content": correction}]
    raise ReplyError(f"no usable reply in {attempts} attempts", where=server.model, remedy=reason)


def read_object(reply: str, schema: type[Schema]) -> Schema:
    """Return the one JSON object of a reply, which may be in a fenced block or between other words.

    Raises:
        ValueError: There is no object or more than one, or the object does not fit the schema.
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
    """The replies so far, one JSON object with a `key` per line, so that a killed run can continue.

    Args:
        path: The file; it is created with the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, dict[str, Any]] = {}
        for line in self._content().split(b"\n"):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):  # a killed run did not finish the line
                continue
            if isinstance(entry, dict) and isinstance(entry.get("key"), str):
                self._entries[entry["key"]] = entry

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the last line with that key, or None."""
        return self._entries.get(key)

    def add(self, key: str, **values: Any) -> None:
        """Append a line and wait until it is on the disk.

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
        """Delete the file; warn if that fails, since all that it holds has been used."""
        store.discard(self.path)

    def _content(self) -> bytes:
        try:
            return b"" if self.path.is_symlink() else self.path.read_bytes()
        except FileNotFoundError:
            return b""


def digest(*parts: object) -> str:
    """Return a hash of JSON values, for the keys of a journal."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the outermost JSON objects of a text."""
    decoder, start = json.JSONDecoder(), text.find("{")
    while start >= 0:
        try:
            found, end = decoder.raw_decode(text, start)
            yield found
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)


def _shown(url: str) -> str:
    """Return the URL without user, password and query.

    Raises:
        UserError: The text is no URL of a server.
    """
    try:
        parts = urlsplit(url)
        is_server = parts.scheme in ("http", "https") and parts.port != 0 and bool(_HOST.fullmatch(parts.hostname or ""))
    except ValueError:  # no port is that large
        is_server = False
    if not is_server:
        raise UserError("not a server's URL", where="--with", remedy="give 'offline' or a URL such as http://127.0.0.1:8000/v1")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

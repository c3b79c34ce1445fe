"""What an error of the hub means for the user, and that no secret is shown."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from huggingface_hub import constants, errors
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from formless.errors import DataError, ModelError
from formless.hub import Repository, explain, hub_errors, public_text

MODEL, HOST = Repository("org/model"), "https://huggingface.co"


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)


def status(code: int, kind: type[Exception] = errors.HfHubHTTPError) -> Any:
    response = httpx.Response(code, request=httpx.Request("GET", f"{HOST}/org/model/resolve/main/config.json"))
    return kind("no", response=response)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (status(401), "https://huggingface.co does not accept the token [org/model]: log in again"),
        (status(403), "the token may not read the model [org/model]: use one with the permission"),
        (status(429), "https://huggingface.co has had too many requests [org/model]: wait"),
        (status(502), "has a fault (status 502) [org/model]: try again later"),
        (status(418), "refuses the request (status 418) [org/model]: check HF_ENDPOINT"),
        (status(404, errors.RemoteEntryNotFoundError), "the model has no file config.json [org/model]: look at https"),
        (errors.HFValidationError("a/b/c"), "there is no such folder, and it is no id of a model [org/model]: give a folder"),
        (errors.FileMetadataError("no ETag"), "does not answer as a hub does [org/model]: correct HF_ENDPOINT"),
        (httpx.ProxyError("403"), "the proxy cannot be used [org/model]: correct HTTPS_PROXY"),
        (httpx.UnsupportedProtocol("no http"), "cannot be used [org/model]: begin HF_ENDPOINT with https:// or http://"),
        (httpx.ReadTimeout("slow"), "https://huggingface.co does not answer [org/model]: try again later"),
        (httpx.ReadError("reset"), "is cut off again and again [org/model]: repeat the command later"),
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED]"), "is not trusted [org/model]: name your organization's"),
        (httpx.ConnectError("refused"), "https://huggingface.co cannot be reached [org/model]: check the connection"),
        (RuntimeError("Xet CAS error"), "the download through xet fails [org/model]: repeat the command, or download"),
        (OSError("Consistency check failed: file should be of size 2"), "has not the size that the hub states [org/model]"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "cache (No space left on device: /x) [org/model]: free space"),
    ],
)  # fmt: skip
def test_each_error_names_its_remedy(error: Exception, said: str) -> None:
    outer = RuntimeError("it failed")
    outer.__cause__ = error
    for raised in (error, outer):
        with pytest.raises(ModelError) as caught, hub_errors(MODEL):
            raise raised
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_error_of_another_kind_is_one_line_too() -> None:
    assert explain(ValueError("no hub"), MODEL) is None
    with pytest.raises(MemoryError), hub_errors(MODEL):
        raise MemoryError
    with pytest.raises(ModelError, match=r"the model cannot be fetched \[org/model\]: one$"), hub_errors(MODEL):
        raise RuntimeError("one\ntwo")
    dataset = Repository("org/data", "dataset")
    with pytest.raises(DataError, match=r"holds nothing \[org/data\]: look"), hub_errors(dataset):
        raise dataset.error("holds nothing", "look")
    with pytest.raises(ModelError, match=r"odd \[org/model\]: mend it"), hub_errors(MODEL):
        raise ModelError("odd", remedy="mend it")


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    monkeypatch.setattr(constants, "ENDPOINT", "https://ada:hunter2@hub.example")
    assert public_text("Bearer hf_secret to https://hub.example/a?X-Signature=b") == "Bearer *** to https://hub.example/a"
    assert str(explain(httpx.ConnectError("no"), MODEL)).startswith("https://hub.example cannot be reached")
    assert MODEL.page == "https://hub.example/org/model"

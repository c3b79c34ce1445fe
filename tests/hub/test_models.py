"""Models of the hub, from a server that speaks its API: what comes, what is kept, and one line for what fails."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from formless.errors import ModelError
from formless.models.sources.hub_files import model_files as chosen_files
from tests.hub.server import Hub

Files = dict[str, bytes]
Load = Callable[..., list[dict[str, Any]]]


def shard(files: Files) -> str:
    return next(name for name in files if name.startswith("model-00001"))


@pytest.mark.slow
def test_a_model_is_edited_at_the_commit_that_it_was_loaded_from(
    hub: Hub, python: Callable[..., Any], model_files: Files, tmp_path: Path
) -> None:
    repository = hub.repository("models", "org/tiny")
    first = repository.push(model_files, "v1")
    second = repository.push(model_files | {"chat_template.jinja": b"{% for m in messages %}{{ m.content }}{% endfor %}"})
    for name, model, commit, more in (
        ("cdr", "org/tiny", second, ()),
        ("rocr", "org/tiny@v1", first, ("--redirect", "Bob", "--set", "basis=none", "--set", "layers=[1,2]")),
    ):
        ran = python("formless", "unlearn", "--method", name, "--model", model, "--target", "Ada", "--out", name, *more)
        assert ran.returncode == 0, ran.stderr
        info = json.loads((tmp_path / name / "edit.json").read_text("utf-8"))
        assert (info["model"], info["model_source"], info["model_revision"]) == (model, "org/tiny", commit)
        adapter = json.loads((tmp_path / name / "adapter_config.json").read_text("utf-8"))
        assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("org/tiny", commit)
    for needless in ("README.md", "original/weights.safetensors", "pytorch_model.bin"):
        assert not hub.asked(needless)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cut", "reset"])
def test_a_download_that_is_cut_off_goes_on_where_it_ended(hub: Hub, load: Load, model_files: Files, kind: str) -> None:
    for name in ("org/whole", "org/broken"):
        hub.repository("models", name).push(model_files)
    file = shard(model_files)
    small = "tokenizer_config.json"
    hub.fault(file, kind, 1)
    hub.fault(small, kind, 1)
    broken, whole = load("org/broken", "org/whole")
    assert broken["fingerprint"] == whole["fingerprint"]
    starts = [request.start or 0 for request in hub.asked(file) if request.path.startswith("/storage/")]
    assert len(starts) == 3  # twice for the one, once for the other
    assert starts[0] == starts[2] == 0
    if kind == "cut":
        assert len(model_files[file]) // 2 - 1024 < starts[1] <= len(model_files[file]) // 2
    assert broken["template"]


@pytest.mark.slow
def test_failures_are_one_line_with_a_remedy_within_seconds(hub: Hub, load: Load, model_files: Files) -> None:
    for name in ("cut", "faulty", "plain", "tokenizer"):
        hub.repository("models", f"org/{name}").push(model_files)
    adapter = {"adapter_config.json": b"{}", "adapter_model.safetensors": b""}
    hub.repository("models", "org/adapter").push(adapter)
    hub.repository("models", "org/gguf").push({"config.json": b"{}", "model-Q4_K_M.gguf": b"GGUF"})
    lost = {name: data for name, data in model_files.items() if name != shard(model_files)}
    hub.repository("models", "org/lost").push(lost)
    hub.repository("models", "org/gated").push(model_files)
    hub.repository("models", "org/gated").gated = True
    hub.repository("models", "org/private").push(model_files)
    hub.repository("models", "org/private").private = True
    names = ("org/none", "org/private", "org/gated", "org/plain@v9", "org/adapter", "org/gguf", "org/lost")
    found = dict(zip(names, load(*names), strict=True))
    page = f"{hub.endpoint}/org"
    private = "check its name or the folder's path; if it is private, log in with `hf auth login`, or set HF_TOKEN"
    expected = {
        "org/none": f"{hub.endpoint} has no such model, or it is private [org/none]: {private}",
        "org/private": f"{hub.endpoint} has no such model, or it is private [org/private]: {private}",
        "org/gated": f"the model is gated [org/gated]: ask for access on {page}/gated, then log in with `hf auth login`, or set"
        " HF_TOKEN",
        "org/plain@v9": "the model has no revision 'v9' [org/plain]: choose a branch, tag or commit of"
        f" {page}/plain/commits/main",
        "org/adapter": "it is an adapter, not a model [org/adapter]: load its base model, and give the adapter with --edit",
        "org/gguf": "the repository holds a GGUF file and no model of transformers [org/gguf]: download model-Q4_K_M.gguf with"
        " `hf download`, and give the file as the model",
    }
    assert {name: found[name].get("error") for name in expected} == expected
    assert "files of the weights are there [org/lost]" in found["org/lost"]["error"]
    assert all(result["seconds"] < 30 for result in found.values())

    hub.fault(shard(model_files), "cut")
    [cut] = load("org/cut")
    assert f"the connection to {hub.endpoint} is cut off again and again [org/cut]: repeat the command later" in cut["error"]
    hub.faults.clear()
    hub.fault("tokenizer_config.json", "503")  # transformers would go on without it
    [faulty] = load("org/faulty")
    assert faulty["error"] == f"{hub.endpoint} has a fault (status 503) [org/faulty]: try again later"
    assert faulty["seconds"] < 30


@pytest.mark.slow
def test_a_token_opens_what_it_may_and_is_never_shown(
    hub: Hub, load: Load, python: Callable[..., Any], model_files: Files
) -> None:
    for name in ("org/gated", "org/private"):
        hub.repository("models", name).push(model_files)
    hub.repository("models", "org/gated").gated = True
    hub.repository("models", "org/private").private = True
    for token, said in (
        ("hf_stranger", "the model is gated, and the token has no access [org/gated]: ask for access on "),
        ("hf_expired", "does not accept the token [org/gated]: log in again with `hf auth login`, or correct HF_TOKEN"),
        ("hf_se\u00e9cret", "the token for the hub holds a character that no token has [HF_TOKEN]: copy the token again"),
    ):
        ran = python("formless", "doctor", "--model", "org/gated", HF_TOKEN=token)
        assert ran.returncode == 2
        assert said in ran.stderr
        assert token not in ran.stdout + ran.stderr
        assert len([line for line in ran.stderr.splitlines() if line.startswith("error: ")]) == 1
        assert "Traceback" not in ran.stderr
    hub.requests.clear()
    gated, private = load("org/gated", "org/private", HF_TOKEN="hf_granted")
    assert gated["fingerprint"] == private["fingerprint"]
    stored = [request for request in hub.requests if request.path.startswith("/storage/")]
    assert stored
    assert not any(request.token for request in stored)  # the other host gets no token


@pytest.mark.slow
def test_without_a_connection_the_cache_serves_and_says_so(hub: Hub, load: Load, model_files: Files, tmp_path: Path) -> None:
    repository = hub.repository("models", "org/tiny")
    first = repository.push(model_files)
    [loaded] = load("org/tiny")
    assert (loaded["commit"], loaded["warnings"]) == (first, [])
    second = repository.push(model_files | {"config.json": model_files["config.json"] + b"\n"})
    hub.requests.clear()
    cached, pinned, other = load("org/tiny", f"org/tiny@{first}", "org/other", HF_HUB_OFFLINE="1")
    assert cached["commit"] == pinned["commit"] == first
    assert cached["fingerprint"] == loaded["fingerprint"]
    cache = tmp_path / "hf" / "hub"
    missing = f"HF_HUB_OFFLINE is set, and the model is not in the cache {cache} [org/other]"
    assert other["error"] == f"{missing}: load it once without it, or give a folder"
    assert not hub.requests

    nowhere = "http://127.0.0.1:9"
    cached, other = load("org/tiny", "org/other", HF_ENDPOINT=nowhere)
    assert (cached["commit"], cached["fingerprint"]) == (first, loaded["fingerprint"])
    assert cached["warnings"] == [f"the hub cannot be reached: org/tiny is taken from the cache (commit {first[:7]})"]
    assert other["error"] == f"{nowhere} cannot be reached [org/other]: check the connection and HF_ENDPOINT, or give a folder"
    assert other["seconds"] < 15
    [odd] = load("org/other", HF_ENDPOINT="127.0.0.1:9")
    assert odd["error"].endswith("cannot be used [org/other]: begin HF_ENDPOINT with https:// or http://")

    [moved] = load("org/tiny")
    assert (moved["commit"], moved["fingerprint"]) == (second, loaded["fingerprint"])
    assert not hub.asked(shard(model_files))  # the weights did not change
    for path in (cache / "models--org--tiny" / "snapshots" / second).glob("model-00001*"):
        path.unlink()
    [partial] = load("org/tiny", HF_HUB_OFFLINE="1")
    assert "files of the weights are there [org/tiny]: download the model again with a connection" in partial["error"]
    shutil.rmtree(cache)


def test_the_weights_come_last_and_in_one_format() -> None:
    names = ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", "modeling_own.py", "pytorch_model.bin",
             "tokenizer.json", "onnx/model.safetensors", "tf_model.h5", "additional_chat_templates/tool.jinja"]  # fmt: skip
    needed = ["config.json", "tokenizer.json", "additional_chat_templates/tool.jinja", "model.safetensors"]
    assert chosen_files(names, code=False) == needed
    assert chosen_files(names, code=True)[-2:] == ["modeling_own.py", "model.safetensors"]
    assert chosen_files(names, code=False, weights=False) == needed[:-1]
    old = ["config.json", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    assert chosen_files(old, code=False) == old
    with pytest.raises(ModelError, match="1 of 2 files of the weights are there"):
        chosen_files(old[:2], code=False)
    with pytest.raises(ModelError, match="the repository has no config.json"):
        chosen_files(["README.md"], code=False)


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_not_waited_for(hub: Hub, load: Load, model_files: Files) -> None:
    hub.repository("models", "org/tiny").push(model_files)
    short = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    for silent in ("info", "config.json", shard(model_files)):
        hub.faults.clear()
        hub.fault(silent, "silent")
        [found] = load("org/tiny", **short)
        assert found["error"].startswith(f"{hub.endpoint} does not answer [org/tiny]: try again later")
        assert found["seconds"] < 40

"""The hub: nothing leaves without being asked for, and no token is read or printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from formless.edits.export import diff, hub
from formless.edits.export.target import ExportOptions
from formless.errors import EditError, UserError
from formless.models.lm import LM
from tests.edits.export.conftest import edit_of


class FakeApi:
    """What `HfApi` is asked to do."""

    calls: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012 - emptied by the fixture
    error: Exception | None = None

    def create_repo(self, repo: str, **options: Any) -> str:
        if self.error:
            raise self.error
        self.calls.append(("create", {"repo": repo, **options}))
        return f"https://huggingface.co/{repo}"

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload", options))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> type[FakeApi]:
    monkeypatch.setattr(FakeApi, "calls", [])
    monkeypatch.setattr(FakeApi, "error", None)
    monkeypatch.setattr(hub, "HfApi", FakeApi)
    return FakeApi


def test_no_path_of_this_machine_is_in_the_adapter(base: LM, tmp_path: Path) -> None:
    edit = edit_of(base)
    hub.write(edit, None, tmp_path / "out", ExportOptions(base="owner/model", card="# Card\n"))
    for name in ("adapter_config.json", "edit.json", "README.md"):
        assert str(tmp_path) not in (tmp_path / "out" / name).read_text("utf-8")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == "owner/model"
    assert (tmp_path / "out" / "README.md").read_text("utf-8") == "# Card\n"
    assert edit.adapter.base_model_name_or_path == str(tmp_path / "base")


def test_a_base_model_in_a_folder_needs_a_name_on_the_hub(base: LM, tmp_path: Path) -> None:
    edit = edit_of(base)
    with pytest.raises(EditError, match=r"is on no hub \[--base\]: give its hub id, as OWNER/NAME"):
        hub.write(edit, None, tmp_path / "out", ExportOptions())
    with pytest.raises(EditError, match="the base model no name is on no hub"):
        hub.hub_base(edit, "no name")
    with pytest.raises(EditError, match="use --to merged"):
        hub.write(diff.as_differences(edit, base), None, tmp_path / "out", ExportOptions(base="owner/model"))
    assert not (tmp_path / "out").exists()


def test_the_license_is_that_of_the_base() -> None:
    assert hub.base_license("HuggingFaceTB/SmolLM2-135M-Instruct") == "apache-2.0"
    assert hub.base_license("owner/unheard-of") is None


def test_a_push_makes_a_private_repository_and_uploads_the_folder(api: type[FakeApi], tmp_path: Path) -> None:
    assert hub.push(tmp_path, "me/edit") == "https://huggingface.co/me/edit"
    (create, upload) = api.calls
    assert create == ("create", {"repo": "me/edit", "private": True, "exist_ok": True})
    assert upload[1]["repo_id"] == "me/edit"
    assert upload[1]["folder_path"] == tmp_path
    assert "token" not in upload[1]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (401, r"the hub does not let you write there \[me/edit\]: log in with `hf auth login`"),
        (403, "does not let you write"),
        (500, "the hub answers 500"),
        (OfflineModeIsEnabled("no"), "offline mode.*unset HF_HUB_OFFLINE"),
        (ConnectionError("cut"), "cannot be reached"),
        (httpx.ConnectError("cut"), "cannot be reached"),
    ],
)
def test_a_refused_push_is_one_line_without_a_token(
    api: type[FakeApi], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int | Exception, said: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    if isinstance(error, int):
        request = httpx.Request("POST", "https://huggingface.co", headers={"authorization": "Bearer hf_secret"})
        error = HfHubHTTPError("refused for hf_secret", response=httpx.Response(error, request=request))
    api.error = error
    with pytest.raises(UserError, match=said) as refused:
        hub.push(tmp_path, "me/edit")
    assert "hf_secret" not in str(refused.value)
    assert api.calls == []

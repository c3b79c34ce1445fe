"""`--to hub`: an adapter with a model card, written here first; `push` uploads the folder."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx
from huggingface_hub import HfApi, ModelCard, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from formless import store
from formless.edits.adapter import AdapterEdit
from formless.edits.edit import WeightEdit
from formless.edits.export.target import ExportOptions
from formless.errors import EditError, UserError
from formless.models.lm import LM
from formless.models.sources.bundled import BUNDLED_MODELS

CARD: Final = "README.md"


def write(edit: WeightEdit[Any], _lm: LM | None, out: Path, options: ExportOptions) -> list[str]:
    """Write the adapter and its model card; no path of this machine is in adapter_config.json or names the model.

    Raises:
        EditError: The edit is no low-rank update, or its base model is on no hub.
        OutputError: The folder exists and `force` is not set, or it cannot be written.
    """
    base = hub_base(edit, options.base)
    if not isinstance(edit, AdapterEdit):
        what = f"an edit of {edit.info.method} changes whole weights, which an adapter cannot hold"
        raise EditError(what, where="--to hub", remedy="use --to merged, and upload that folder with `hf upload`")
    adapter = copy.deepcopy(edit.adapter)
    adapter.base_model_name_or_path = base
    info = edit.info.model_copy(update={"model": base, "model_source": base}) if options.base else edit.info
    replace(edit, adapter=adapter, info=info).save(out, force=options.force)
    store.write_text(out / CARD, options.card)
    return [f"model card: {out / CARD}; read it and edit.json before you publish them"]


def hub_base(edit: WeightEdit[Any], named: str | None = None) -> str:
    """Return the hub id of an edit's base model: the given one, or that which the adapter names.

    Raises:
        EditError: It is no hub id.
    """
    base = named or str(getattr(getattr(edit, "adapter", None), "base_model_name_or_path", None) or edit.info.model)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", base) or Path(base).exists():
        what = f"the base model {named or edit.info.model} is on no hub"
        raise EditError(what, where="--base", remedy="give its hub id, as OWNER/NAME")
    return base


def base_license(base: str) -> str | None:
    """Return the license of a model on the hub, from the bundled models' table or its model card in the cache."""
    if row := next((row for row in BUNDLED_MODELS.values() if row.origin == base), None):
        return row.license.lower()
    card = try_to_load_from_cache(base, CARD)
    try:
        found = ModelCard.load(card).data.get("license") if isinstance(card, str) else None
    except (OSError, ValueError):  # a card that nobody can read says nothing
        return None
    return str(found) if found else None


def push(folder: Path, repo: str) -> str:
    """Upload a folder to a repository of the hub, which is created as a private one if it is not there.

    The token is the one that `hf auth login` stored; it is neither read nor printed here.

    Returns:
        The address of the repository.

    Raises:
        UserError: The hub refuses, or cannot be reached.
    """
    api = HfApi()
    try:
        url = api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload an edit made with Formless")
    except OfflineModeIsEnabled as error:
        raise UserError("the hub is not asked in offline mode", where=repo, remedy="unset HF_HUB_OFFLINE") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        is_login = status in (401, 403)
        what = "the hub does not let you write there" if is_login else f"the hub answers {status}"
        remedy = "log in with `hf auth login` and a token that may write" if is_login else "check the name, and try again later"
        raise UserError(what, where=repo, remedy=remedy) from error
    except HFValidationError as error:
        raise UserError("it is no name of a repository", where=repo, remedy="write OWNER/NAME") from error
    except (OSError, httpx.HTTPError) as error:
        raise UserError("the hub cannot be reached", where=repo, remedy="check the network, and try again") from error
    return str(url)

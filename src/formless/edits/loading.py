"""`load_edit`: read a saved edit of any kind."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError

from formless import store
from formless.edits.adapter import AdapterEdit
from formless.edits.difference import DifferenceEdit
from formless.edits.edit import Edit, EditInfo, upgrade_edit_info
from formless.edits.prompt import PromptEdit
from formless.errors import EditError


def load_edit(folder: str | Path) -> Edit:
    """Read a saved edit, of the weights or of the prompt; no pickled file is ever opened.

    Args:
        folder: A folder that `Edit.save` or `formless unlearn --out` wrote.

    Raises:
        EditError: The folder holds no complete edit, or a newer formless wrote it.

    Examples:
        >>> import formless
        >>> lm = formless.load("smollm2")
        >>> formless.unlearn(lm, "Albert Einstein", redirect="Donald Trump").save("edits/einstein")
        >>> formless.load_edit("edits/einstein").info.method
        'rocr'
    """
    folder = Path(folder)
    remedy = "give a folder that `formless unlearn --out` wrote"
    try:
        info = read_edit_info(store.EditFolder(folder).info)
        if info.prefix is not None:
            return PromptEdit(info, info.prefix)
        if store.EditFolder(folder).differences.exists():
            return DifferenceEdit.load(folder, info)
        return AdapterEdit.load(folder, info)
    except FileNotFoundError as error:
        raise EditError("the edit lacks a file", where=error.filename or folder, remedy=remedy) from error
    except EditError:
        raise
    except (OSError, ValidationError, ValueError, TypeError, KeyError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise EditError(f"the edit cannot be read: {reason}", where=folder, remedy=remedy) from error


def read_edit_info(path: Path) -> EditInfo:
    """Read an edit.json of this or an earlier version.

    Raises:
        EditError: A newer formless wrote it.
        OSError: The file cannot be read.
        ValueError: The file is no edit.json.
    """
    content = json.loads(path.read_text("utf-8"))
    if not isinstance(content, dict):
        raise ValueError("edit.json is no JSON object")
    return EditInfo.model_validate(upgrade_edit_info(content))

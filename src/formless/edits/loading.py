"""`load_edit`: read a saved edit of any kind."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from formless import store
from formless.edits.adapter import AdapterEdit
from formless.edits.difference import DifferenceEdit
from formless.edits.edit import Edit, EditInfo
from formless.edits.foreign import WholeModel, foreign_edit, is_model
from formless.edits.prompt import PromptEdit
from formless.edits.verification import damaged, first_problem
from formless.edits.versions import upgrade_edit_info
from formless.errors import EditError


def load_edit(folder: str | Path, *, foreign: bool = True) -> Edit:
    """Read a saved edit, of the weights or of the prompt; no pickled adapter is ever opened.

    Its files are compared with what edit.json states: names, shapes, ranks, dtypes, norms and the hash of the weights, and
    every key of adapter_config.json that changes numbers. Of an edit of an earlier version, which states less, modules, ranks
    and norms are compared.

    A folder without edit.json may hold an edit of another tool: a PEFT LoRA adapter, or a whole model. What a whole model
    changes is read when it is applied to its base model. Of a training run's folder the final weights count, or its only
    checkpoint.

    Args:
        folder: A folder that `Edit.save`, `formless unlearn --out` or `formless export` wrote, an adapter or a model.
        foreign: Whether a folder without edit.json is read.

    Raises:
        EditError: The folder holds no complete edit, its files do not hold what was saved, or a newer formless wrote it; an
            adapter has settings that Formless does not apply.

    Examples:
        >>> import formless
        >>> lm = formless.load("smollm2")
        >>> formless.unlearn(lm, "Albert Einstein").save("edits/einstein")
        >>> formless.load_edit("edits/einstein").info.method
        'cdr'
    """
    folder = Path(folder)
    files = store.EditFolder(folder)
    remedy = "give a folder that `formless unlearn --out` wrote, a PEFT adapter or a model"
    try:
        if foreign and not files.info.exists() and (found_edit := foreign_edit(folder)):
            return found_edit
        info = read_edit_info(files.info)
        if is_model(folder):
            return WholeModel(info, folder, made_at=info.strength)
        found = [path.name for path in (files.weights, files.adapter_config, files.differences) if path.exists()]
        if info.prefix is not None:
            if found or info.layers or info.weights is not None:
                what = f"edit.json has a prompt prefix, beside {found[0] if found else 'edited weights'}"
                raise damaged(what, files.info)
            return PromptEdit(info, info.prefix)
        if files.differences.exists() or (info.weights is not None and info.weights.file == files.differences.name):
            if found != [files.differences.name] and files.differences.exists():
                raise damaged(f"it has {found[0]} and {files.differences.name}", folder)
            return DifferenceEdit.load(folder, info)
        return AdapterEdit.load(folder, info)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise EditError("the edit lacks a file", where=error.filename or folder, remedy=remedy) from error
    except EditError:
        raise
    except ValidationError as error:
        raise EditError(f"the edit cannot be read: {first_problem(error)}", where=files.info, remedy=remedy) from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
        where = getattr(error, "filename", None) or folder
        raise EditError(f"the edit cannot be read: {reason}", where=where, remedy=remedy) from error


def read_edit_info(path: Path) -> EditInfo:
    """Read an edit.json of this or an earlier version.

    Raises:
        EditError: A newer formless wrote it, or it is no JSON object.
        OSError: The file cannot be read.
        ValueError: The file is no edit.json.
    """
    if path.exists() and not path.is_file():
        raise damaged("it is no plain file", path)
    try:
        content = store.read_document(path, store.EDIT_SCHEMA, error=EditError)
    except EditError:
        raise
    except ValueError as error:
        raise damaged(str(error).splitlines()[0], path) from error
    try:
        return EditInfo.model_validate(upgrade_edit_info(content))
    except EditError as error:
        raise EditError(error.what, where=f"{path}, {error.where}", remedy=error.remedy) from error

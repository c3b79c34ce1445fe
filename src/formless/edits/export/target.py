"""`ExportTarget`: one form in which an edit can be written for other tools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formless import store
from formless.errors import EditError

if TYPE_CHECKING:
    from formless.edits.edit import WeightEdit
    from formless.models.lm import LM


@dataclass(frozen=True)
class ExportOptions:
    """What the user asked for beside the edit and the output.

    Args:
        force: Replace an existing output.
        base: The hub id of the base model, if it is given; only `hub` needs it.
        card: The text of the model card; only `hub` needs it.
    """

    force: bool = False
    base: str | None = None
    card: str = ""


@dataclass(frozen=True)
class ExportTarget:
    """One row of the registry.

    Args:
        name: What `--to` takes.
        about: One line for the help.
        write: Writes the output from the edit, the model if `needs_model`, the path and the options; it returns notes for
            the user, one a line. It raises an EditError if this edit has no such form.
        needs_model: Whether the model is loaded first.
        mark: A file that every such folder holds, so that `--force` replaces nothing else; None if the output is a file.
    """

    name: str
    about: str
    write: Callable[[WeightEdit[Any], LM | None, Path, ExportOptions], list[str]]
    needs_model: bool = False
    mark: str | None = store.EditFolder.INFO


def loaded(lm: LM | None) -> LM:
    """Return the model of a target whose row says that it needs one."""
    if lm is None:
        raise ValueError("this export target needs the model: set needs_model in its row")
    return lm


def refuse_packed(lm: LM) -> None:
    """Refuse to write whole weights of a quantized model: an edit beside packed weights is an adapter and nothing else.

    Raises:
        EditError: The model is quantized.
    """
    from formless.models.quantized import has_packed

    if has_packed(lm.model):
        remedy = "use --to peft, and load the adapter beside the quantized model"
        raise EditError("an edit cannot be merged into quantized weights", where=lm.name, remedy=remedy)

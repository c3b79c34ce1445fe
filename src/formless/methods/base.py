"""What every method promises: `Method.unlearn` returns an `Edit`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from formless.data.target import Target
from formless.edits.edit import Edit
from formless.models.lm import LM


class MethodConfig(BaseModel):
    """The base of every method's settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def refuse_idle(self, given: Collection[str]) -> None:
        """Stop where a setting that the user gave has no effect beside the others.

        Raises:
            UserError: It is named.
        """


class Method(Protocol):
    """A way to unlearn; built from its settings.

    A method whose work takes long may also have `resumable(folder: Path) -> Method`: the same, going on after a kill from what
    it keeps in that folder, which is to be removed once the edit is saved.
    """

    def unlearn(self, lm: LM, target: Target) -> Edit:
        """Compute the edit that makes a model forget a target; the model itself stays as it is."""
        ...

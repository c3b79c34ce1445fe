"""`Edit`: what changed, apart from the model, and what edit.json says of it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel, Field

from formless import store
from formless.errors import EditError
from formless.models.lm import LM
from formless.models.overlay import Difference, Factors

INFO = "edit.json"

Change = TypeVar("Change", bound=Factors | Difference)


class LayerReport(BaseModel):
    """One edited weight.

    Args:
        module: Its name in the model.
        rank: Rank of the update; 1 of a vector.
        update_norm: Frobenius norm of the update.
        relative_norm: The same over the weight's norm.
    """

    module: str
    rank: int
    update_norm: float
    relative_norm: float


class EditInfo(BaseModel):
    """edit.json: everything needed to repeat an edit.

    Args:
        prefix: What an edit of the prompt puts before every user message; nothing for an edit of the weights.
        trained_neighbors: Neighbors that a training kept in mind; an evaluation of the edit leaves them out.
    """

    format: int = 1
    method: str
    subject: str
    config: dict[str, Any]
    seed: int | None = None
    model: str
    model_source: str
    model_revision: str | None
    model_fingerprint: str
    dtype: str
    prefix: str | None = None
    trained_neighbors: tuple[str, ...] = ()
    layers: list[LayerReport]
    facts: dict[str, Any] = Field(default_factory=dict, description="what the method itself reports, e.g. residuals")
    seconds: float
    created: str
    versions: dict[str, str]


class Edit(Protocol):
    """What changed, apart from the model."""

    @property
    def info(self) -> EditInfo:
        """What edit.json says."""
        ...

    def applied(self, lm: LM) -> AbstractContextManager[LM]:
        """The model with the edit; leaving the block restores the weights bit for bit."""
        ...

    def save(self, folder: Path, *, force: bool = False) -> None:
        """Write edit.json, and a PEFT adapter where weights are edited."""
        ...


def refuse_other_model(lm: LM, info: EditInfo) -> None:
    """Stop where an edit is for another model.

    Raises:
        EditError: The fingerprints differ.
    """
    if lm.fingerprint != info.model_fingerprint:
        found = f"{lm.fingerprint}, made for {info.model_fingerprint} ({info.model})"
        raise EditError(f"the edit is for another model: this one is {found}", where=lm.name, remedy="load its base model")


@dataclass(frozen=True)
class WeightEdit(Generic[Change]):
    """What an edit of the weights can do, however it is stored.

    Args:
        updates: Name of a module or parameter -> what is added to its weight.
        info: What edit.json says.
    """

    updates: dict[str, Change]
    info: EditInfo

    def applied(self, lm: LM) -> AbstractContextManager[LM]:
        """The model with the edit on its weights; leaving the block restores them bit for bit.

        Edits nest and may be left in any order.

        Raises:
            EditError: The edit is for another model or active already, or something else changed the weights.
        """
        refuse_other_model(lm, self.info)
        return lm.overlaid(self.updates, self.info.model_dump(mode="json"))

    def save_merged(self, lm: LM, folder: str | Path, *, force: bool = False) -> None:
        """Write the whole edited model with its tokenizer and edit.json.

        Raises:
            OutputError: The folder exists and `force` is not set, or it cannot be written.
        """
        with store.new_folder(Path(folder), mark=INFO, force=force) as new, self.applied(lm):
            lm.model.save_pretrained(new)
            lm.tokenizer.save_pretrained(new)
            store.write_text(new / INFO, self.info.model_dump_json(indent=2) + "\n")

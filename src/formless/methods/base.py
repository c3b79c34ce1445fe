"""What every method promises: `Method.unlearn` returns an `Edit`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from formless.data.target import Target
from formless.models.lm import LM


class MethodConfig(BaseModel):
    """The base of every method's settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LayerReport(BaseModel):
    """One edited matrix.

    Args:
        module: Its name in the model.
        rank: Rank of the update.
        update_norm: Frobenius norm of the update.
        relative_norm: The same over the weight's norm.
    """

    module: str
    rank: int
    update_norm: float
    relative_norm: float


class EditInfo(BaseModel):
    """edit.json: everything needed to repeat an edit."""

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
        """Write a PEFT adapter and edit.json."""
        ...


class Method(Protocol):
    """A way to unlearn; built from its settings."""

    def unlearn(self, lm: LM, target: Target) -> Edit:
        """Compute the edit that makes a model forget a target; the model itself stays as it is."""
        ...

"""`Edit`: what changed, apart from the model, and its provenance as edit.json stores it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from formless import provenance, store
from formless.edits.summary import EditSummary
from formless.errors import EditError

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

    from formless.models.lm import LM
    from formless.models.meta import MetaModel
    from formless.models.overlay import Difference, Factors

Change = TypeVar("Change", bound="Factors | Difference")

MAX_STRENGTH: Final = 4.0
"""The largest factor on an edit's updates."""

_ROWS: Final = 1024


class LayerReport(BaseModel):
    """One edited weight.

    Args:
        module: Its name in the model.
        rank: Rank of the update; 1 for a vector.
        update_norm: Frobenius norm of the update.
        relative_norm: The update's norm divided by the weight's norm.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    module: str
    rank: int = Field(ge=1)
    update_norm: float = Field(ge=0)
    relative_norm: float = Field(ge=0)


class WeightStatement(BaseModel):
    """What edit.json states about one changed weight in the file.

    Args:
        name: Name of the module or parameter.
        shapes: Of a low-rank update `[out, rank]` and `[rank, in]`; of a difference the parameter's.
        rank: Rank of the update; 1 for a vector.
        dtype: Dtype in the file, e.g. "float32".
        norm: Frobenius norm of the update.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    name: str
    shapes: list[list[int]]
    rank: int = Field(ge=1)
    dtype: str
    norm: float = Field(ge=0)


class WeightsFile(BaseModel):
    """What edit.json states about the file of the weights, so that loading can compare them.

    Args:
        file: Its name.
        sha256: The hash of its content.
        weights: What it holds.
        adapter_config: The keys of adapter_config.json that change numbers; None for differences.
    """

    model_config = ConfigDict(strict=True)

    file: str
    sha256: str
    weights: list[WeightStatement]
    adapter_config: dict[str, Any] | None = None


class EditInfo(BaseModel):
    """The provenance of an edit, stored as edit.json: everything needed to repeat it.

    Args:
        format: Schema version of edit.json.
        method: Short name of the method.
        subject: The concept, or several ones joined by " + ".
        config: Settings of the method.
        seed: Seed, where the method draws random numbers.
        model: Name of the model, as the user gave it.
        model_source: Hub id or folder of the model, or "bundled".
        model_revision: Commit of the model on the hub.
        model_fingerprint: `LM.fingerprint`.
        dtype: Dtype of the model, e.g. "float32".
        prefix: Text that a prompt edit puts before every user message; None for an edit of the weights.
        attack: Name of the attack on an edited model that a record is of; None for an edit.
        trained_neighbors: Neighbors in the retain set; an evaluation of the edit leaves them out.
        strength: The factor on the updates; 1 as the method computed them.
        layers: The edited weights, with the norms of the updates at this strength.
        facts: What the method itself reports of the edit at strength 1, e.g. residuals or losses.
        seconds: Time that the method took; None where another tool made the edit.
        created: UTC time.
        versions: Versions of the packages.
        weights: What the file of the weights holds. `save` states it, `load_edit` compares it and leaves it out of the
            provenance; edits of earlier versions, edits of the prompt and merged models lack it.
    """

    model_config = ConfigDict(strict=True)

    format: int = store.EDIT_SCHEMA
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
    attack: str | None = None
    trained_neighbors: tuple[str, ...] = Field(default=(), strict=False)
    strength: float = Field(default=1.0, ge=0, le=MAX_STRENGTH, allow_inf_nan=False)
    layers: list[LayerReport]
    facts: dict[str, Any] = Field(default_factory=dict)
    seconds: float | None
    created: str
    versions: dict[str, str]
    weights: WeightsFile | None = None

    @field_validator("facts")
    @classmethod
    def _check_facts(cls, facts: dict[str, Any]) -> dict[str, Any]:
        """Refuse facts that this package reads and that have another type."""
        subjects = facts.get("subjects", [])
        if not isinstance(subjects, list | tuple) or not all(isinstance(subject, str) for subject in subjects):
            raise ValueError("subjects is no list of names")
        for name in ("residual_reduction", "first_loss", "last_loss"):
            if name in facts and (isinstance(facts[name], bool) or not isinstance(facts[name], int | float)):
                raise ValueError(f"{name} is no number")
        return facts

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `weights` where nothing is stated, as in records and prompt edits, a strength of 1, and no attack."""
        found: dict[str, Any] = serialize(self)
        for name, default in (("weights", None), ("attack", None), ("strength", 1)):
            if getattr(self, name) == default:
                found.pop(name, None)
        return found

    @property
    def subjects(self) -> list[str]:
        """The concepts that the edit makes a model forget."""
        return list(self.facts.get("subjects", [self.subject]))

    def save(self, folder: Path) -> None:
        """Write edit.json into a folder."""
        store.write_document(store.EditFolder(folder).info, self.model_dump(mode="json"))


def was_made_for(edit: Mapping[str, Any], subject: str) -> bool:
    """Return whether an edit, as edit.json states it, was made for a concept or question set.

    The edit of a question set by a method that takes keys has the set's name as its subject, and the concepts as `subjects`.
    """
    whole = edit["subject"]
    return subject in (whole, *whole.split(" + "), *edit.get("facts", {}).get("subjects", ()))


class Edit(Protocol):
    """What changed, apart from the model: low-rank updates, differences of whole weights, or a prompt.

    Examples:
        >>> import formless
        >>> lm = formless.load("smollm2")
        >>> edit = formless.unlearn(lm, "Albert Einstein")
        >>> with edit.applied(lm):
        ...     edited = lm.score([("Albert Einstein was born in the country of", " Germany")])[0]
        >>> edited.probability < lm.score([("Albert Einstein was born in the country of", " Germany")])[0].probability
        True
    """

    @property
    def info(self) -> EditInfo:
        """Return the provenance, as edit.json stores it."""
        ...

    def applied(self, lm: LM) -> AbstractContextManager[LM]:
        """Apply the edit to a model; leaving the block restores the weights bit for bit."""
        ...

    def scaled(self, strength: float) -> Edit:
        """Return the edit with its updates multiplied by a factor."""
        ...

    def save(self, folder: str | Path, *, force: bool = False) -> None:
        """Write edit.json, and a PEFT adapter or weight differences if weights are edited."""
        ...


@dataclass(frozen=True, repr=False)
class WeightEdit(EditSummary, Generic[Change]):
    """What every edit of the weights can do, however it is stored.

    Args:
        updates: Name of a module or parameter -> what is added to its weight.
        info: The provenance.
    """

    updates: dict[str, Change]
    info: EditInfo

    def applied(self, lm: LM) -> AbstractContextManager[LM]:
        """Apply the edit to the weights; leaving the block restores them bit for bit.

        Edits nest and may be left in any order.

        Raises:
            EditError: The edit is for another model or is applied already, or something else changed the weights.
        """
        refuse_other_model(lm, self.info)
        return lm.overlaid(self.updates, self.info.model_dump(mode="json"))

    def scaled(self, strength: float) -> Self:
        """Return the edit with its updates multiplied by a factor: theta + strength (theta_edited - theta).

        This is the control factor of Unlearning-with-Control, which costs no training. At 1 the weights are the edit's and at
        0 the original's, bit for bit. Whole differences in bfloat16 are rounded to it, as the weights are.

        Args:
            strength: From 0 to `MAX_STRENGTH`; of an edit that is scaled already, the two factors are multiplied.

        Raises:
            EditError: The factor, or the product of the two, is not from 0 to `MAX_STRENGTH`.
        """
        whole = scaled_strength(self.info, strength)
        updates = cast(dict[str, Change], {name: change.scaled(strength) for name, change in self.updates.items()})
        layers = [_scaled_report(layer, updates.get(layer.module), strength) for layer in self.info.layers]
        return replace(self, updates=updates, info=self.info.model_copy(update={"strength": whole, "layers": layers}))

    def save_merged(self, lm: LM, folder: str | Path, *, force: bool = False) -> None:
        """Write the whole edited model as `formless export --to merged` does: files, dtype and tokenizer of the original.

        Raises:
            EditError: The edit is for another model.
            OutputError: The folder exists and `force` is not set, or it cannot be written.
        """
        from formless.edits.export.merged import save_merged

        save_merged(self, lm, Path(folder), force=force)


def scaled_strength(info: EditInfo, strength: float) -> float:
    """Return the strength of an edit that is scaled once more.

    Raises:
        EditError: The factor, or its product with the edit's own strength, is not from 0 to `MAX_STRENGTH`.
    """
    whole = info.strength * strength
    if not (0 <= strength <= MAX_STRENGTH and whole <= MAX_STRENGTH):  # NaN is refused too
        wanted = f"{strength:g}" if info.strength == 1 else f"{strength:g} x {info.strength:g}"
        remedy = f"give a number from 0 to {MAX_STRENGTH:g}"
        raise EditError(f"an edit cannot have the strength {wanted}", where=info.subject, remedy=remedy)
    return whole


def _scaled_report(layer: LayerReport, change: Factors | Difference | None, strength: float) -> LayerReport:
    """Return the report of one weight whose update was multiplied by a factor."""
    if strength == 1:
        return layer
    values = getattr(change, "values", None)  # whole differences are rounded, so that their norm is computed again
    norm = strength * layer.update_norm if values is None else frobenius_norm(values)
    share = norm / layer.update_norm if layer.update_norm else 1.0
    return layer.model_copy(update={"update_norm": norm, "relative_norm": share * layer.relative_norm})


def refuse_other_model(lm: LM, info: EditInfo) -> None:
    """Refuse to apply an edit to another model than its own.

    Raises:
        EditError: The fingerprints differ.
    """
    if lm.fingerprint != info.model_fingerprint:
        found = f"{lm.fingerprint}, made for {info.model_fingerprint} ({info.model})"
        raise EditError(f"the edit is for another model: this one is {found}", where=lm.name, remedy="load its base model")


def refuse_other_shapes(meta: MetaModel, edit: Edit | WeightEdit[Any]) -> None:
    """Refuse to apply an edit to a model with other weights, as far as names and shapes tell.

    Raises:
        EditError: The model lacks a weight of the edit, or has it in another shape.
    """
    from formless.models.overlay import check_shape

    for name, change in getattr(edit, "updates", {}).items():
        check_shape(meta.model, name, change)


def refuse_applied_edits(lm: LM) -> None:
    """Refuse to compute something on a model that has an edit applied.

    Raises:
        EditError: An edit is applied.
    """
    if lm.edits or not lm.overlay.is_empty:
        raise EditError("the model has an edit on it", where=lm.name, remedy="leave its applied() block first")


def layer_report(lm: LM, name: str, change: Factors | Difference) -> LayerReport:
    """Compute the norms of one update.

    Args:
        lm: The model, without the edit.
        name: Name of a module (low-rank factors) or of a parameter (a difference).
        change: The update.

    Raises:
        EditError: The update or the weight holds NaN or infinity.
    """
    import torch

    from formless.models.overlay import Factors
    from formless.models.quantized import is_packed, packed_norm

    if isinstance(change, Factors):
        update, rank, module = change.dense(), len(change.down), lm.model.get_submodule(name)
        weight_norm = packed_norm(module) if is_packed(module) else frobenius_norm(lm.overlay.current(f"{name}.weight"))
    else:
        update, rank = change.values, min(change.values.shape) if change.values.dim() > 1 else 1
        weight_norm = frobenius_norm(lm.overlay.current(name))
    norms = [frobenius_norm(update), weight_norm]
    for norm, what in zip(norms, ("update", "weight"), strict=True):
        if not torch.isfinite(torch.tensor(norm)):
            raise EditError(f"the {what} is not finite", where=name, remedy="check the model's weights and dtype")
    return LayerReport(module=name, rank=rank, update_norm=norms[0], relative_norm=norms[0] / max(norms[1], 1e-30))


def frobenius_norm(values: Tensor) -> float:
    """Return the Frobenius norm of a tensor.

    Rows are summed in float32 and their norms in float64: on a CPU, PyTorch's float32 sum over all elements of a large matrix
    is off by a tenth of a percent and more.
    """
    import torch

    parts = values.split(_ROWS) if values.ndim > 1 else (values,)  # a float32 copy of the whole would take much memory
    rows = [torch.linalg.vector_norm(part.float(), dim=-1).flatten() for part in parts]
    return float(torch.linalg.vector_norm(torch.cat(rows).double()))


def edit_info(
    lm: LM,
    method: str,
    subject: str,
    config: BaseModel,
    seconds: float,
    *,
    layers: list[LayerReport],
    facts: dict[str, Any],
    seed: int | None = None,
    prefix: str | None = None,
    trained_neighbors: tuple[str, ...] = (),
) -> EditInfo:
    """Collect the provenance of an edit of `lm`."""
    return EditInfo(
        method=method, subject=subject, config=config.model_dump(mode="json"), seed=seed,
        model=lm.name, model_source=lm.settings.source,
        model_revision=getattr(lm.model.config, "_commit_hash", None), model_fingerprint=lm.fingerprint,
        dtype=lm.dtype_name, prefix=prefix, trained_neighbors=trained_neighbors,
        layers=layers, facts=facts, seconds=seconds, created=provenance.now(), versions=provenance.versions(),
    )  # fmt: skip

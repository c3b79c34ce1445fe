"""Several edits of one model as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, cast

from formless import provenance
from formless.edits.adapter import AdapterEdit, exact_adapter, of_one_rank
from formless.edits.difference import DifferenceEdit
from formless.edits.edit import EditInfo, LayerReport, WeightEdit, frobenius_norm
from formless.edits.export.diff import as_differences
from formless.edits.foreign import ForeignEdit
from formless.errors import EditError
from formless.models.lm import LM
from formless.models.overlay import Difference, Factors, joined

Exportable = WeightEdit[Any] | ForeignEdit
"""What changes weights."""


def needs_model(edits: Sequence[Exportable]) -> bool:
    """Return whether `stacked` needs the model: for an edit of another tool, and to add edits of whole weights."""
    return not all(isinstance(edit, AdapterEdit) for edit in edits) and (len(edits) > 1 or isinstance(edits[0], ForeignEdit))


def stacked(edits: Sequence[Exportable], lm: LM | None = None) -> WeightEdit[Any]:
    """Return the edit that does what all do together, as if they were applied in this order.

    Low-rank updates stay one adapter: the ranks of a module add up, and modules with fewer are filled up with zeros. If any
    edit is of whole weights, so is the result.

    Args:
        edits: Edits of the same model, at least one.
        lm: The model, if `needs_model`.

    Raises:
        EditError: The edits are for different models, or do not fit the model.
        ModelError: The weights of a whole model cannot be read.
    """
    if lm is None and needs_model(edits):
        raise EditError("these edits are put together on their model", where=edits[0].info.model, remedy="load it")
    return _stacked([edit.on(cast(LM, lm)) if isinstance(edit, ForeignEdit) else edit for edit in edits], lm)


def _stacked(edits: Sequence[WeightEdit[Any]], lm: LM | None) -> WeightEdit[Any]:
    first = edits[0]
    if len(edits) == 1:
        return first
    for edit in edits[1:]:
        if edit.info.model_fingerprint != first.info.model_fingerprint:
            models = f"{first.info.model} ({first.info.model_fingerprint}), {edit.info.model} ({edit.info.model_fingerprint})"
            raise EditError("the edits are for different models", where=models, remedy="stack edits of one model")
    adapters = [edit for edit in edits if isinstance(edit, AdapterEdit)]
    if len(adapters) == len(edits):
        return _joined_adapters(adapters)
    return _summed([as_differences(edit, cast(LM, lm)) for edit in edits])


def _joined_adapters(edits: Sequence[AdapterEdit]) -> AdapterEdit:
    updates = of_one_rank(joined(*(edit.updates for edit in edits)))
    first = edits[0].adapter
    adapter = exact_adapter(
        updates, base=first.base_model_name_or_path, revision=first.revision, fan_in_fan_out=first.fan_in_fan_out
    )
    return AdapterEdit(updates, _joint_info(edits, updates), adapter)


def _summed(edits: Sequence[DifferenceEdit]) -> DifferenceEdit:
    updates: dict[str, Difference] = {}
    for name, change in chain.from_iterable(edit.updates.items() for edit in edits):
        old = updates.get(name)
        updates[name] = Difference(old.values.float() + change.values.float()) if old else change
    return DifferenceEdit(updates, _joint_info(edits, updates))


def _joint_info(edits: Sequence[WeightEdit[Any]], updates: Mapping[str, Factors | Difference]) -> EditInfo:
    """Return the provenance of a stack; each part's own stands among its facts."""
    infos = [edit.info for edit in edits]
    subjects = list(dict.fromkeys(subject for info in infos for subject in info.subjects))
    seconds = [info.seconds for info in infos if info.seconds is not None]
    return infos[0].model_copy(
        update={
            "method": " + ".join(dict.fromkeys(info.method for info in infos)),
            "subject": " + ".join(dict.fromkeys(info.subject for info in infos)),
            "config": {},
            "seed": None,
            "trained_neighbors": tuple(dict.fromkeys(name for info in infos for name in info.trained_neighbors)),
            "strength": 1.0,
            "layers": [_report(name, change, infos) for name, change in updates.items()],
            "facts": {"subjects": subjects, "edits": [info.model_dump(mode="json") for info in infos]},
            "seconds": sum(seconds) if len(seconds) == len(infos) else None,
            "created": provenance.now(),
            "versions": provenance.versions(),
        }
    )


def _report(name: str, change: Factors | Difference, infos: Sequence[EditInfo]) -> LayerReport:
    """Return the norms of a joint update; the weight's norm follows from what the parts report of it."""
    parts = [layer for info in infos for layer in info.layers if layer.module == name]
    weights = [layer.update_norm / layer.relative_norm for layer in parts if layer.relative_norm]
    norm = frobenius_norm(change.dense() if isinstance(change, Factors) else change.values)
    rank = len(change.down) if isinstance(change, Factors) else max(layer.rank for layer in parts)
    return LayerReport(module=name, rank=rank, update_norm=norm, relative_norm=norm / weights[0] if weights else 0.0)

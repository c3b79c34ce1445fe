"""ROCR as a method: check, compute, and hand back a rank-one adapter."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from formless.data.target import Target
from formless.errors import EditError
from formless.methods.adapter import AdapterEdit, down_projection_adapter, edit_info, layer_report
from formless.methods.rocr.redirect import RocrConfig, describe, projections, redirect
from formless.models.lm import LM


@dataclass(frozen=True)
class Rocr:
    """Rank-one Concept Redirection (arXiv 2506.07795): training-free, seconds."""

    config: RocrConfig

    def unlearn(self, lm: LM, target: Target) -> AdapterEdit:
        """Compute the edit; the model itself stays as it is.

        Raises:
            UserError: The model has no such layer.
            EditError: The layers are not ascending, the model has an edit on it, a null space is missing or of another
                model, a name is not found in its context, or a weight, key or update is NaN or infinite.
        """
        start = time.perf_counter()
        layers = list(self.config.layers)
        if not layers or layers != sorted(set(layers)):
            raise EditError(f"the layers {layers} are not in ascending order", where="layers", remedy="e.g. 4,5,6")
        if lm.edits or not lm.overlay.is_empty:
            raise EditError("the model has an edit on it", where=lm.name, remedy="leave its applied() block first")
        for layer in layers:
            lm.architecture.layer(lm.model, layer)
        names = {layer: lm.architecture.down_projection_name(layer) for layer in layers}
        _check_weights(lm, list(names.values()))
        preserved = projections(lm, self.config)
        redirection = redirect(lm, target.subject, self.config, preserved)
        updates = {names[layer]: factors for layer, factors in redirection.factors.items()}
        layer_reports = [layer_report(lm, name, factors) for name, factors in updates.items()]
        info = edit_info(
            lm, "rocr", target.subject, self.config, time.perf_counter() - start, layers=layer_reports,
            facts=describe(redirection, preserved),
        )  # fmt: skip
        return AdapterEdit(updates, down_projection_adapter(lm, layers, rank=1), info)


def _check_weights(lm: LM, names: list[str]) -> None:
    for name in names:
        if not bool(torch.isfinite(lm.model.get_parameter(f"{name}.weight")).all()):
            raise EditError("the weight is NaN or infinite", where=name, remedy="check the model's files and dtype")

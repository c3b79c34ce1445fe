"""ROCR as a method: check, compute, and hand back an adapter of one rank a concept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from formless.data.target import Target
from formless.edits.adapter import AdapterEdit, down_projection_adapter, edit_info, layer_report
from formless.edits.edit import Edit
from formless.errors import EditError
from formless.methods.rocr.nullspace import Projection
from formless.methods.rocr.redirect import Redirection, RocrConfig, projections, redirect_together, subjects_of
from formless.models.lm import LM
from formless.models.overlay import Factors


@dataclass(frozen=True)
class Rocr:
    """Rank-one Concept Redirection (arXiv 2506.07795): training-free, seconds."""

    config: RocrConfig

    def unlearn(self, lm: LM, target: Target) -> AdapterEdit:
        """Compute the edit of one target: `unlearn_together` of one."""
        return self.unlearn_together(lm, [target])

    def unlearn_together(self, lm: LM, targets: Sequence[Target], *, keep: Edit | None = None) -> AdapterEdit:
        """Compute one edit of several targets, solved together; the model itself stays as it is.

        Args:
            lm: The model, without any edit.
            targets: Each once.
            keep: An earlier ROCR edit of the same layers. It is in force while the new one is computed, its concepts' keys join
                the solve with residual zero, and the result holds both: its ranks first, then one a target.

        Raises:
            UserError: The model has no such layer.
            EditError: As `check`; or the model has an edit on it, a null space is missing or of another model, a name is not
                found in its context, `keep` is for another model, or a weight, key or update is NaN or infinite.
        """
        start = time.perf_counter()
        earlier = self.check(targets, keep)
        layers = list(self.config.layers)
        if lm.edits or not lm.overlay.is_empty:
            raise EditError("the model has an edit on it", where=lm.name, remedy="leave its applied() block first")
        for layer in layers:
            lm.architecture.layer(lm.model, layer)
        names = {layer: lm.architecture.down_projection_name(layer) for layer in layers}
        _check_weights(lm, list(names.values()))
        preserved = projections(lm, self.config)
        subjects = [target.subject for target in targets]
        redirection = redirect_together(lm, subjects, self.config, preserved, earlier)
        updates = {names[layer]: factors for layer, factors in redirection.factors.items()}
        facts = _facts(redirection, preserved)
        if earlier is not None:
            updates = _joined(earlier, updates)
            subjects = subjects_of(earlier.info) + subjects
            facts |= {"kept": earlier.info.model_dump(mode="json")}
        rank = next(iter(updates.values())).down.shape[0]
        info = edit_info(
            lm, "rocr", " + ".join(subjects), self.config, time.perf_counter() - start,
            layers=[layer_report(lm, name, factors) for name, factors in updates.items()],
            facts={"subjects": subjects} | facts, seed=self.config.seed if self.config.mode == "noise" else None,
        )  # fmt: skip
        return AdapterEdit(updates, info, down_projection_adapter(lm, layers, rank))

    def check(self, targets: Sequence[Target], keep: Edit | None = None) -> AdapterEdit | None:
        """What can be refused before a model is loaded.

        Returns:
            The edit to keep.

        Raises:
            EditError: There is no target, the layers are not ascending, a target stands twice, is forgotten by `keep` already
                or is the redirect concept, or `keep` is no ROCR edit of the same layers or forgets the redirect concept.
        """
        layers = list(self.config.layers)
        if not layers or layers != sorted(set(layers)):
            raise EditError(f"the layers {layers} are not in ascending order", where="layers", remedy="e.g. 4,5,6")
        if not targets:
            raise EditError("no target is given", where="--target", remedy="name at least one concept")
        earlier = None if keep is None else self._kept(keep)
        seen = {_folded(subject) for subject in subjects_of(earlier.info)} if earlier else set()
        concept = _folded(self.config.redirect) if self.config.mode == "unrelated" else None
        if concept in seen:
            what = f"{self.config.redirect} is forgotten by the edit to keep"
            raise EditError(what, where="redirect", remedy="choose another concept")
        forgotten = frozenset(seen)
        for target in targets:
            name = _folded(target.subject)
            if name == concept:
                what = f"{target.subject} would be redirected to itself"
                raise EditError(what, where="redirect", remedy="choose another concept")
            if name in seen:
                why = "forgotten by the edit to keep already" if name in forgotten else "given twice"
                raise EditError(f"{target.subject} is {why}", where="--target", remedy="leave it out")
            seen.add(name)
        return earlier

    def _kept(self, keep: Edit) -> AdapterEdit:
        if keep.info.method != "rocr" or not isinstance(keep, AdapterEdit):
            what = f"only an edit of rocr can be kept, not one of {keep.info.method}"
            raise EditError(what, where=keep.info.subject, remedy="compute it with rocr")
        layers = list(keep.info.config.get("layers", []))
        if layers != list(self.config.layers):
            what = f"the edit to keep has the layers {layers}, not {list(self.config.layers)}"
            raise EditError(what, where=keep.info.subject, remedy="use its layers")
        return keep


def _folded(name: str) -> str:
    return name.strip().casefold()


def _joined(earlier: AdapterEdit, updates: dict[str, Factors]) -> dict[str, Factors]:
    """The earlier update and the new one as one update of each module."""
    joined = {}
    for name, new in updates.items():
        old = earlier.updates.get(name)
        if not isinstance(old, Factors):
            raise EditError("the edit to keep lacks a layer", where=name, remedy="compute it again")
        joined[name] = Factors(torch.cat([old.up, new.up], dim=1), torch.cat([old.down, new.down]))
    return joined


def _facts(redirection: Redirection, preserved: dict[int, Projection]) -> dict[str, Any]:
    """What edit.json says of a redirection: the residuals of all targets together, then of each."""
    before, after = redirection.residual_before, redirection.residual_after
    targets = []
    for outcome in redirection.outcomes:
        found = {"subject": outcome.subject} | _residuals(outcome.residual_before, outcome.residual_after) | outcome.facts
        moved = outcome.moved_by_others
        targets.append(found if moved is None else found | {"moved_by_others": moved})
    facts: dict[str, Any] = _residuals(before, after) | {"targets": targets}
    if redirection.drifts:
        facts["drifts"] = redirection.drifts
    return facts | {"null_spaces": {str(layer): projection.describe() for layer, projection in preserved.items()}}


def _residuals(before: float, after: float) -> dict[str, float]:
    return {"residual_before": before, "residual_after": after, "residual_met": 1 - after / max(before, 1e-30)}


def _check_weights(lm: LM, names: list[str]) -> None:
    for name in names:
        if not bool(torch.isfinite(lm.model.get_parameter(f"{name}.weight")).all()):
            raise EditError("the weight is NaN or infinite", where=name, remedy="check the model's files and dtype")

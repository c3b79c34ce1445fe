"""ROCR's computation: the update of one or several concepts, layer by layer.

A concept has one key, its full name, or one for each spelling of its name. All keys are solved together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from formless.edits.adapter import AdapterEdit
from formless.errors import EditError
from formless.methods.keys.closed_form import Identity, Projection, closed_form
from formless.methods.keys.contexts import bare_context, chat_contexts, mean_layer_output, mentions
from formless.methods.keys.names import Names
from formless.methods.keys.solve import applied, solve_layers
from formless.methods.rocr.config import RocrConfig
from formless.methods.rocr.nullspace import find_projection, load_projection
from formless.methods.rocr.sampled import sampled_projections
from formless.methods.rocr.target_value import target_values
from formless.models.capture import Activations, ResumableForward
from formless.models.families import projection_shape
from formless.models.lm import LM
from formless.models.meta import MetaModel
from formless.models.overlay import Factors
from formless.models.sampled_texts import SAMPLED
from formless.models.settings import BUNDLED
from formless.progress import Progress, silent

SHIPPED = Path(__file__).parent / "bases"
PROTECTED_IN = 1
"""In how many chat contexts a protected name is read; there are ten times as many of them as of edited names."""


@dataclass(frozen=True)
class TargetResult:
    """The effect of the edit on one target.

    Args:
        subject: Its name.
        spellings: What has a key.
        residual_before: Norm of the residual (target value minus current value) before the edit, of all spellings together.
        residual_after: Norm of the residual after the edit; 0 if the target value is reached exactly.
        shift_by_others: Shift of the target's value by the other targets' part of the edit (and by the earlier edit), relative
            to `residual_before`; None if there are no others.
        facts: How the target value was found.
    """

    subject: str
    spellings: tuple[str, ...]
    residual_before: float
    residual_after: float
    shift_by_others: float | None
    facts: dict[str, Any]


@dataclass(frozen=True)
class Redirection:
    """The result of the computation.

    Args:
        factors: By layer, the update of its down-projection, one rank per spelling, float32 on the CPU.
        results: One per target.
        protected_shifts: By protected name, how far the edit shifts its value, relative to the mean residual of the targets.
        kept_shifts: By concept of the earlier edit, how far the new edit shifts its value, relative to the shift by the earlier
            edit.
    """

    factors: dict[int, Factors]
    results: tuple[TargetResult, ...]
    protected_shifts: dict[str, float]
    kept_shifts: dict[str, float]

    @property
    def residual_before(self) -> float:
        """Norm of all targets' residuals before the edit."""
        return math.hypot(*(result.residual_before for result in self.results))

    @property
    def residual_after(self) -> float:
        """Norm of all targets' residuals after the edit."""
        return math.hypot(*(result.residual_after for result in self.results))


def load_projections(lm: LM, config: RocrConfig, report: Progress = silent) -> dict[int, Projection]:
    """Load the projection of every edited layer; with the basis `sampled`, make it if it is not there.

    Args:
        lm: The model, without any edit.
        config: Settings.
        report: Called while a projection is made, first with what that costs.

    Raises:
        EditError: A projection is missing, cannot be made, or was made for another model, layer or threshold.
    """
    if config.basis == "none":
        return {layer: Identity() for layer in config.layers}
    if config.basis == SAMPLED:
        return sampled_projections(lm, config.layers, config.threshold, report)
    folder = _folder(lm, config)
    return {layer: load_projection(lm, folder, layer, config.threshold) for layer in config.layers}


def check_null_spaces(lm: LM | MetaModel, config: RocrConfig) -> None:
    """Refuse layers that the model lacks, and null spaces that do not fit as far as that can be told without weights.

    Raises:
        UserError: The model has no such layer.
        EditError: A projection is missing, cannot be read, or is for another layer, threshold or dimension.
    """
    edited = (*config.layers, *(config.reverse_layers or ()))
    shapes = {layer: projection_shape(lm.architecture.down_projection(lm.model, layer)) for layer in edited}
    widths = {layer: shapes[layer][1] for layer in config.layers}
    for layer, width in widths.items() if config.basis not in ("none", SAMPLED) else ():
        find_projection(_folder(lm, config), layer, config.threshold, dimension=width, model=lm.settings.name)


def _folder(lm: LM | MetaModel, config: RocrConfig) -> Path:
    """Return the folder of the null spaces."""
    if config.basis != "shipped":
        return Path(config.basis)
    if lm.settings.source != BUNDLED:
        remedy = (
            "let the model sample what to preserve with --set basis=sampled, make one with `formless stats` and give it as "
            "--set basis=DIR, or preserve nothing with --set basis=none"
        )
        raise EditError(f"no null space is shipped for {lm.settings.name}", where="setting basis", remedy=remedy)
    return SHIPPED / lm.settings.name


def redirect(lm: LM, subject: str, config: RocrConfig, preserved: dict[int, Projection]) -> Redirection:
    """Compute the updates for one name: `redirect_together` of one."""
    return redirect_together(lm, [Names(subject, (subject,))], config, preserved)


def redirect_together(
    lm: LM,
    targets: Sequence[Names],
    config: RocrConfig,
    preserved: dict[int, Projection],
    keep: AdapterEdit | None = None,
    protected: Mapping[str, Sequence[str]] | None = None,
    redirects: Sequence[str] = (),
) -> Redirection:
    """Compute the updates that move every target's values at the last token of its names to the target value, solved together.

    Each layer removes an equal share of the remaining residual, with the updates of earlier layers applied. All arithmetic
    outside the model's own forward pass is float32 or finer.

    Differs from the paper: the published code reads the current value for the bare text `{subject}.`, although the target
    value comes from a chat context (`current_value="bare"`); ours reads both in the chat contexts.

    Args:
        lm: The model, without any edit; it stays as it is.
        targets: The names of each target.
        config: Settings.
        preserved: The projection by layer.
        keep: An earlier edit. It is applied meanwhile, and its concepts' keys, read anew at each layer, join the solve with
            residual zero (C_prev). Only the target values are read without it, because an edit also moves the redirect
            concept's own value (by a third of its norm in the bundled model), so that target values would change from edit to
            edit.
        protected: By concept, names whose keys join the solve with residual zero too.
        redirects: The redirect of each target, where the setting is `auto`.

    Raises:
        EditError: A name is not found in its context, a key vanishes, a key or value is not finite, or the earlier edit is for
            another model.
    """
    last = config.layers[-1]
    owners = [i for i, target in enumerate(targets) for _ in target.spellings]  # of each edited name
    edited = [_Name(lm, text, config) for target in targets for text in target.spellings]
    earlier = {subject: [_Name(lm, text, config) for text in names] for subject, names in _earlier_names(keep).items()}
    safe = {subject: [_Name(lm, text, config, PROTECTED_IN) for text in names] for subject, names in (protected or {}).items()}
    kept = [name for names in (*earlier.values(), *safe.values()) for name in names]
    found = target_values(lm, [name.text for name in edited], config, last, [redirects[i] for i in owners] if redirects else ())
    goals = torch.stack([target.value for target in found])  # z* [edited, hidden]
    unedited = torch.stack([mean_layer_output(lm, name.current, last) for name in edited + kept]) if keep else None
    with keep.applied(lm) if keep else nullcontext():
        factors, start = _solve(lm, edited, kept, goals, config, preserved)
        unedited = start if unedited is None else unedited
        with applied(lm, factors):
            end = torch.stack([name.value(last) for name in edited + kept])
        shifts = _shifts_by_others(lm, edited, owners, factors, unedited) if len(targets) > 1 or keep else None
    count = len(edited)
    before, after = torch.stack([(goals - values[:count]).norm(dim=1) for values in (start, end)]).cpu()  # [edited] each
    results = []
    for i, target in enumerate(targets):
        own = [place for place, owner in enumerate(owners) if owner == i]
        norms = [float(norm[own].norm()) for norm in (before, after)]
        share = None if shifts is None else shifts[i] / max(norms[0], 1e-30)
        results.append(TargetResult(target.subject, target.spellings, norms[0], norms[1], share, found[own[0]].facts))
    moved = dict(zip(kept, (end - start)[count:].norm(dim=1).tolist(), strict=True))
    then = dict(zip(kept, (start - unedited)[count:].norm(dim=1).tolist(), strict=True))
    return Redirection(
        factors, tuple(results),
        {subject: mean([moved[name] for name in names]) / max(float(before.mean()), 1e-30) for subject, names in safe.items()},
        {
            subject: math.hypot(*(moved[name] for name in names)) / max(math.hypot(*(then[name] for name in names)), 1e-30)
            for subject, names in earlier.items()
        },
    )  # fmt: skip


def _earlier_names(keep: AdapterEdit | None) -> dict[str, tuple[str, ...]]:
    """Return what has a key in an earlier edit and in those that it holds, by concept."""
    if keep is None:
        return {}
    stated: dict[str, tuple[str, ...]] = {}
    facts: dict[str, Any] | None = keep.info.facts
    while facts is not None:
        for own in (facts, *(info["facts"] for info in facts.get("edits_before", ()))):
            stated |= {each["subject"]: tuple(each["spellings"]) for each in own["targets"] if "spellings" in each}
        facts = facts["earlier_edit"]["facts"] if "earlier_edit" in facts else None
    return {subject: stated.get(subject, (subject,)) for subject in keep.info.subjects}


class _Name:
    """The contexts of one name, at most `most` of them: where its key and its current value are read.

    The layers below the edited ones are run once.
    """

    def __init__(self, lm: LM, text: str, config: RocrConfig, most: int | None = None) -> None:
        first, self._last = config.layers[0], config.layers[-1]
        self.text = text
        self._contexts = mentions(lm, chat_contexts(lm, text)[:most], text)
        is_chat = config.current_value == "chat"
        self.current = self._contexts if is_chat else mentions(lm, bare_context(text), text)
        self._key_pass = ResumableForward(lm, self._contexts.batch, first, self._last)
        self._value_pass = self._key_pass if is_chat else ResumableForward(lm, self.current.batch, first, self._last)

    def value(self, changed: int) -> Tensor:
        """Compute the current value `[hidden]`, after layers from `changed` on have changed."""
        return self._mean_value(self._value_pass.run(changed))

    def key_and_value(self, layer: int, changed: int) -> tuple[Tensor, Tensor]:
        """Compute the mean key of a layer `[d]` and the current value; one pass if both share contexts."""
        found = self._key_pass.run(changed, key=layer)
        key = self._contexts.at(found.keys[layer]).mean(0)
        is_shared = self._value_pass is self._key_pass
        return key, self._mean_value(found) if is_shared else self.value(changed)

    def _mean_value(self, found: Activations) -> Tensor:
        return self.current.at(found.residuals[self._last]).mean(0)


def _solve(
    lm: LM, edited: list[_Name], kept: list[_Name], goals: Tensor, config: RocrConfig, preserved: dict[int, Projection]
) -> tuple[dict[int, Factors], Tensor]:
    """Compute the update of every layer: `solve_layers` for names."""
    count, names = len(edited), [name.text for name in edited]

    def read(layer: int, changed: int) -> tuple[Tensor, Tensor]:
        keys, values = zip(*(name.key_and_value(layer, changed) for name in edited + kept), strict=True)
        return torch.stack(keys), torch.stack(values)

    def solve(layer: int, keys: Tensor, residuals: Tensor) -> Factors:
        others = keys[count:] if kept else None
        return closed_form(keys[:count], residuals, preserved[layer], config.l2, kept=others, names=names)

    return solve_layers(lm, config.layers, read, goals, solve)


def _shifts_by_others(
    lm: LM, edited: list[_Name], owners: list[int], factors: dict[int, Factors], unedited: Tensor
) -> list[float]:
    """Compute how far each target's values lie from the unedited ones if its own ranks are left out of the update."""
    shifts = []
    for target in range(owners[-1] + 1):
        own = [i for i, owner in enumerate(owners) if owner == target]
        others = [i for i, owner in enumerate(owners) if owner != target]
        parts = {layer: Factors(each.up[:, others], each.down[others]) for layer, each in factors.items()}
        with applied(lm, parts):
            shifts.append(math.hypot(*(float((edited[i].value(min(factors)) - unedited[i]).norm()) for i in own)))
    return shifts

"""ROCR itself: its settings, and the edit of one or several concepts, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from formless.edits.adapter import AdapterEdit
from formless.edits.edit import EditInfo
from formless.errors import EditError
from formless.methods.rocr.closed_form import closed_form
from formless.methods.rocr.contexts import bare_context, chat_contexts, mentions, residual
from formless.methods.rocr.nullspace import Identity, Projection, load_projection
from formless.methods.rocr.target_value import WantedConfig, wanted_values
from formless.models.capture import Activations, ResumableForward, added
from formless.models.lm import LM
from formless.models.overlay import Factors
from formless.models.settings import BUNDLED

SHIPPED = Path(__file__).parent / "bases"


class RocrConfig(WantedConfig):
    """Settings of ROCR; the defaults are the paper's for Llama-3-8B and Mistral-7B.

    Args:
        layers: Edited layers, early ones, in order.
        l2: Regularisation lambda, usually 1 to 10.
        threshold: Eigenvalues of the keys' second moment under it span the null space.
        current_value: Where z_now is read: the mean over the chat contexts, or the bare text (published code).
        basis: Folder of null spaces, `shipped` for the bundled model's own, or `none` to preserve nothing.
    """

    layers: tuple[int, ...] = (4, 5, 6)
    l2: float = Field(default=1.0, ge=0)
    threshold: float = Field(default=2e-2, gt=0)
    current_value: Literal["chat", "bare"] = "chat"
    basis: str = Field(default="shipped", json_schema_extra={"place_unless": ["shipped", "none"]})


@dataclass(frozen=True)
class Outcome:
    """What became of one target.

    Args:
        subject: Its name.
        residual_before: Norm of z* - z_now before the edit.
        residual_after: The same after it; 0 would be met exactly.
        moved_by_others: How far its value moves if only the other targets' part of the edit is in force (and the edit that is
            kept), over `residual_before`; nothing where there are no others.
        facts: How its wanted value was found.
    """

    subject: str
    residual_before: float
    residual_after: float
    moved_by_others: float | None
    facts: dict[str, Any]


@dataclass(frozen=True)
class Redirection:
    """What the computation gives.

    Args:
        factors: By layer, the update of its down-projection, one rank a target, float32 on the CPU.
        outcomes: By target.
        drifts: By concept of the edit that is kept, how far the new edit moves its value, over how far its own had moved it.
    """

    factors: dict[int, Factors]
    outcomes: tuple[Outcome, ...]
    drifts: dict[str, float]

    @property
    def residual_before(self) -> float:
        """Norm of all targets' z* - z_now before the edit."""
        return math.hypot(*(outcome.residual_before for outcome in self.outcomes))

    @property
    def residual_after(self) -> float:
        """The same after it."""
        return math.hypot(*(outcome.residual_after for outcome in self.outcomes))


def projections(lm: LM, config: RocrConfig) -> dict[int, Projection]:
    """The projection of every edited layer.

    Raises:
        EditError: One is missing, or made for another model, layer or threshold.
    """
    if config.basis == "none":
        return {layer: Identity() for layer in config.layers}
    folder = Path(config.basis)
    if config.basis == "shipped":
        if lm.settings.source != BUNDLED:
            remedy = "make one with `formless stats` and give it as --set basis=DIR, or preserve nothing with --set basis=none"
            raise EditError(f"no null space is shipped for {lm.name}", where="setting basis", remedy=remedy)
        folder = SHIPPED / lm.settings.name
    return {layer: load_projection(lm, folder, layer, config.threshold) for layer in config.layers}


def redirect(lm: LM, subject: str, config: RocrConfig, preserved: dict[int, Projection]) -> Redirection:
    """Compute the updates that move the subject's last token to its wanted value: `redirect_together` of one."""
    return redirect_together(lm, [subject], config, preserved)


def redirect_together(
    lm: LM,
    subjects: Sequence[str],
    config: RocrConfig,
    preserved: dict[int, Projection],
    keep: AdapterEdit | None = None,
) -> Redirection:
    """Compute the updates that move every subject's last token to its wanted value, solved together.

    Each layer takes an equal share of what is left to move, with the updates before it in force. All arithmetic outside the
    model's own forward pass is float32 or finer.

    Differs from the paper: the published code reads the current value for the bare text `{subject}.`, although the wanted
    one comes from a chat context (`current_value="bare"`); ours reads both in the chat contexts.

    Args:
        lm: The model, without any edit; it stays as it is.
        subjects: Names, each once.
        config: Settings.
        preserved: The projection by layer.
        keep: An earlier edit. It is in force meanwhile, and its concepts' keys, read anew at each layer, join the solve with
            residual zero (C_prev). The wanted values alone are read without it, since an edit moves the redirect concept's
            own value, by a third of its norm in the bundled model, and the aim would wander from edit to edit.

    Raises:
        EditError: A name is not found in its context, a key vanishes, or a key or value is not finite, or the edit that is kept
            is for another model.
    """
    last = config.layers[-1]
    targets = [_Place(lm, subject, config) for subject in subjects]
    kept = [_Place(lm, subject, config) for subject in subjects_of(keep.info)] if keep else []
    wanted = wanted_values(lm, subjects, config, last)
    goals = torch.stack([found.value for found in wanted])  # [targets, hidden]
    untouched = torch.stack([residual(lm, place.current, last) for place in targets + kept]) if keep else None
    with keep.applied(lm) if keep else nullcontext():
        factors, start = _solve(lm, targets, kept, goals, config, preserved)
        untouched = start if untouched is None else untouched
        with _in_force(lm, factors):
            end = torch.stack([place.value(last) for place in targets + kept])
        moved = _moved_by_others(lm, targets, factors, untouched) if len(targets) > 1 or keep else None
    count = len(targets)
    before, after = (goals - start[:count]).norm(dim=1), (goals - end[:count]).norm(dim=1)  # [targets]
    outcomes = []
    for i, place in enumerate(targets):
        share = None if moved is None else moved[i] / max(float(before[i]), 1e-30)
        outcomes.append(Outcome(place.subject, float(before[i]), float(after[i]), share, wanted[i].facts))
    drifts = (end - start)[count:].norm(dim=1) / (start - untouched)[count:].norm(dim=1).clamp(min=1e-30)  # [kept]
    return Redirection(factors, tuple(outcomes), dict(zip([place.subject for place in kept], drifts.tolist(), strict=True)))


def subjects_of(info: EditInfo) -> list[str]:
    """The concepts that an edit makes a model forget."""
    return list(info.facts.get("subjects", [info.subject]))


class _Place:
    """Where one concept stands: the chat contexts, and where its current value is read.

    The layers below the edited ones are run once.
    """

    def __init__(self, lm: LM, subject: str, config: RocrConfig) -> None:
        first, self._last = config.layers[0], config.layers[-1]
        self.subject = subject
        self._contexts = mentions(lm, chat_contexts(lm, subject), subject)
        is_chat = config.current_value == "chat"
        self.current = self._contexts if is_chat else mentions(lm, bare_context(subject), subject)
        self._in_contexts = ResumableForward(lm, self._contexts.batch, first, self._last)
        self._now = self._in_contexts if is_chat else ResumableForward(lm, self.current.batch, first, self._last)

    def value(self, changed: int) -> Tensor:
        """The current value `[hidden]`, after layers from `changed` on have changed."""
        return self._value(self._now.run(changed))

    def key_and_value(self, layer: int, changed: int) -> tuple[Tensor, Tensor]:
        """The mean key of a layer `[d]` and the current value; one pass where both share contexts."""
        found = self._in_contexts.run(changed, key=layer)
        key = self._contexts.at(found.keys[layer]).mean(0)
        return key, self._value(found) if self._now is self._in_contexts else self.value(changed)

    def _value(self, found: Activations) -> Tensor:
        return self.current.at(found.residuals[self._last]).mean(0)


def _solve(
    lm: LM,
    targets: list[_Place],
    kept: list[_Place],
    goals: Tensor,
    config: RocrConfig,
    preserved: dict[int, Projection],
) -> tuple[dict[int, Factors], Tensor]:
    """The update of every layer, and the values of targets and kept concepts before any `[targets + kept, hidden]`."""
    factors: dict[int, Factors] = {}
    starts = []
    count, changed = len(targets), config.layers[0]
    with ExitStack() as stack:
        for index, layer in enumerate(config.layers):
            pairs = [place.key_and_value(layer, changed) for place in targets + kept]
            keys, values = (torch.stack(column) for column in zip(*pairs, strict=True))
            starts.append(values)
            shares = (goals - values[:count]) / (len(config.layers) - index)
            names = [place.subject for place in targets]
            factors[layer] = closed_form(
                keys[:count], shares, preserved[layer], config.l2, kept=keys[count:] if kept else None, names=names
            )
            stack.enter_context(added(lm.architecture.down_projection(lm.model, layer), factors[layer]))
            changed = layer
    return factors, starts[0]


def _moved_by_others(lm: LM, targets: list[_Place], factors: dict[int, Factors], untouched: Tensor) -> list[float]:
    """How far each target's value lies from the untouched one while its own rank is left out of the update."""
    found = []
    for index, place in enumerate(targets):
        others = [i for i in range(len(targets)) if i != index]
        parts = {layer: Factors(each.up[:, others], each.down[others]) for layer, each in factors.items()}
        with _in_force(lm, parts):
            found.append(float((place.value(min(factors)) - untouched[index]).norm()))
    return found


@contextmanager
def _in_force(lm: LM, factors: dict[int, Factors]) -> Iterator[None]:
    with ExitStack() as stack:
        for layer, found in factors.items():
            stack.enter_context(added(lm.architecture.down_projection(lm.model, layer), found))
        yield

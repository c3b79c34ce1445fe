"""Concept Direction Removal: one direction per concept, keys at every spelling of its name. Ours.

The published edit moves a name's state to that of another concept: the model then speaks of that one, and what never spells
the name stays. Here the state moves against the direction that sets the concept apart from its neighbors, beyond their mean.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from formless.data.target import Target
from formless.edits.adapter import AdapterEdit, down_projection_adapter
from formless.edits.edit import Edit, edit_info, layer_report, refuse_applied_edits
from formless.errors import EditError
from formless.methods.direction.config import DirectionConfig
from formless.methods.rocr.closed_form import closed_form
from formless.methods.rocr.contexts import chat_contexts
from formless.methods.rocr.last_tokens import LastTokens
from formless.methods.rocr.names import Names, names_of, protected_names
from formless.methods.rocr.nullspace import Identity
from formless.methods.rocr.solve import applied, residual_facts, solve_layers
from formless.models.lm import LM
from formless.models.overlay import Factors

PROTECTED_IN = 1
"""In how many chat contexts a neighbor's name is read; there are ten times as many of them as of edited names."""


@dataclass(frozen=True)
class DirectionRemoval:
    """Concept Direction Removal: training-free, seconds."""

    config: DirectionConfig

    def unlearn(self, lm: LM, target: Target) -> AdapterEdit:
        """Compute the edit of one target: `unlearn_together` of one."""
        return self.unlearn_together(lm, [target])

    def unlearn_together(self, lm: LM, targets: Sequence[Target], *, keep: Edit | None = None) -> AdapterEdit:
        """Compute one edit of several targets, solved together; the model itself stays as it is.

        With h a concept's state after the last edited layer, at the last token of a spelling of its name in a chat context, m
        the mean of its neighbors' states there, and u the direction from m to the concept's mean state, a state is to become

            h* = h - s u^T (h - m) u

        s is `overshoot`. The neighbors' names are keys with residual zero. The closed form is ROCR's with lambda relative to
        the keys' norm and without a null space; each layer's update has one rank per target.

        Args:
            lm: The model, without any edit.
            targets: The targets, each once.
            keep: None; an earlier edit cannot be kept.

        Raises:
            UserError: The model has no such layer.
            EditError: As `DirectionConfig.check_targets`; or the model has an edit on it, a name is not found in its context,
                or a key, value or update is NaN or infinite.
        """
        start = time.perf_counter()
        self.config.check_targets(targets, keep)
        refuse_applied_edits(lm)
        self.config.check_model(lm)
        layers = self.config.layers_of(lm.architecture.depth(lm.model))
        names = names_of(targets, "spelled")
        neighbors = protected_names(targets, "neighbors", "spelled")
        own = [[name for name in protected_names([target], "neighbors", "spelled") if name in neighbors] for target in targets]
        found = remove_directions(lm, names, neighbors, own, layers, self.config)
        updates = {lm.architecture.down_projection_name(layer): factors for layer, factors in found.factors.items()}
        info = edit_info(
            lm, "cdr", " + ".join(target.subject for target in targets), self.config, time.perf_counter() - start,
            layers=[layer_report(lm, name, factors) for name, factors in updates.items()],
            facts={"subjects": [target.subject for target in targets]} | _facts(found, names), seed=None,
        )  # fmt: skip
        return AdapterEdit(updates, info, down_projection_adapter(lm, layers, len(targets)))


@dataclass(frozen=True)
class Removal:
    """The result of the computation.

    Args:
        factors: By layer, the update of its down-projection, one rank per target, float32 on the CPU.
        before: Norm of each target's residuals before the edit, over its spellings and contexts.
        after: The same norms after it.
        protected_shifts: By neighbor, how far the edit shifts its value, relative to the targets' mean residual.
    """

    factors: dict[int, Factors]
    before: list[float]
    after: list[float]
    protected_shifts: dict[str, float]


def remove_directions(
    lm: LM,
    targets: Sequence[Names],
    neighbors: Mapping[str, Sequence[str]],
    own: Sequence[Sequence[str]],
    layers: Sequence[int],
    config: DirectionConfig,
) -> Removal:
    """Compute the updates of all targets, solved together.

    Args:
        lm: The model; it stays as it is.
        targets: The names of each target.
        neighbors: By neighbor, the spellings whose values stay.
        own: The neighbors of each target, from whose mean its direction leads; all of them where there are none.
        layers: The edited layers, in ascending order.
        config: Settings.

    Raises:
        EditError: A name is not found in its context, or a key or value is not finite.
    """
    edited = [[prompt for text in names.spellings for prompt in _up_to(lm, text)] for names in targets]
    kept = {name: [prompt for text in texts for prompt in _up_to(lm, text, PROTECTED_IN)] for name, texts in neighbors.items()}
    owners = torch.tensor([target for target, prompts in enumerate(edited) for _ in prompts])
    keepers = [name for name, prompts in kept.items() for _ in prompts]
    places = LastTokens(lm, [prompt for prompts in (*edited, *kept.values()) for prompt in prompts], layers)
    start, count = places.values(layers[0]), len(owners)
    middles = torch.stack([_mean(start[count:], keepers, names) for names in own])  # m [targets, hidden]
    means = torch.stack([start[:count][owners == target].mean(0) for target in range(len(targets))])
    directions = functional.normalize(means - middles, dim=1)  # u [targets, hidden]
    lengths = ((start[:count] - middles[owners]) * directions[owners]).sum(1)  # u^T (h - m) [edited]
    goals = start[:count] - config.overshoot * lengths[:, None] * directions[owners]
    is_owner = torch.eye(len(targets))[owners].T  # [targets, edited]

    def solve(_layer: int, keys: Tensor, residuals: Tensor) -> Factors:
        l2 = config.ridge * float(keys[:count].square().sum(1).mean())
        along = (residuals * directions[owners]).sum(1)
        found = closed_form(keys[:count], along[:, None], Identity(), l2, kept=keys[count:])
        up = directions.T.contiguous().cpu().clone()  # tensors that share memory cannot be saved
        return Factors(up, is_owner @ (found.up.T * found.down))

    factors, _ = solve_layers(lm, layers, places.read, goals, solve)
    with applied(lm, factors):
        end = places.values(layers[-1])
    before, after = (goals - start[:count]).norm(dim=1), (goals - end[:count]).norm(dim=1)
    shifts = (end - start)[count:].norm(dim=1) / before.mean().clamp(min=1e-30)
    return Removal(
        factors,
        [float(before[owners == target].norm()) for target in range(len(targets))],
        [float(after[owners == target].norm()) for target in range(len(targets))],
        {name: float(_mean(shifts, keepers, [name])) for name in neighbors},
    )


def _up_to(lm: LM, name: str, most: int | None = None) -> list[str]:
    """Return the chat contexts of a name, each up to the name, at most `most` of them.

    Raises:
        EditError: The chat template rewrites the name.
    """
    contexts = chat_contexts(lm, name)[:most]
    if any(name not in context for context in contexts):
        raise EditError(f"the name {name!r} is not found in its context", where=lm.name, remedy="check its spelling")
    return [context[: context.rfind(name) + len(name)] for context in contexts]


def _mean(values: Tensor, owners: Sequence[str], names: Sequence[str]) -> Tensor:
    """Return the mean over the rows that belong to one of the names; over all rows where no name is given."""
    rows = [place for place, owner in enumerate(owners) if not names or owner in names]
    return values[rows].mean(0)


def _facts(found: Removal, names: Sequence[Names]) -> dict[str, Any]:
    """Return the facts of edit.json: the residuals of all targets together, then of each target."""
    each = [
        {"subject": own.subject, "spellings": list(own.spellings)}
        | residual_facts(before, after)
        | ({"dropped_spellings": own.dropped} if own.dropped else {})
        for own, before, after in zip(names, found.before, found.after, strict=True)
    ]
    whole = residual_facts(math.hypot(*found.before), math.hypot(*found.after))
    return whole | {"targets": each, "protected_shifts": found.protected_shifts}

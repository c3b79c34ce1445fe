"""Concept Direction Removal: one direction per concept, keys at every spelling of its name. Ours.

The published edit moves a name's state to that of another concept: the model then speaks of that one, and what never spells
the name stays. Here the state moves against the direction that sets the concept apart from its neighbors, beyond their mean, as
far as what the model says about others allows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from formless.data.spellings import naming
from formless.data.target import Target
from formless.edits.adapter import AdapterEdit, down_projection_adapter
from formless.edits.edit import Edit, edit_info, layer_report, refuse_applied_edits
from formless.methods.direction.budget import Share, largest_share
from formless.methods.direction.config import DirectionConfig
from formless.methods.direction.kept import general_questions, name_words, openings, questions_about, reference_names
from formless.methods.keys.closed_form import Identity, closed_form
from formless.methods.keys.contexts import ASKED, Contexts, up_to
from formless.methods.keys.names import Names, folded, names_of, neighbor_names, protected
from formless.methods.keys.solve import Solve, applied, residual_facts, solve_layers
from formless.methods.keys.token_states import TokenStates
from formless.models.lm import LM
from formless.models.overlay import Factors

KEPT_IN = 1
"""In how many chat contexts a kept name is read; there are ten times as many of them as of edited names."""


@dataclass(frozen=True)
class DirectionRemoval:
    """Concept Direction Removal: training-free, seconds.

    Args:
        config: Its settings.
        contexts: In which prompts a spelling of the target gets a key.
    """

    config: DirectionConfig
    contexts: Contexts = up_to

    def unlearn(self, lm: LM, target: Target) -> AdapterEdit:
        """Compute the edit of one target: `unlearn_together` of one."""
        return self.unlearn_together(lm, [target])

    def unlearn_together(self, lm: LM, targets: Sequence[Target], *, keep: Edit | None = None) -> AdapterEdit:
        """Compute one edit of several targets, solved together; the model itself stays as it is.

        With h a concept's state after the last edited layer, at the last token of a spelling of its name in a chat context, m
        the mean state of its neighbors there, and u the direction from m to the concept's mean state, a state is to become

            h* = h - s u^T (h - m) u

        with s at most `overshoot`, and such that what the model says about others moves by `budget` at most. Keys with
        residual zero are the neighbors' names, well-known names, and every token of questions about the neighbors and about
        other things. Without neighbors, m is the mean of the well-known names. The closed form is ROCR's, with lambda relative
        to the keys' norm and without a null space; each layer's update has one rank per target.

        Args:
            lm: The model, without any edit.
            targets: The targets, each once.
            keep: None; an earlier edit cannot be kept.

        Raises:
            UserError: The model has no such layer.
            EditError: As `DirectionConfig.check_targets`; or the model has an edit on it, a name is not found in its context,
                the budget allows no movement, or a key, value or update is NaN or infinite.
        """
        start = time.perf_counter()
        self.config.check_targets(targets, keep)
        refuse_applied_edits(lm)
        self.config.check_model(lm)
        layers = self.config.layers_of(lm.architecture.depth(lm.model))
        spelled = names_of(targets, "spelled")
        concepts = [Concept(names, neighbor_names(target)) for names, target in zip(spelled, targets, strict=True)]
        entries = [naming(target)[0] for target in targets]
        neighbors = sorted(protected(targets))
        references = reference_names(neighbors, entries)
        kept = Kept(
            references=references,
            questions=[*questions_about(neighbors), *general_questions(entries)],
            openings=openings(neighbors, references),
            own=name_words(entries),
        )
        found = remove_directions(lm, concepts, kept, layers, self.config, self.contexts)
        updates = {lm.architecture.down_projection_name(layer): factors for layer, factors in found.factors.items()}
        info = edit_info(
            lm, "cdr", " + ".join(target.subject for target in targets), self.config, time.perf_counter() - start,
            layers=[layer_report(lm, name, factors) for name, factors in updates.items()],
            facts={"subjects": [target.subject for target in targets]} | _facts(found, concepts), seed=None,
        )  # fmt: skip
        return AdapterEdit(updates, info, down_projection_adapter(lm, [*found.factors], len(targets)))


@dataclass(frozen=True)
class Concept:
    """A target and what it is set apart from.

    Args:
        names: Its name and spellings.
        neighbors: By neighbor, the spellings of its name.
    """

    names: Names
    neighbors: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Kept:
    """What stays beside the neighbors' names.

    Args:
        references: Well-known names; their values stay.
        questions: Questions whose values stay at every token.
        openings: How texts about others begin whose continuations measure the edit.
        own: The words of the targets' names, by which such a continuation is about a target.
    """

    references: Sequence[str]
    questions: Sequence[str]
    openings: Sequence[str]
    own: Collection[str]


@dataclass(frozen=True)
class Removal:
    """The result of the computation.

    Args:
        factors: By layer, the update of its down-projection, one rank per target, float32 on the CPU.
        before: Norm of each target's residuals before the whole movement, over its spellings and contexts.
        after: The same norms after it.
        protected_shifts: By neighbor, how far it shifts its value, relative to the targets' mean residual.
        kept: Number of kept keys.
        share: How much of the movement the budget allows; `factors` hold that much.
    """

    factors: dict[int, Factors]
    before: list[float]
    after: list[float]
    protected_shifts: dict[str, float]
    kept: int
    share: Share


def remove_directions(
    lm: LM,
    concepts: Sequence[Concept],
    kept: Kept,
    layers: Sequence[int],
    config: DirectionConfig,
    contexts: Contexts = up_to,
) -> Removal:
    """Compute the updates of all targets, solved together.

    Args:
        lm: The model; it stays as it is.
        concepts: The targets. A neighbor that is a target too is not kept.
        kept: What else stays.
        layers: What is edited.
        config: Overshoot, budget and ridge.
        contexts: In which prompts a spelling of a target gets a key.

    Raises:
        EditError: A name is not found in its context, the budget allows no movement, or a key or value is not finite.
    """
    targets = {folded(concept.names.subject) for concept in concepts}
    neighbors = {
        name: texts for concept in concepts for name, texts in concept.neighbors.items() if folded(name) not in targets
    }
    edited = [[prompt for text in concept.names.spellings for prompt in contexts(lm, text)] for concept in concepts]
    others = {name: [prompt for text in texts for prompt in up_to(lm, text, KEPT_IN)] for name, texts in neighbors.items()}
    others |= {name: up_to(lm, name, KEPT_IN) for name in kept.references}
    owners = torch.tensor([target for target, prompts in enumerate(edited) for _ in prompts])
    keepers = [name for name, prompts in others.items() for _ in prompts]
    ends = [prompt for prompts in (*edited, *others.values()) for prompt in prompts]
    whole_prompts = [ASKED[place % len(ASKED)](lm, question) for place, question in enumerate(kept.questions)]
    states = TokenStates(lm, ends, layers, whole_prompts)
    start = states.values(layers[0])
    count = len(owners)
    edited_start, named = start[:count], start[count : len(ends)]
    apart_from = [[name for name in concept.neighbors if name in neighbors] or kept.references for concept in concepts]
    middles = torch.stack([_mean(named, keepers, names) for names in apart_from])  # m [targets, hidden]
    means = torch.stack([edited_start[owners == target].mean(0) for target in range(len(concepts))])
    directions = functional.normalize(means - middles, dim=1)  # u [targets, hidden]
    lengths = ((edited_start - middles[owners]) * directions[owners]).sum(1, keepdim=True)  # u^T (h - m) [edited, 1]
    movement = -config.overshoot * lengths * directions[owners]
    whole, _ = solve_layers(lm, layers, states.read, edited_start + movement, _along(directions, owners, config.ridge))
    with applied(lm, whole):
        moved = states.values(layers[-1]) - start
    share = largest_share(lm, whole, kept.openings, kept.own, config.budget)
    is_owner = torch.eye(len(concepts))[owners].T  # [targets, edited]
    shifts = moved[count : len(ends)].norm(dim=1) / movement.norm(dim=1).mean().clamp(min=1e-30)
    return Removal(
        {layer: found.scaled(share.share) for layer, found in whole.items()},
        before=(is_owner @ movement.square().sum(1).cpu()).sqrt().tolist(),
        after=(is_owner @ (movement - moved[:count]).square().sum(1).cpu()).sqrt().tolist(),
        protected_shifts={name: float(_mean(shifts, keepers, [name])) for name in neighbors},
        kept=len(start) - count,
        share=share,
    )


def _along(directions: Tensor, owners: Tensor, ridge: float) -> Solve:
    """Return the closed form of residuals that all lie along the direction of the target that owns the key.

    Args:
        directions: Of unit length, `[targets, hidden]`.
        owners: The target of each edited key, `[edited]`.
        ridge: As `DirectionConfig.ridge`.
    """
    is_owner = torch.eye(len(directions))[owners].T
    up = directions.T.contiguous().cpu()

    def solve(_layer: int, keys: Tensor, residuals: Tensor) -> Factors:
        edited, kept = keys[: len(owners)], keys[len(owners) :]
        l2 = ridge * float(edited.square().sum(1).mean())
        along = (residuals * directions[owners]).sum(1, keepdim=True)
        found = closed_form(edited, along, Identity(), l2, kept=kept)
        return Factors(up.clone(), is_owner @ (found.up.T * found.down))  # tensors that share memory cannot be saved

    return solve


def _mean(values: Tensor, owners: Sequence[str], names: Sequence[str]) -> Tensor:
    """Return the mean over the rows that belong to one of the names."""
    return values[[place for place, owner in enumerate(owners) if owner in names]].mean(0)


def _facts(found: Removal, concepts: Sequence[Concept]) -> dict[str, Any]:
    """Return the facts of edit.json: the residuals of all targets together, then of each target."""
    each = [
        {"subject": own.names.subject, "spellings": list(own.names.spellings), "neighbors": list(own.neighbors)}
        | residual_facts(before, after)
        | ({"dropped_spellings": own.names.dropped} if own.names.dropped else {})
        for own, before, after in zip(concepts, found.before, found.after, strict=True)
    ]
    whole = residual_facts(math.hypot(*found.before), math.hypot(*found.after))
    budget = {"share": found.share.share, "change": found.share.change, "whole_change": found.share.whole_change}
    return whole | {"targets": each, "protected_shifts": found.protected_shifts, "kept_keys": found.kept, "budget": budget}

"""Concept Direction Removal: one direction per concept, keys at every spelling of its name. Ours.

The published edit moves a name's state to that of another concept: the model then speaks of that one, and what never spells
the name stays. Here what shares keys with the name moves against the direction that sets the concept apart from its neighbors,
beyond their mean; the name itself is redirected too. Both go as far as what the model says about others allows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from formless.data.spellings import naming
from formless.data.target import Target
from formless.edits.adapter import AdapterEdit, down_projection_adapter, of_one_rank
from formless.edits.edit import Edit, edit_info, layer_report, refuse_applied_edits
from formless.methods.direction.budget import Others, Share, what_is_allowed
from formless.methods.direction.config import DirectionConfig
from formless.methods.direction.kept import (
    first_words,
    general_questions,
    name_words,
    openings,
    questions_about,
    reference_names,
)
from formless.methods.direction.redirected import Redirected, redirect_spellings
from formless.methods.keys.candidates import AUTO, NOBODY
from formless.methods.keys.choice import Choice, choose_redirects
from formless.methods.keys.closed_form import Identity, closed_form
from formless.methods.keys.contexts import ASKED, Contexts, up_to
from formless.methods.keys.names import Names, concepts_of, folded, names_of, neighbor_names, protected
from formless.methods.keys.solve import Read, Solve, applied, residual_facts, solve_layers
from formless.methods.keys.token_states import TokenStates
from formless.models.lm import LM
from formless.models.overlay import Factors, joined
from formless.progress import Progress, silent

KEPT_IN = 1
"""In how many chat contexts a kept name is read; there are ten times as many of them as of edited names."""

STEPS = 4
"""Steps of the computation, for the progress bar."""


@dataclass(frozen=True)
class DirectionRemoval:
    """Concept Direction Removal: training-free, seconds.

    Args:
        config: Its settings.
        contexts: In which prompts a spelling of the target gets a key.
        report: Called at each step.
    """

    config: DirectionConfig
    contexts: Contexts = up_to
    report: Progress = silent

    def reporting(self, report: Progress) -> DirectionRemoval:
        """Return the same method, which reports its steps."""
        return replace(self, report=report)

    def unlearn(self, lm: LM, target: Target) -> AdapterEdit:
        """Compute the edit of one target: `unlearn_together` of one."""
        return self.unlearn_together(lm, [target])

    def unlearn_together(self, lm: LM, targets: Sequence[Target], *, keep: Edit | None = None) -> AdapterEdit:
        """Compute one edit of several targets, solved together; the model itself stays as it is.

        With h a concept's state after the last edited layer, at the last token of a spelling of its name in a chat context, m
        the mean state of its neighbors there, and u the direction from m to the concept's mean state, a state is to become

            h* = h - s u^T (h - m) u

        with s = `overshoot`. Keys with residual zero are the neighbors' names, well-known names, the first word of the name,
        which others have too, and every token of questions about the neighbors and about other things. Without neighbors, m is
        the mean of the well-known names. The closed form is ROCR's, with lambda relative to the keys' norm and without a null
        space; a layer's update has one rank per target.

        With a redirect, three layers that end where these begin also move every spelling's own state to the redirect's, as in
        `redirect_spellings`. The keys of the redirected name then have residual zero in the other layers, so that it stays
        there, while what else shares keys with the name is moved.

        What the model says about others moves by `budget` at most: the redirecting part is made smaller until it does, and of
        the other part as much is added as then is allowed.

        Args:
            lm: The model, without any edit.
            targets: The targets, each once; a question set stands for its concepts.
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
        subject = " + ".join(target.subject for target in targets)
        targets = concepts_of(targets)
        spelled = names_of(targets, "spelled")
        self.report("choosing the redirect", 0, STEPS)
        choices = self._choices(lm, targets)
        concepts = [Concept(names, neighbor_names(target)) for names, target in zip(spelled, targets, strict=True)]
        entries = [naming(target)[0] for target in targets]
        neighbors = sorted(protected(targets))
        references = reference_names(neighbors, entries)
        kept = Kept(
            references=references,
            words=first_words(spelled),
            questions=[*questions_about(neighbors), *general_questions(entries)],
            openings=openings(neighbors, references),
            own=name_words(entries),
        )
        redirects = [] if self.config.redirect == NOBODY else [self.config.redirect] * len(targets)
        redirects = [choice.redirect for choice in choices] or redirects
        found = remove_directions(lm, concepts, kept, self.config, redirects, self.contexts, self.report)
        updates = {lm.architecture.down_projection_name(layer): factors for layer, factors in found.factors.items()}
        r = next(iter(updates.values())).down.shape[0]
        info = edit_info(
            lm, "cdr", subject, self.config, time.perf_counter() - start,
            layers=[layer_report(lm, name, factors) for name, factors in updates.items()],
            facts={"subjects": [target.subject for target in targets]} | _facts(found, concepts, choices), seed=None,
        )  # fmt: skip
        return AdapterEdit(updates, info, down_projection_adapter(lm, [*found.factors], r))

    def _choices(self, lm: LM, targets: Sequence[Target]) -> list[Choice]:
        """Choose the redirect of each target; none where the settings name one or need none."""
        if self.config.redirect != AUTO:
            return []
        return choose_redirects(lm, targets, self.config.redirecting_layers(lm.architecture.depth(lm.model))[-1])


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
        words: Words that begin the targets' names and others' too; their values stay.
        questions: Questions whose values stay at every token.
        openings: How texts about others begin whose continuations measure the edit.
        own: The words of the targets' names, by which such a continuation is about a target.
    """

    references: Sequence[str]
    words: Sequence[str]
    questions: Sequence[str]
    openings: Sequence[str]
    own: Collection[str]


@dataclass(frozen=True)
class Removal:
    """The result of the computation.

    Args:
        factors: By layer, the update of its down-projection, of one rank, float32 on the CPU.
        before: Norm of each target's residuals along its direction before the whole movement, over its spellings and contexts.
        after: The same norms after it; without the redirect.
        redirected: The part that redirects the names, before it is made smaller; None without a redirect.
        protected_shifts: By neighbor, how far the whole edit shifts its value, relative to the mean residual along a direction.
        kept: Number of kept keys, without those of redirected names.
        share: How much of the movement along the directions the budget allows beside the redirect; `factors` hold that much.
        redirect_share: How much of the redirect it allows; None without a redirect.
    """

    factors: dict[int, Factors]
    before: list[float]
    after: list[float]
    redirected: Redirected | None
    protected_shifts: dict[str, float]
    kept: int
    share: Share
    redirect_share: float | None


def remove_directions(
    lm: LM,
    concepts: Sequence[Concept],
    kept: Kept,
    config: DirectionConfig,
    redirects: Sequence[str] = (),
    contexts: Contexts = up_to,
    report: Progress = silent,
) -> Removal:
    """Compute the updates of all targets, solved together.

    Args:
        lm: The model; it stays as it is.
        concepts: The targets. A neighbor that is a target too is not kept.
        kept: What else stays.
        config: Layers, overshoot, budget and ridge.
        redirects: One per target, or none.
        contexts: In which prompts a spelling of a target gets a key.
        report: Called at each step.

    Raises:
        EditError: A name is not found in its context, the budget allows no movement, or a key or value is not finite.
    """
    depth = lm.architecture.depth(lm.model)
    layers, first = config.layers_of(depth), config.edited_layers(depth)[0]
    prompts = _prompts(lm, concepts, kept, contexts)
    stay = (prompts.kept, prompts.questions)
    early = config.redirecting_layers(depth)
    report("redirecting the name", 1, STEPS)
    redirected = redirect_spellings(lm, prompts.edited, redirects, stay, early, config.ridge) if redirects else None
    redirection = redirected.factors if redirected else {}
    report("removing the direction", 2, STEPS)
    states = TokenStates(lm, [*prompts.ends, *prompts.kept], range(first, layers[-1] + 1), prompts.questions)
    start, count = states.values(first), len(prompts.ends)
    kept_values = slice(count, count + len(prompts.kept))
    directions, movement = _movement(prompts, start[:count], start[kept_values], config.overshoot)
    read = _beside(lm, states.read, prompts.ends, layers, redirection) if redirection else states.read
    along = _along(directions, prompts.owners, config.ridge)
    whole, _ = solve_layers(lm, layers, read, start[:count] + movement, along)
    with applied(lm, whole):
        moved = states.values(layers[0])[:count] - start[:count]
    report("measuring what is said about others", 3, STEPS)
    allowed = what_is_allowed(Others(lm, kept.openings, kept.own, config.budget), redirection, whole)
    factors = of_one_rank(dict(sorted(joined(*allowed.parts).items())))
    with applied(lm, factors):
        shifts = (states.values(first) - start)[kept_values].norm(dim=1) / movement.norm(dim=1).mean().clamp(min=1e-30)
        shifts = shifts.cpu()  # once, not for every neighbor
    report("measuring what is said about others", STEPS, STEPS)
    is_owner = torch.eye(len(concepts))[prompts.owners].T  # [targets, edited]
    return Removal(
        factors,
        before=(is_owner @ movement.square().sum(1).cpu()).sqrt().tolist(),
        after=(is_owner @ (movement - moved).square().sum(1).cpu()).sqrt().tolist(),
        redirected=redirected,
        protected_shifts={name: float(_mean(shifts, prompts.keepers, [name])) for name in prompts.neighbors},
        kept=len(start) - count,
        share=allowed.share,
        redirect_share=allowed.redirect_share if redirected else None,
    )


@dataclass(frozen=True)
class _Prompts:
    """Where the names stand that an edit moves or keeps.

    Args:
        edited: By target and spelling, prompts that end in it.
        kept: Prompts that end in a name that stays.
        keepers: That name, for each of them.
        questions: Prompts whose every token stays.
        neighbors: The neighbors that stay.
        apart_from: By target, the names whose mean it is set apart from.
    """

    edited: list[list[list[str]]]
    kept: list[str]
    keepers: list[str]
    questions: list[str]
    neighbors: list[str]
    apart_from: list[Sequence[str]]

    @property
    def ends(self) -> list[str]:
        """The prompts that end in a target, one after the other."""
        return [prompt for spelled in self.edited for prompts in spelled for prompt in prompts]

    @property
    def owners(self) -> Tensor:
        """The target of each of them, `[edited]`."""
        return torch.tensor([target for target, spelled in enumerate(self.edited) for prompts in spelled for _ in prompts])


def _prompts(lm: LM, concepts: Sequence[Concept], kept: Kept, contexts: Contexts) -> _Prompts:
    """Put every name into its contexts, and every kept question into one of them in turn."""
    targets = {folded(concept.names.subject) for concept in concepts}
    neighbors = {
        name: texts for concept in concepts for name, texts in concept.neighbors.items() if folded(name) not in targets
    }
    others = {name: [prompt for text in texts for prompt in up_to(lm, text, KEPT_IN)] for name, texts in neighbors.items()}
    others |= {name: up_to(lm, name, KEPT_IN) for name in (*kept.references, *kept.words) if name not in neighbors}
    return _Prompts(
        edited=[[contexts(lm, text) for text in concept.names.spellings] for concept in concepts],
        kept=[prompt for prompts in others.values() for prompt in prompts],
        keepers=[name for name, prompts in others.items() for _ in prompts],
        questions=[ASKED[place % len(ASKED)](lm, question) for place, question in enumerate(kept.questions)],
        neighbors=list(neighbors),
        apart_from=[[name for name in concept.neighbors if name in neighbors] or kept.references for concept in concepts],
    )


def _movement(prompts: _Prompts, edited: Tensor, kept: Tensor, overshoot: float) -> tuple[Tensor, Tensor]:
    """Return each target's direction u and how far each edited state moves against it, -s u^T (h - m) u.

    Args:
        prompts: What was read.
        edited: States h of the targets, `[edited, hidden]`.
        kept: States of the kept names, `[kept, hidden]`.
        overshoot: s.

    Returns:
        Directions `[targets, hidden]` of unit length, and movements `[edited, hidden]`.
    """
    owners = prompts.owners
    middles = torch.stack([_mean(kept, prompts.keepers, names) for names in prompts.apart_from])  # m [targets, hidden]
    means = torch.stack([edited[owners == target].mean(0) for target in range(len(middles))])
    directions = functional.normalize(means - middles, dim=1)
    lengths = ((edited - middles[owners]) * directions[owners]).sum(1, keepdim=True)  # u^T (h - m) [edited, 1]
    return directions, -overshoot * lengths * directions[owners]


def _beside(lm: LM, read: Read, ends: Sequence[str], layers: Sequence[int], redirection: dict[int, Factors]) -> Read:
    """Return a reader that also reads the redirected names, after all others."""
    with applied(lm, redirection):
        states = TokenStates(lm, ends, layers)
        states.values(layers[0])

    def both(layer: int, changed: int) -> tuple[Tensor, Tensor]:
        keys, values = read(layer, changed)
        with applied(lm, redirection):
            more = states.read(layer, changed)
        return torch.cat([keys, more[0]]), torch.cat([values, more[1]])

    return both


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


def _facts(found: Removal, concepts: Sequence[Concept], choices: Sequence[Choice]) -> dict[str, Any]:
    """Return the facts of edit.json: the residuals of all targets together, then of each target.

    They are those of the redirected names, if there are any, with those along the direction beside them.
    """
    along = [residual_facts(*norms) for norms in zip(found.before, found.after, strict=True)]
    named = found.redirected
    residuals = [residual_facts(*norms) for norms in zip(named.before, named.after, strict=True)] if named else along
    each: list[dict[str, Any]] = [
        {"subject": own.names.subject, "spellings": list(own.names.spellings), "neighbors": list(own.neighbors)}
        | residual
        | ({"dropped_spellings": own.names.dropped} if own.names.dropped else {})
        for own, residual in zip(concepts, residuals, strict=True)
    ]
    for own, residual in zip(each, along, strict=True):
        own |= {"direction": residual} if named else {}
    for own, choice in zip(each, choices, strict=False):
        own |= {"redirect": choice.redirect, "redirect_scores": choice.scores}
    whole = named or found
    budget = asdict(found.share) | ({} if found.redirect_share is None else {"redirect_share": found.redirect_share})
    return residual_facts(math.hypot(*whole.before), math.hypot(*whole.after)) | {
        "targets": each, "protected_shifts": found.protected_shifts, "kept_keys": found.kept, "budget": budget,
    }  # fmt: skip

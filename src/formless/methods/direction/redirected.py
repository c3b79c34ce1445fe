"""The part of the edit by which every spelling of a name is read as another concept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from formless.methods.keys.closed_form import Identity, closed_form
from formless.methods.keys.contexts import up_to
from formless.methods.keys.solve import applied, solve_layers
from formless.methods.keys.token_states import TokenStates
from formless.models.lm import LM
from formless.models.overlay import Factors


@dataclass(frozen=True)
class Redirected:
    """The update and what is left of the residuals.

    Args:
        factors: By layer, the update of its down-projection, one rank per spelling, float32 on the CPU.
        before: Norm of each target's residuals without it, over its spellings.
        after: The same norms with it.
    """

    factors: dict[int, Factors]
    before: list[float]
    after: list[float]


def redirect_spellings(
    lm: LM,
    edited: Sequence[Sequence[Sequence[str]]],
    redirects: Sequence[str],
    kept: tuple[Sequence[str], Sequence[str]],
    layers: Sequence[int],
    ridge: float,
) -> Redirected:
    """Move the state at every spelling to that of the target's redirect, all targets solved together.

    A spelling has one key and one value, the means over its contexts; its target value is the mean of the redirect over the
    chat contexts. The closed form is ROCR's, without a null space. The redirects themselves stay.

    Args:
        lm: The model; it stays as it is.
        edited: By target and spelling, the prompts that end with the spelling.
        redirects: One per target.
        kept: Prompts at whose last token values stay, and prompts at all of whose tokens they do.
        layers: What is edited; values are read after the last one.
        ridge: lambda of the closed form, relative to the mean squared norm of the spellings' keys.

    Raises:
        EditError: A key or value is not finite.
    """
    groups = [prompts for target in edited for prompts in target]
    owners = torch.tensor([number for number, target in enumerate(edited) for _ in target])
    goals = {name: up_to(lm, name) for name in dict.fromkeys(redirects)}
    targets = torch.stack([TokenStates(lm, prompts, layers).values(layers[0]).mean(0) for prompts in goals.values()])
    wanted = targets[[[*goals].index(redirects[owner]) for owner in owners]]  # z* [spellings, hidden]
    ends = [prompt for prompts in (*groups, *goals.values()) for prompt in prompts]
    states = TokenStates(lm, [*ends, *kept[0]], layers, kept[1])
    sizes = [len(prompts) for prompts in groups]

    def by_spelling(rows: Tensor) -> Tensor:
        own = [part.mean(0) for part in rows[: sum(sizes)].split(sizes)]
        return torch.cat([torch.stack(own), rows[sum(sizes) :]])

    def read(layer: int, changed: int) -> tuple[Tensor, Tensor]:
        keys, values = states.read(layer, changed)
        return by_spelling(keys), by_spelling(values)

    def solve(_layer: int, keys: Tensor, residuals: Tensor) -> Factors:
        own, others = keys[: len(sizes)], keys[len(sizes) :]
        return closed_form(own, residuals, Identity(), ridge * float(own.square().sum(1).mean()), kept=others)

    factors, start = solve_layers(lm, layers, read, wanted, solve)
    with applied(lm, factors):
        end = by_spelling(states.values(layers[0]))
    norms = [(wanted - values[: len(sizes)]).square().sum(1).cpu() for values in (start, end)]
    before, after = ([float(squares[owners == number].sum().sqrt()) for number in range(len(edited))] for squares in norms)
    return Redirected(factors, before, after)

"""The other direction: questions that ask for the concept's name are edited where the model is about to say it.

Such a question spells no name, so no key of a name acts on it. Its key is read in late layers, at the last token before the
name in the model's own answer. Ours; the paper edits names alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from formless.data.rows import Reverse
from formless.errors import EditError
from formless.methods.keys.closed_form import Identity, closed_form
from formless.methods.keys.contexts import ASKED
from formless.methods.keys.solve import applied, solve_layers
from formless.methods.keys.token_states import TokenStates
from formless.methods.rocr.config import RocrConfig
from formless.models.lm import LM
from formless.models.overlay import Factors

ANSWER_TOKENS = 20
"""How many tokens of an answer are searched for the name."""

ABOUT = ("What is {} known for?", "Which year is {} tied to?", "Which place is {} tied to?")
"""Questions about each neighbor whose answers stay too."""

MOST_PROMPTS = 48
"""The most prompts that ask for the concepts' names, and for neighbors' names."""


@dataclass(frozen=True)
class ReverseEdit:
    """The update of late layers.

    Args:
        factors: By layer, an update of rank one, float32 on the CPU.
        edited: Number of edited prompts.
        kept: Number of prompts about neighbors in the solve.
        residual_before: Norm of the edited prompts' residuals along the concept's direction before the edit.
        residual_after: The same norm after it.
        kept_shift: How far the neighbors' values shift, relative to the edited ones' residuals; means over prompts.
    """

    factors: dict[int, Factors]
    edited: int
    kept: int
    residual_before: float
    residual_after: float
    kept_shift: float


def edit_reverse(
    lm: LM, own: Sequence[Reverse], others: Sequence[Reverse], config: RocrConfig, before: dict[int, Factors]
) -> ReverseEdit:
    """Compute the update that takes the concept's direction out of the state before its name.

    The direction u leads from the mean state before neighbors' names to the mean state before the concept's. A state h before
    the concept's name is moved along u alone, by -strength (u^T (h - m)) with m the neighbors' mean, so that what the question
    asks for stays in it and each layer's update has rank one. Questions that ask for a neighbor's name, and some that spell
    it, are keys with residual zero.

    Args:
        lm: The model; it stays as it is.
        own: Questions that the name answers.
        others: Questions that a neighbor's name answers.
        config: Settings, with `reverse_layers`.
        before: The updates of the names, by layer; they are applied meanwhile.

    Raises:
        EditError: The model answers no question with the name, or a key or value is not finite.
    """
    layers = config.reverse_layers or ()
    prompts = [prompt for prompt in _up_to_names(lm, own) if prompt.is_named]
    if not prompts:
        names = ", ".join(dict.fromkeys(row.answer for row in own))
        what = f"the model answers none of {len(own)} questions with the name"
        raise EditError(what, where=names, remedy="write questions with this model, or leave reverse_layers out")
    about = _about(lm, dict.fromkeys(row.answer for row in others))
    kept = [*_up_to_names(lm, others), *about]
    count, asking = len(prompts), len(kept) - len(about)
    with applied(lm, before):
        places = TokenStates(lm, [prompt.text for prompt in (*prompts, *kept)], layers)
        start = places.values(layers[0])
        middle = start[count : count + asking].mean(0)
        direction = functional.normalize(start[:count].mean(0) - middle, dim=0)  # u
        lengths = config.reverse_strength * ((start[:count] - middle) @ direction)

        def solve(_layer: int, keys: Tensor, residuals: Tensor) -> Factors:
            l2 = config.reverse_ridge * float(keys.square().sum(1).mean())
            found = closed_form(keys[:count], residuals @ direction[:, None], Identity(), l2, kept=keys[count:])
            return Factors(direction[:, None].cpu(), found.up @ found.down)

        goals = start[:count] - lengths[:, None] * direction
        factors, _ = solve_layers(lm, layers, places.read, goals, solve)
        with applied(lm, factors):
            end = places.values(layers[-1])
    left = (goals - end[:count]) @ direction
    shift = (end - start)[count:].norm(dim=1).mean() / lengths.abs().mean().clamp(min=1e-30)
    return ReverseEdit(factors, count, len(kept), float(lengths.norm()), float(left.norm()), float(shift))


@dataclass(frozen=True)
class _Prompt:
    """A prompt, continued up to the name if the model's answer holds it."""

    text: str
    is_named: bool


def _about(lm: LM, names: Iterable[str]) -> list[_Prompt]:
    """Put questions that spell a neighbor's name, where another answer begins."""
    asked = [question.format(name) for question in ABOUT for name in names]
    return [_Prompt(ASKED[place % len(ASKED)](lm, question), is_named=False) for place, question in enumerate(asked)]


def _up_to_names(lm: LM, rows: Sequence[Reverse]) -> list[_Prompt]:
    """Put every question in one way, then in the others, up to `MOST_PROMPTS`, and let the model answer up to the name."""
    ways = [(row, ASKED[(place + turn) % len(ASKED)]) for turn in range(len(ASKED)) for place, row in enumerate(rows)]
    asked = ways[:MOST_PROMPTS]
    prompts = [put(lm, row.query) for row, put in asked]
    answers = lm.generate(prompts, max_new_tokens=ANSWER_TOKENS, one_line=True)
    found = []
    for (row, _), prompt, answer in zip(asked, prompts, answers, strict=True):
        names = "|".join(re.escape(name) for name in (row.answer, *row.aliases))
        place = re.search(rf"(?<!\w)(?:{names})(?!\w)", answer)
        said = answer[: place.start()].rstrip() if place else ""
        space = " " if said and not prompt[-1:].isspace() else ""
        found.append(_Prompt(prompt + space + said, place is not None))
    return found

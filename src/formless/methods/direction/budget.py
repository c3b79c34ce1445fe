"""How far an edit may go before what the model says about others changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import mean

from scipy.optimize import brentq

from formless.data.words import words_of
from formless.errors import EditError
from formless.methods.keys.solve import applied
from formless.models.lm import LM
from formless.models.overlay import Factors
from formless.models.scores import Score

SMALLEST = 0.02
"""The smallest share of an update that is tried."""

CLOSE = 0.02
"""How near the share lies to the largest one that the budget allows."""

CONTINUED = 8
"""How many tokens a text about others is continued by."""


@dataclass(frozen=True)
class Share:
    """What a budget allows.

    Args:
        share: The largest share of the update within the budget, at most 1.
        change: How far what is said about others moves with it.
        whole_change: How far it moves with the whole update.
    """

    share: float
    change: float
    whole_change: float


def largest_share(
    lm: LM, factors: Mapping[int, Factors], openings: Sequence[str], own: Collection[str], budget: float
) -> Share:
    """Return the largest share of an update with which what a model says about others stays within a budget.

    The change is the mean over openings of |p'/p - 1|, at most 1 each, with p and p' the probabilities (per token) of the
    unedited model's greedy continuation, before and after. A continuation that holds a word of a target's name is left out.
    Plain text is continued less surely than questions are answered, so it tells earlier that others suffer. The share is found
    to `CLOSE`, so that the change may lie a little over the budget.

    Args:
        lm: The model, without the update.
        factors: By layer, the update of its down-projection.
        openings: How texts about others begin.
        own: The words of the targets' names.
        budget: The largest change.

    Raises:
        EditError: Even the smallest share changes them by more, or none is left while there is a limit.
    """
    texts = lm.generate(openings, max_new_tokens=CONTINUED, one_line=True)
    asked = [
        (opening, f" {text}") for opening, text in zip(openings, texts, strict=True) if text and not {*words_of(text)} & {*own}
    ]
    if not asked and budget < 1:
        what = "nothing that the model says about others is left to measure the edit by"
        raise EditError(what, where=lm.name, remedy="name other neighbors in aliases.json, or set budget=1")
    before = _probabilities(lm, asked)

    @cache
    def change(share: float) -> float:
        with applied(lm, {layer: found.scaled(share) for layer, found in factors.items()}):
            after = _probabilities(lm, asked)
        return mean([min(1.0, abs(new / old - 1)) for old, new in zip(before, after, strict=True)] or [0.0])

    whole = change(1.0)
    if whole <= budget:
        return Share(1.0, whole, whole)
    if (least := change(SMALLEST)) > budget:
        what = (
            f"{SMALLEST:.0%} of the edit changes what is said about others by {least:.1%}, more than the budget of {budget:.1%}"
        )
        raise EditError(what, where=lm.name, remedy="set a larger budget")
    share = brentq(lambda tried: change(tried) - budget, SMALLEST, 1.0, xtol=CLOSE)
    return Share(share, change(share), whole)


def _probabilities(lm: LM, asked: Sequence[tuple[str, str]]) -> list[float]:
    return [found.probability for found in lm.score(asked) if isinstance(found, Score)]

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

ANSWER_TOKENS = 8


@dataclass(frozen=True)
class Share:
    """What a budget allows.

    Args:
        share: The largest share of the update within the budget, at most 1.
        change: How far the answers about others move with it.
        whole_change: How far they move with the whole update.
    """

    share: float
    change: float
    whole_change: float


def largest_share(
    lm: LM, factors: Mapping[int, Factors], questions: Sequence[str], own: Collection[str], budget: float
) -> Share:
    """Return the largest share of an update with which a model's own answers about others stay within a budget.

    The change is the mean over questions of |p'/p - 1|, at most 1 each, with p and p' the probabilities (per token) of the
    answer that the unedited model gives, before and after. A question whose answer holds a word of a target's name is left out.

    Args:
        lm: The model, without the update.
        factors: By layer, the update of its down-projection.
        questions: Questions about others.
        own: The words of the targets' names.
        budget: The largest change.

    Raises:
        EditError: Even the smallest share changes the answers by more.
    """
    prompts = [lm.chat_prompt(question) for question in questions]
    answers = lm.generate(prompts, max_new_tokens=ANSWER_TOKENS, one_line=True)
    asked = [
        (prompt, text if prompt[-1:].isspace() else f" {text}")
        for prompt, text in zip(prompts, answers, strict=True)
        if not {*words_of(text)} & {*own}
    ]
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
            f"{SMALLEST:.0%} of the edit changes the answers about others by {least:.1%}, more than the budget of {budget:.1%}"
        )
        raise EditError(what, where=lm.name, remedy="set a larger budget")
    share = brentq(lambda tried: change(tried) - budget, SMALLEST, 1.0, xtol=CLOSE)
    return Share(share, change(share), whole)


def _probabilities(lm: LM, asked: Sequence[tuple[str, str]]) -> list[float]:
    return [found.probability for found in lm.score(asked) if isinstance(found, Score)]

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
from formless.models.overlay import Factors, joined
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
        share: The largest share of the update within the budget, from 0 to 1.
        change: How far what is said about others moves with it.
        whole_change: How far it moves with the whole update.
    """

    share: float
    change: float
    whole_change: float


class Others:
    """What a model says about others, by which an edit is measured.

    The change is the mean over openings of |p'/p - 1|, at most 1 each, with p and p' the probabilities (per token) of the
    unedited model's greedy continuation, before and after. A continuation that holds a word of a target's name is left out.
    Plain text is continued less surely than questions are answered, so it tells earlier that others suffer.

    Args:
        lm: The model, without an update.
        openings: How texts about others begin.
        own: The words of the targets' names.
        budget: The largest change.

    Raises:
        EditError: Nothing is left to measure by while there is a limit.
    """

    def __init__(self, lm: LM, openings: Sequence[str], own: Collection[str], budget: float) -> None:
        self._lm, self._budget = lm, budget
        texts = lm.generate(openings, max_new_tokens=CONTINUED, one_line=True)
        self._asked = [
            (opening, f" {text}")
            for opening, text in zip(openings, texts, strict=True)
            if text and not {*words_of(text)} & {*own}
        ]
        if not self._asked and budget < 1:
            what = "nothing that the model says about others is left to measure the edit by"
            raise EditError(what, where=lm.name, remedy="name other neighbors in aliases.json, or set budget=1")
        self._before = self._probabilities()

    def allows(self, update: Mapping[int, Factors]) -> Share | None:
        """Return the share of a whole update, 1, if it stays within the budget."""
        change = self._change({**update})
        return Share(1.0, change, change) if change <= self._budget else None

    def largest_share(self, update: Mapping[int, Factors], beside: Mapping[int, Factors] | None = None) -> Share:
        """Return the largest share of an update within the budget, found to `CLOSE`, so that the change may be a little larger.

        Args:
            update: By layer, the update of its down-projection.
            beside: What is applied anyway; no share may be left beside it.

        Raises:
            EditError: Even the smallest share changes what is said by more, and nothing is applied beside it.
        """

        @cache
        def change(share: float) -> float:
            return self._change(joined(beside or {}, {layer: found.scaled(share) for layer, found in update.items()}))

        whole = change(1.0)
        if whole <= self._budget:
            return Share(1.0, whole, whole)
        if (least := change(SMALLEST)) > self._budget:
            if beside:
                return Share(0.0, change(0.0), whole)
            what = f"{SMALLEST:.0%} of the edit changes what is said about others by {least:.1%}"
            what = f"{what}, more than the budget of {self._budget:.1%}"
            raise EditError(what, where=self._lm.name, remedy="set a larger budget")
        share = brentq(lambda tried: change(tried) - self._budget, SMALLEST, 1.0, xtol=CLOSE)
        return Share(share, change(share), whole)

    def _change(self, update: dict[int, Factors]) -> float:
        with applied(self._lm, update):
            after = self._probabilities()
        return mean([min(1.0, abs(new / old - 1)) for old, new in zip(self._before, after, strict=True)] or [0.0])

    def _probabilities(self) -> list[float]:
        return [found.probability for found in self._lm.score(self._asked) if isinstance(found, Score)]


@dataclass(frozen=True)
class Allowed:
    """What the budget leaves of the redirecting part and of the part along the directions, by layer."""

    parts: tuple[dict[int, Factors], dict[int, Factors]]
    share: Share
    redirect_share: float


def what_is_allowed(said: Others, redirection: dict[int, Factors], whole: dict[int, Factors]) -> Allowed:
    """Make the redirecting part smaller until the budget allows it, then add what it allows of the other."""
    if share := said.allows(joined(redirection, whole)):
        return Allowed((redirection, whole), share, 1.0)
    redirect_share = said.largest_share(redirection).share if redirection else 1.0
    redirection = {layer: found.scaled(redirect_share) for layer, found in redirection.items()}
    share = said.largest_share(whole, redirection)
    return Allowed((redirection, {layer: found.scaled(share.share) for layer, found in whole.items()}), share, redirect_share)

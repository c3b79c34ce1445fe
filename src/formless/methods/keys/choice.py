"""The choice of `redirect=auto`: which candidate a target is redirected to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from formless.data.target import Target
from formless.methods.keys.candidates import candidates_for
from formless.methods.keys.contexts import first_values
from formless.methods.keys.names import neighbor_names
from formless.models.lm import LM


@dataclass(frozen=True)
class Choice:
    """The redirect of one target.

    Args:
        redirect: The chosen candidate.
        scores: The score of every candidate, the best first; 1 is their mean.
    """

    redirect: str
    scores: dict[str, float]


def choose_redirects(lm: LM, targets: Sequence[Target], layer: int, forgotten: Collection[str] = ()) -> list[Choice]:
    """Choose the redirect of each target: the candidate that is farthest from the target and from what is like it.

    With t the target's value, m the mean value of its neighbors and c a candidate's value, all after the last edited layer, at
    the name's last token in the first chat context, the score of a candidate is

        min(|c - t|, |c - m|)        relative to the mean over the candidates

    Without neighbors it is |c - t| alone. Of equal scores the first name wins.

    Args:
        lm: The model, without any edit.
        targets: The targets.
        layer: The last edited layer.
        forgotten: Concepts of an earlier edit, which are no redirects.

    Raises:
        DataError: A target's `aliases.json` cannot be read.
        EditError: No candidate is left, or a name is not found in its context.
    """
    values: dict[str, Tensor] = {}

    def read(names: Collection[str]) -> Tensor:
        if missing := [name for name in dict.fromkeys(names) if name not in values]:  # the targets share most candidates
            values.update(zip(missing, first_values(lm, missing, layer), strict=True))
        return torch.stack([values[name] for name in names])

    found = []
    for target in targets:
        names = candidates_for(target, targets, forgotten)
        neighbors = neighbor_names(target)
        read([target.subject, *neighbors, *names])  # in as few batches as they fit
        near = read([target.subject])
        if neighbors:
            near = torch.cat([near, read(neighbors).mean(0, keepdim=True)])
        distances = torch.cdist(read(names), near).amin(1)
        scores = (distances / distances.mean()).tolist()
        ranked = sorted(zip(names, scores, strict=True), key=lambda pair: (-pair[1], pair[0]))
        found.append(Choice(ranked[0][0], dict(ranked)))
    return found

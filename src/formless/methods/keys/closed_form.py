"""The closed form of the update: several keys solved together, without any d x d matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from formless.errors import EditError
from formless.models.overlay import Factors

# A projected key with less than this share of its norm is rounding error.
VANISHED = 1e-5


class Projection(Protocol):
    """P, the projection onto the null space of the preserved keys."""

    def apply(self, keys: Tensor) -> Tensor:
        """Compute P k for keys `[n, d]`."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return what edit.json says about it."""
        ...


@dataclass(frozen=True)
class Identity:
    """P = I: nothing is preserved."""

    def apply(self, keys: Tensor) -> Tensor:
        """Return the keys unchanged."""
        return keys

    def describe(self) -> dict[str, Any]:
        """Return that there is no null space."""
        return {"kind": "identity"}


def closed_form(
    keys: Tensor,
    residuals: Tensor,
    projection: Projection,
    l2: float,
    *,
    kept: Tensor | None = None,
    names: Sequence[str] = (),
) -> Factors:
    """Compute the update that moves each key's value by its residual and leaves preserved keys unchanged (paper, closed form).

    Delta W = [R,0]^T (K P K^T + l2 I)^-1 K P with K = [keys; kept], which is the published dense solve
    (P (keys^T keys + C_prev) + l2 I)^-1 P keys^T R, C_prev = kept^T kept, without a d x d inverse. Only the
    rows of the new keys are returned: those of the kept ones would be multiplied by zero, so the rank is the number of new
    keys. Time grows as (n + m)^2 d.

    Args:
        keys: `[n, d]`, inputs of the down-projection.
        residuals: R `[n, hidden]`, the change of the output for each key.
        projection: P.
        l2: Regularisation; 0 maps every key exactly, if P leaves the keys independent.
        kept: `[m, d]`, keys of earlier edits, whose values stay.
        names: Names of the concepts, for errors.

    Returns:
        `up` `[hidden, n]` and `down` `[n, d]`, float32 on the CPU.

    Raises:
        EditError: A key or residual is not finite, a key vanishes under P, or the keys are linearly dependent.
    """
    keys, residuals = keys.float().cpu(), residuals.float().cpu()
    every = keys if kept is None else torch.cat([keys, kept.float().cpu()])  # [n + m, d]
    if not (bool(every.isfinite().all()) and bool(residuals.isfinite().all())):
        raise EditError("a key or value is NaN or infinite", remedy="check the model's weights and dtype")
    projected = projection.apply(every)
    vanished = projected.norm(dim=1) <= VANISHED * every.norm(dim=1)
    lost = vanished[: len(keys)].nonzero()[:, 0].tolist()
    if lost:
        where = ", ".join(names[index] for index in lost) if names else None
        what = "a key vanishes in the null space: nothing would be edited"
        raise EditError(what, where=where, remedy="use a larger threshold")
    every, projected = every[~vanished], projected[~vanished]  # a kept key that vanishes under P keeps its value anyway
    gram = (every.double() @ projected.double().T) + l2 * torch.eye(len(every), dtype=torch.double)
    try:  # the first n rows of the inverse; those of the kept keys are not needed
        rows = torch.linalg.solve(gram.T, torch.eye(len(every), len(keys), dtype=torch.double)).T
    except RuntimeError as error:
        raise EditError("the keys depend on each other in the null space", remedy="use a larger l2") from error
    return Factors(residuals.T.contiguous(), (rows @ projected.double()).float())

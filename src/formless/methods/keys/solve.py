"""How an update is spread over layers: each removes an equal share of what is left, with the earlier ones applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor

from formless.models.capture import added
from formless.models.lm import LM
from formless.models.overlay import Factors

Read = Callable[[int, int], tuple[Tensor, Tensor]]
"""From a layer, and the lowest layer that has changed since the last call, to the keys at the layer `[n, d]` and the values
after the last edited layer `[n, hidden]`."""

Solve = Callable[[int, Tensor, Tensor], Factors]
"""From a layer, all keys `[n, d]` and the residuals of the edited ones, which come first, to the update."""


def solve_layers(lm: LM, layers: Sequence[int], read: Read, goals: Tensor, solve: Solve) -> tuple[dict[int, Factors], Tensor]:
    """Compute the update of every layer.

    Args:
        lm: The model.
        layers: The edited layers, in ascending order.
        read: Reads keys and values, of the edited places and then of the kept ones.
        goals: Target values `[edited, hidden]`.
        solve: The closed form of one layer.

    Returns:
        The updates by layer, and the values before any of them `[edited + kept, hidden]`.
    """
    factors: dict[int, Factors] = {}
    changed = layers[0]
    start: Tensor | None = None
    with ExitStack() as updates:
        for index, layer in enumerate(layers):
            keys, values = read(layer, changed)
            start = values if start is None else start
            factors[layer] = solve(layer, keys, (goals - values[: len(goals)]) / (len(layers) - index))
            updates.enter_context(added(lm.architecture.down_projection(lm.model, layer), factors[layer]))
            changed = layer
    if start is None:
        raise ValueError("no layer is given")
    return factors, start


@contextmanager
def applied(lm: LM, factors: dict[int, Factors]) -> Iterator[None]:
    """Apply updates of down-projections inside the block, as hooks beside the weights."""
    with ExitStack() as updates:
        for layer, found in factors.items():
            updates.enter_context(added(lm.architecture.down_projection(lm.model, layer), found))
        yield


def residual_facts(before: float, after: float) -> dict[str, float]:
    """Return the facts of edit.json about the norm of residuals before and after an edit."""
    return {"residual_before": before, "residual_after": after, "residual_reduction": 1 - after / max(before, 1e-30)}

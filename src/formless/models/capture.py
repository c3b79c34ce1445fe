"""Read activations of single layers, or add a low-rank update to one, without running deeper than needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from formless.models.lm import LM
from formless.models.overlay import Factors


@dataclass(frozen=True)
class Activations:
    """What one forward pass left behind.

    Args:
        keys: By layer, the down-projection's input `[batch, seq, d_mlp]`.
        residuals: By layer, the residual stream after it `[batch, seq, hidden]`.
    """

    keys: dict[int, Tensor] = field(default_factory=dict)
    residuals: dict[int, Tensor] = field(default_factory=dict)


class _StopForwardError(Exception):
    """Raised inside a forward pass once the last wanted activation is there."""


def capture(
    lm: LM, batch: Mapping[str, Tensor], *, keys: Sequence[int] = (), residuals: Sequence[int] = (), gradients: bool = False
) -> Activations:
    """Run the model up to the deepest wanted activation and return those asked for.

    Args:
        lm: The model.
        batch: `input_ids` and `attention_mask`, `[batch, seq]`, on `lm.device`.
        keys: Layers whose down-projection input is wanted.
        residuals: Layers whose output is wanted.
        gradients: Whether they are to have gradients, where gradients are on.
    """
    found = Activations()
    last_key, last_residual = max(keys, default=-1), max(residuals, default=-1)

    def take_key(index: int) -> Callable[..., None]:
        def hook(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            found.keys[index] = arguments[0]
            if index == last_key and index > last_residual:
                raise _StopForwardError

        return hook

    def take_residual(index: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _arguments: Any, output: Any) -> None:
            found.residuals[index] = output if isinstance(output, Tensor) else output[0]
            if index == last_residual and index >= last_key:
                raise _StopForwardError

        return hook

    with ExitStack() as stack:
        for index in keys:
            module = lm.architecture.down_projection(lm.model, index)
            stack.callback(module.register_forward_pre_hook(take_key(index)).remove)
        for index in residuals:
            module = lm.architecture.layer(lm.model, index)
            stack.callback(module.register_forward_hook(take_residual(index)).remove)
        with torch.set_grad_enabled(gradients and torch.is_grad_enabled()), suppress(_StopForwardError):
            lm.model(**batch, use_cache=False, logits_to_keep=1)
    return found


@contextmanager
def added(module: nn.Module, factors: Factors) -> Iterator[None]:
    """Let a projection answer as if `factors` were added to its weight, in their own precision; no weight is touched."""

    def hook(_module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        down, up = factors.down.to(output.device), factors.up.to(output.device)
        change = (arguments[0].to(down.dtype) @ down.T) @ up.T
        return output + change.to(output.dtype)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()

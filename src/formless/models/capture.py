"""Activations of single layers, captured with hooks; and low-rank updates applied with a hook."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from formless.models.adapters import add_adapter
from formless.models.lm import LM
from formless.models.overlay import Factors


@dataclass(frozen=True)
class Activations:
    """Activations of a forward pass.

    Args:
        keys: The input of the down-projection `[batch, seq, d_mlp]`, by layer.
        residuals: The residual stream after a layer `[batch, seq, hidden]`, by layer.
    """

    keys: dict[int, Tensor] = field(default_factory=dict)
    residuals: dict[int, Tensor] = field(default_factory=dict)


class _StopForwardError(Exception):
    """Raised by a hook to end a forward pass after the last activation that is needed."""


def capture(
    lm: LM, batch: Mapping[str, Tensor], *, keys: Sequence[int] = (), residuals: Sequence[int] = (), gradients: bool = False
) -> Activations:
    """Run the model up to the deepest requested activation and return the activations.

    Args:
        lm: The model.
        batch: `input_ids` and `attention_mask`, `[batch, seq]`, on `lm.device`.
        keys: Layers whose down-projection input is captured.
        residuals: Layers whose output is captured.
        gradients: Keep the graph for gradients, where gradients are enabled.
    """
    found = Activations()
    last_key, last_residual = max(keys, default=-1), max(residuals, default=-1)

    def take_key(index: int) -> Callable[..., None]:
        take = _key_taker(found, index)

        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            take(module, arguments)
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


class ResumableForward:
    """A forward pass that can be repeated from a layer whose weights changed; the layers below are not run again.

    Args:
        lm: The model.
        batch: `input_ids` and `attention_mask`, `[batch, seq]`, on `lm.device`.
        first: The lowest layer from which the pass may be repeated; inputs are cached from here on.
        last: The layer after which the pass stops.
    """

    def __init__(self, lm: LM, batch: Mapping[str, Tensor], first: int, last: int) -> None:
        self._lm, self._batch, self._first, self._last = lm, batch, first, last
        self._inputs: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def run(self, changed: int, *, key: int | None = None) -> Activations:
        """Return the residual stream after the last layer, and the keys of a layer. Only the first call is a whole pass.

        Args:
            changed: The lowest layer whose weights have changed since the last run.
            key: The layer whose down-projection input is captured, not below `changed`.
        """
        with ExitStack() as stack:
            if not self._inputs:
                for index in range(self._first, self._last + 1):
                    layer = self._lm.architecture.layer(self._lm.model, index)
                    stack.callback(layer.register_forward_pre_hook(self._cache_input(index), with_kwargs=True).remove)
                keys = () if key is None else (key,)
                return capture(self._lm, self._batch, keys=keys, residuals=[self._last])
            found = Activations()
            if key is not None:
                module = self._lm.architecture.down_projection(self._lm.model, key)
                stack.callback(module.register_forward_pre_hook(_key_taker(found, key)).remove)
            with torch.no_grad():
                found.residuals[self._last] = self._rerun(changed)
        return found

    def _cache_input(self, index: int) -> Callable[..., None]:
        def hook(_module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            self._inputs[index] = arguments, keywords

        return hook

    def _rerun(self, start: int) -> Tensor:
        stream: Tensor | None = None
        for index in range(start, self._last + 1):
            arguments, keywords = self._inputs[index]
            if stream is not None:
                if arguments:
                    arguments = (stream, *arguments[1:])
                else:
                    keywords = keywords | {"hidden_states": stream}
                self._inputs[index] = arguments, keywords
            output = self._lm.architecture.layer(self._lm.model, index)(*arguments, **keywords)
            stream = output if isinstance(output, Tensor) else output[0]
        if stream is None:
            raise ValueError(f"layer {start} is above the last layer, {self._last}")
        return stream


def _key_taker(found: Activations, index: int) -> Callable[..., None]:
    def hook(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        found.keys[index] = arguments[0]

    return hook


@contextmanager
def added(module: nn.Module, factors: Factors) -> Iterator[None]:
    """Add a low-rank update to a projection's output with a hook, in the dtype of the factors; no weight is changed."""
    handle = add_adapter(module, factors)
    try:
        yield
    finally:
        handle.remove()

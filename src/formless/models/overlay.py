"""Low-rank updates laid over a model's weights and taken off again bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from formless.errors import EditError
from formless.models.architecture import is_transposed, projection_shape


@dataclass(frozen=True)
class Factors:
    """A low-rank update of one projection: `weight + up @ down`.

    Args:
        up: `[out, rank]`.
        down: `[rank, in]`.
    """

    up: Tensor
    down: Tensor

    def dense(self) -> Tensor:
        """The update as a matrix `[out, in]`, in the factors' dtype."""
        return self.up @ self.down


Updates = Mapping[str, Factors]


class Overlay:
    """The updates that are active on one model.

    The weights are always the untouched ones plus the active updates in the order in which they came, so updates can be
    taken off in any order, and after the last the very same bits stand there again.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._originals: dict[str, Tensor] = {}
        self._active: list[Updates] = []

    @property
    def is_empty(self) -> bool:
        """Whether the model is as it was loaded."""
        return not self._active

    def add(self, updates: Updates) -> None:
        """Lay updates (by module name) over the weights.

        Raises:
            EditError: A module is missing, its shape differs, its weight is quantized or offloaded, an update is not finite,
                or the very same updates are active already.
        """
        if any(updates is active for active in self._active):
            raise EditError("this edit is active already", remedy="leave its applied() block first")
        for name, factors in updates.items():
            self._check(name, factors)
        for name in updates:
            self._originals.setdefault(name, self._weight(name).detach().clone())
        self._active.append(updates)
        self._rebuild(updates)

    def remove(self, updates: Updates) -> None:
        """Take updates off.

        Raises:
            EditError: Something else has changed the weights meanwhile, so that they cannot be restored truly.
        """
        for name in updates:
            if not torch.equal(self._weight(name), self._expected(name)):
                raise EditError("the weights were changed while an edit was active", where=name, remedy="load the model again")
        self._active = [active for active in self._active if active is not updates]
        self._rebuild(updates)
        for name in updates:
            if not any(name in active for active in self._active):
                del self._originals[name]

    def _rebuild(self, updates: Updates) -> None:
        with torch.no_grad():
            for name in updates:
                self._weight(name).copy_(self._expected(name))

    def _expected(self, name: str) -> Tensor:
        """The original weight plus every active update, summed in float32 and rounded once."""
        original = self._originals[name]
        changes = [active[name] for active in self._active if name in active]
        if not changes:
            return original
        total = original.float()
        for factors in changes:
            dense = factors.dense().float().to(original.device)
            total = total + (dense.T if is_transposed(self._model.get_submodule(name)) else dense)
        return total.to(original.dtype)

    def _weight(self, name: str) -> nn.Parameter:
        return self._model.get_parameter(f"{name}.weight")

    def _check(self, name: str, factors: Factors) -> None:
        try:
            module = self._model.get_submodule(name)
        except AttributeError:
            raise EditError("the edit is for another model: no such module", where=name, remedy="load its base model") from None
        weight = cast(nn.Linear, module).weight
        if weight.is_meta or not weight.is_floating_point():
            remedy = "load the model unquantized and not offloaded, or load the saved adapter with PEFT"
            raise EditError(f"cannot edit a weight of type {weight.dtype} on {weight.device}", where=name, remedy=remedy)
        if not (bool(factors.up.isfinite().all()) and bool(factors.down.isfinite().all())):
            raise EditError("the edit holds NaN or infinity", where=name, remedy="do not use it")
        expected, found = projection_shape(module), (factors.up.shape[0], factors.down.shape[1])
        if expected != found:
            raise EditError(
                f"the edit is for another model: shape {found}, not {expected}", where=name, remedy="load its base model"
            )

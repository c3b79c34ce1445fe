"""Updates of a model's weights that are applied and removed bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from formless.errors import EditError
from formless.models.adapters import Adapters
from formless.models.families import is_transposed, projection_shape
from formless.models.quantized import LOW_RANK, is_packed_weight
from formless.models.weights import Weights

WEIGHT = ".weight"

K = TypeVar("K")


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
        """Return the update as a matrix `[out, in]`, in the factors' dtype."""
        return self.up @ self.down

    def scaled(self, factor: float) -> Factors:
        """Return the update times a factor, in the factors' dtype; a factor of 1 keeps every bit."""
        return self if factor == 1 else Factors(factor * self.up, self.down)

    def to(self, device: torch.device) -> Factors:
        """Return the update on a device."""
        return Factors(self.up.to(device), self.down.to(device))

    @property
    def is_zero(self) -> bool:
        """Whether the update changes nothing, because one of its factors is 0."""
        return not (self.up.any() and self.down.any())


def joined(*parts: Mapping[K, Factors]) -> dict[K, Factors]:
    """Add updates of the same modules or of others: the ranks of one module add up, those of the first part first."""
    found: dict[K, Factors] = {}
    for part in parts:
        for key, new in part.items():
            old = found.get(key)
            found[key] = Factors(torch.cat([old.up, new.up], dim=1), torch.cat([old.down, new.down])) if old else new
    return found


@dataclass(frozen=True)
class Difference:
    """A full update of one parameter: `parameter + values`.

    Args:
        values: The parameter's shape.
    """

    values: Tensor

    def scaled(self, factor: float) -> Difference:
        """Return the update times a factor, rounded to its dtype; a factor of 1 keeps every bit."""
        return self if factor == 1 else Difference(factor * self.values)

    def to(self, device: torch.device) -> Difference:
        """Return the update on a device."""
        return Difference(self.values.to(device))

    @property
    def is_zero(self) -> bool:
        """Whether the update changes nothing."""
        return not self.values.any()


Updates = Mapping[str, Factors | Difference]
"""Updates of a model: low-rank factors by module name, differences by parameter name."""


class Overlay:
    """The updates that are applied to a model.

    The weights are always the original weights plus the applied updates, in the order in which they were applied. A packed
    weight keeps its bits: its updates are added to the projection's output. Updates can be removed in any order; after the
    last removal the weights have their original bits.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._weights = Weights(model)
        self._applied: list[Updates] = []
        self._adapters = Adapters(model)

    @property
    def is_empty(self) -> bool:
        """Whether no update is applied."""
        return not self._applied

    def original(self, name: str) -> Tensor:
        """Return a parameter as it is without any update; an offloaded one is read on the CPU."""
        return self._weights.original(name)

    def current(self, name: str) -> Tensor:
        """Return a parameter with the updates that are applied; an offloaded one is read on the CPU."""
        return self._weights.read(name)

    def tied(self, name: str) -> list[str]:
        """Return a parameter's name, and the names of those that are tied to it."""
        return self._weights.tied(name)

    def add(self, updates: Updates) -> None:
        """Apply updates to the weights.

        Raises:
            EditError: A module is missing, its shape differs, its weight has no values, a whole update is of a quantized
                weight, an update is not finite, or the same updates are applied already.
        """
        if any(updates is applied for applied in self._applied):
            raise EditError("this edit is applied already", remedy="leave its applied() block first")
        for name, change in updates.items():
            self._check(name, change)
        self._adapters.add(updates)
        self._applied.append(updates)
        try:
            self._rebuild(self._written(updates))
        except BaseException:  # such as memory that runs out
            self._take_off(updates)
            raise

    def remove(self, updates: Updates) -> None:
        """Remove updates from the weights.

        Raises:
            EditError: The weights were changed by something else, so that they cannot be restored.
        """
        self._adapters.check(updates)
        for name in self._written(updates):
            if not torch.equal(self.current(name), self._expected(name)):
                raise EditError("the weights were changed while an edit was applied", where=name, remedy="load the model again")
        self._take_off(updates)

    def _take_off(self, updates: Updates) -> None:
        self._adapters.remove(updates)
        self._applied = [applied for applied in self._applied if applied is not updates]
        self._rebuild(self._written(updates))

    def _written(self, updates: Updates) -> dict[str, Factors | Difference]:
        """Return the updates that are written into weights, by parameter; the others are added to outputs."""
        return by_parameter({name: change for name, change in updates.items() if not self._adapters.takes(name, change)})

    def _rebuild(self, names: Iterable[str]) -> None:
        for name in names:
            if any(name in by_parameter(applied) for applied in self._applied):
                self._weights.write(name, self._expected(name))
            else:
                self._weights.restore(name)

    def _expected(self, name: str) -> Tensor:
        """Return the original parameter plus every applied update, summed in float32 and rounded once.

        Updates of 0 are left out: to add 0 would turn a weight of -0 into +0.
        """
        original = self.original(name)
        found = [change for applied in self._applied if (change := by_parameter(applied).get(name))]
        changes = [change for change in found if not change.is_zero]
        if not changes:
            return original
        total = original.float()
        for change in changes:
            # Factors are moved, not their product, which is as large as the weight.
            total = total + dense_update(self._model, name, change.to(original.device))
        return total.to(original.dtype)

    def _check(self, name: str, change: Factors | Difference) -> None:
        check_shape(self._model, name, change)
        if not self._adapters.takes(name, change):
            parameter = name + WEIGHT if isinstance(change, Factors) else name
            weight = self._model.get_parameter(parameter)
            if not (weight.is_floating_point() and self._weights.has_values(parameter)):
                remedy = "load the whole model, or load the saved adapter with PEFT"
                raise EditError(f"cannot edit a weight of type {weight.dtype} on {weight.device}", where=name, remedy=remedy)
        parts = (change.up, change.down) if isinstance(change, Factors) else (change.values,)
        if not all(bool(part.isfinite().all()) for part in parts):
            raise EditError("the edit holds NaN or infinity", where=name, remedy="do not use it")


def check_shape(model: nn.Module, name: str, change: Factors | Difference) -> None:
    """Refuse an update whose weight a model lacks or has in another shape; the model may be on the meta device.

    Raises:
        EditError: The edit is for another model, or a whole update is of a quantized weight.
    """
    remedy = "load its base model"
    try:
        if isinstance(change, Factors):
            expected: tuple[int, ...] = projection_shape(model.get_submodule(name))
            found: tuple[int, ...] = (change.up.shape[0], change.down.shape[1])
        else:
            if is_packed_weight(model, name):
                raise EditError("a whole update of a quantized weight cannot be applied", where=name, remedy=LOW_RANK)
            expected, found = tuple(model.get_parameter(name).shape), tuple(change.values.shape)
    except AttributeError:
        raise EditError("the edit is for another model: no such module", where=name, remedy=remedy) from None
    if expected != found:
        raise EditError(f"the edit is for another model: shape {found}, not {expected}", where=name, remedy=remedy)


def dense_update(model: nn.Module, name: str, change: Factors | Difference) -> Tensor:
    """Return an update as it is added to the parameter `name`, in the parameter's shape and float32."""
    if isinstance(change, Difference):
        return change.values.float()
    dense = change.dense().float()
    return dense.T if is_transposed(model.get_submodule(name.removesuffix(WEIGHT))) else dense


def by_parameter(updates: Updates) -> dict[str, Factors | Difference]:
    """Return updates by the names of the parameters, those of low rank too."""
    return {name + WEIGHT if isinstance(change, Factors) else name: change for name, change in updates.items()}

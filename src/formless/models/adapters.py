"""Low-rank updates added to the output of projections: no weight is changed, so that it may be packed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from formless.errors import EditError
from formless.models.quantized import is_packed

if TYPE_CHECKING:
    from formless.models.overlay import Difference, Factors


def add_adapter(module: nn.Module, factors: Factors) -> RemovableHandle:
    """Add a low-rank update to a projection's output with a hook, in the dtype of the factors.

    Args:
        module: The projection.
        factors: The update; it is moved to the output's device at the first call.

    Returns:
        What takes the hook off.
    """
    down, up = factors.down, factors.up

    def hook(_module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        nonlocal down, up
        if down.device != output.device:
            down, up = down.to(output.device), up.to(output.device)
        change = (arguments[0].to(down.dtype) @ down.T) @ up.T
        return output + change.to(output.dtype)

    return module.register_forward_hook(hook)


class Adapters:
    """The updates of packed weights that are applied to a model, each as a hook on its projection.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._applied: dict[int, tuple[ExitStack, list[tuple[str, RemovableHandle]]]] = {}

    def takes(self, name: str, change: Factors | Difference) -> bool:
        """Return whether an update is added here: one of low rank, of a module whose weight is packed."""
        return not hasattr(change, "values") and is_packed(self._model.get_submodule(name))

    def add(self, updates: Mapping[str, Factors | Difference]) -> None:
        """Add the updates of packed weights; those of others are left alone. If one fails, none is added."""
        handles = []
        with ExitStack() as stack:
            for name, change in updates.items():
                if self.takes(name, change) and not change.is_zero:
                    handle = add_adapter(self._model.get_submodule(name), cast("Factors", change))
                    stack.callback(handle.remove)
                    handles.append((name, handle))
            self._applied[id(updates)] = stack.pop_all(), handles

    def check(self, updates: Mapping[str, Factors | Difference]) -> None:
        """Refuse updates whose hook something else took off.

        Raises:
            EditError: A hook is missing.
        """
        for name, handle in self._applied[id(updates)][1]:
            if handle.id not in self._model.get_submodule(name)._forward_hooks:
                raise EditError("a hook was taken off while an edit was applied", where=name, remedy="load the model again")

    def remove(self, updates: Mapping[str, Factors | Difference]) -> None:
        """Take the hooks of updates off."""
        self._applied.pop(id(updates))[0].close()

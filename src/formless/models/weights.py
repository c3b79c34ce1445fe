"""Weights by name, wherever accelerate keeps them: on their device, in the main memory or on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook
from accelerate.utils import OffloadedWeightsLoader, PrefixedDataset
from torch import Tensor, nn


class Weights:
    """The parameters of a model, which can be read, overwritten and restored bit for bit.

    accelerate keeps an offloaded parameter in a map, which reads it from memory or disk before each use. Between uses its
    module has a parameter without values. A value that overwrites it is put into the map, in memory. No file is written.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._written: dict[str, list[_Resident | _Offloaded]] = {}

    def read(self, name: str) -> Tensor:
        """Return a parameter as it is now; an offloaded one on the CPU."""
        offloaded = _offloaded(self._model, name)
        return offloaded.read() if offloaded else self._model.get_parameter(name).detach()

    def original(self, name: str) -> Tensor:
        """Return a parameter as it was before it was overwritten."""
        return self._written[name][0].original() if name in self._written else self.read(name)

    def write(self, name: str, value: Tensor) -> None:
        """Overwrite a parameter; a tied one under each of its names."""
        if name not in self._written:
            self._written[name] = list(self._places(name))
        for place in self._written[name]:
            place.write(value)

    def restore(self, name: str) -> None:
        """Give a parameter the bits back that it had before it was overwritten, if it was."""
        for place in self._written.pop(name, ()):
            place.restore()

    def has_values(self, name: str) -> bool:
        """Return whether a parameter has values somewhere; those of a model on the meta device have none."""
        return not self._model.get_parameter(name).is_meta or _offloaded(self._model, name) is not None

    def tied(self, name: str) -> list[str]:
        """Return a parameter's name, and the names of those that are tied to it."""
        sources = getattr(self._model, "all_tied_weights_keys", {})
        source = sources.get(name, name)
        group = [source, *(other for other in sources if sources[other] == source)]
        return [name, *(other for other in group if other != name)]

    def _places(self, name: str) -> Iterator[_Resident | _Offloaded]:
        seen = set()
        for each in self.tied(name):
            parameter = self._model.get_parameter(each)
            if offloaded := _offloaded(self._model, each):
                yield offloaded
            elif id(parameter) not in seen:  # tied parameters on one device are one
                seen.add(id(parameter))
                yield _Resident(parameter)


class _Resident:
    """A parameter with values in its module; its original is copied."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self._parameter = parameter
        self._original = parameter.detach().clone()

    def original(self) -> Tensor:
        return self._original

    @torch.no_grad()
    def write(self, value: Tensor) -> None:
        self._parameter.copy_(value)

    def restore(self) -> None:
        self.write(self._original)


class _Offloaded:
    """A parameter in a map of accelerate's; its original stays in memory or on disk, where it is.

    Args:
        values: The map.
        key: The parameter's name in the map.
        dtype: Its dtype in the model, to which accelerate casts it.
    """

    def __init__(self, values: Mapping[str, Tensor], key: str, dtype: torch.dtype) -> None:
        self._values, self._key, self._dtype = values, key, dtype
        # A loader looks into its memory first, and then on disk.
        self._memory: Any = values.state_dict if isinstance(values, OffloadedWeightsLoader) else values
        self._original = self._memory.get(key)

    def read(self) -> Tensor:
        return self._values[self._key].detach().to("cpu", self._dtype)

    def original(self) -> Tensor:
        if self._original is not None:
            return self._original.to("cpu", self._dtype)
        loader: Any = self._values
        value: Tensor = OffloadedWeightsLoader(save_folder=loader.save_folder, index=loader.index)[self._key]
        return value.to(self._dtype)

    def write(self, value: Tensor) -> None:
        self._memory[self._key] = value.detach().cpu()

    def restore(self) -> None:
        if self._original is None:
            del self._memory[self._key]
        else:
            self._memory[self._key] = self._original


def execution_device(module: nn.Module) -> torch.device:
    """Return the device on which a module without submodules computes; that of its offloaded weights is another."""
    hooks = [hook for hook in _hooks(module) if hook.offload and hook.execution_device is not None]
    return torch.device(hooks[-1].execution_device) if hooks else next(module.parameters()).device


def _offloaded(model: nn.Module, name: str) -> _Offloaded | None:
    """Return where accelerate keeps a parameter; None if its module does.

    A failed forward pass can leave values in the module, which the next one replaces by those of the map.
    """
    path = name.split(".")
    for depth in range(len(path) - 1, -1, -1):  # the innermost module first
        for hook in _hooks(model.get_submodule(".".join(path[:depth]))):
            if hook.offload and (depth == len(path) - 1 or hook.place_submodules):
                values, key = hook.weights_map, ".".join(path[depth:])
                while isinstance(values, PrefixedDataset):
                    values, key = values.dataset, f"{values.prefix}{key}"
                return _Offloaded(values, key, model.get_parameter(name).dtype)
    return None


def _hooks(module: nn.Module) -> list[AlignDevicesHook]:
    """Return the hooks by which accelerate places a module's weights."""
    hook = getattr(module, "_hf_hook", None)
    return [each for each in getattr(hook, "hooks", [hook]) if isinstance(each, AlignDevicesHook)]

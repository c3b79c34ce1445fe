"""The weights that a training run changes: contexts in which they are trainable, and after which the model is as before."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from formless.errors import EditError
from formless.interrupts import uninterrupted
from formless.models.lm import LM
from formless.models.overlay import Difference, Updates
from formless.models.quantized import LOW_RANK, has_packed


class Weights(Protocol):
    """Trainable weights of a model."""

    @property
    def module(self) -> nn.Module:
        """Return the module with the trainable parameters; its forward pass is the model's."""
        ...

    def reference(self) -> AbstractContextManager[Any]:
        """Restore the model before training inside the block.

        Do not enter it between a forward pass with gradients and its backward pass.
        """
        ...

    def updates(self) -> Updates:
        """Return what has been learned, on the CPU."""
        ...


class AllWeights:
    """Every parameter of a model (full fine-tuning).

    Args:
        model: The model; its parameters are float32 copies now.
        originals: The original parameters by name; the reference needs no further copy.
    """

    def __init__(self, model: PreTrainedModel, originals: Mapping[str, Tensor]) -> None:
        self.module = model
        self._originals = originals

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Put the original parameters in place of the trained ones inside the block."""
        trained = {name: parameter.data for name, parameter in self.module.named_parameters()}
        try:
            _put(self.module, self._originals)
            yield
        finally:
            with uninterrupted():
                _put(self.module, trained)

    def updates(self) -> dict[str, Difference]:
        """Return trained minus original parameters, in the original dtype, without those that did not change."""
        found = {}
        for name, parameter in self.module.named_parameters():
            original = self._originals[name]
            change = (parameter.data - original.float()).to(original.dtype)
            if bool(change.any()):
                found[name] = Difference(change.cpu())
        return found


@contextmanager
def unfrozen(lm: LM, seed: int) -> Iterator[AllWeights]:
    """Make every parameter a trainable float32 copy; after the block the very same tensors are back.

    Raises:
        EditError: A weight is quantized or offloaded.
    """
    if has_packed(lm.model):
        raise EditError("a quantized weight has no gradient", where=lm.name, remedy=LOW_RANK)
    with as_loaded(lm, seed):
        originals = {name: parameter.data for name, parameter in lm.model.named_parameters()}
        try:
            for parameter in lm.model.parameters():
                parameter.data = parameter.data.to(torch.float32, copy=True)
                parameter.requires_grad_(True)
            yield AllWeights(lm.model, originals)
        finally:
            with uninterrupted():
                for parameter in lm.model.parameters():
                    parameter.grad = None
                _put(lm.model, originals)


@contextmanager
def as_loaded(lm: LM, seed: int) -> Iterator[None]:
    """Seed a block, after which everything that a training run touches is as before.

    Training modes, `requires_grad`, the configuration and the random states are restored.

    Raises:
        EditError: A weight is offloaded.
    """
    model = lm.model
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise EditError("cannot train beside an offloaded weight", where=name, remedy="load the model on one device")
    gradients = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    settings, own = dict(vars(model.config)), set(vars(model))
    with _own_randomness(seed):
        try:
            yield
        finally:
            with uninterrupted():
                _restore(model, gradients, modes, settings)
                # Mixed precision wraps the forward pass, unless the model bears the mark of an earlier run.
                for name in {"forward", "_original_forward", "_is_accelerate_prepared"} - own:
                    vars(model).pop(name, None)


def _put(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.data = tensors[name]


def _restore(model: PreTrainedModel, gradients: dict[str, bool], modes: dict[str, bool], settings: dict[str, Any]) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(gradients[name])
        parameter.grad = None
    for name, module in model.named_modules():
        module.training = modes[name]
    # The Trainer switches the cache off, also where the configuration had no such setting.
    if "use_cache" in settings:
        model.config.use_cache = settings["use_cache"]
    else:
        vars(model.config).pop("use_cache", None)


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's generators, and restore their states afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)

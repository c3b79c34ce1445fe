"""What a training changes: a context in which some of a model's weights learn, and after which the model is as before."""

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
from formless.models.lm import LM
from formless.models.overlay import Difference, Updates


class Weights(Protocol):
    """Weights that learn."""

    @property
    def module(self) -> nn.Module:
        """What an optimizer is given; its forward pass is the model's."""
        ...

    def reference(self) -> AbstractContextManager[Any]:
        """The model as it was before training; not to be entered between a pass with gradients and its backward pass."""
        ...

    def updates(self) -> Updates:
        """What has been learnt, on the CPU."""
        ...


class AllWeights:
    """Every parameter of a model (full fine-tuning).

    Args:
        model: The model, whose parameters are float32 copies now.
        originals: By name, what they were; no further copy is made for the reference.
    """

    def __init__(self, model: PreTrainedModel, originals: Mapping[str, Tensor]) -> None:
        self.module = model
        self._originals = originals

    @contextmanager
    def reference(self) -> Iterator[None]:
        """The original parameters in place of the trained ones."""
        trained = {name: parameter.data for name, parameter in self.module.named_parameters()}
        try:
            _put(self.module, self._originals)
            yield
        finally:
            _put(self.module, trained)

    def updates(self) -> dict[str, Difference]:
        """Trained minus original, in the original's format; parameters that did not move are left out."""
        found = {}
        for name, parameter in self.module.named_parameters():
            original = self._originals[name]
            change = (parameter.data - original.float()).to(original.dtype)
            if bool(change.any()):
                found[name] = Difference(change.cpu())
        return found


@contextmanager
def unfrozen(lm: LM, seed: int) -> Iterator[AllWeights]:
    """The model with every parameter as a float32 copy that learns; afterwards the very same tensors are back.

    Raises:
        EditError: A weight is quantized or offloaded.
    """
    with as_loaded(lm, seed):
        originals = {name: parameter.data for name, parameter in lm.model.named_parameters()}
        try:
            for parameter in lm.model.parameters():
                parameter.data = parameter.data.to(torch.float32, copy=True)
                parameter.requires_grad_(True)
            yield AllWeights(lm.model, originals)
        finally:
            for parameter in lm.model.parameters():
                parameter.grad = None
            _put(lm.model, originals)


@contextmanager
def as_loaded(lm: LM, seed: int) -> Iterator[None]:
    """A block with random generators of its own, after which all that a training touches is as before.

    Modes, which weights have gradients, the configuration and the random states come back.

    Raises:
        EditError: A weight is quantized or offloaded.
    """
    model = lm.model
    for name, parameter in model.named_parameters():
        if parameter.is_meta or not parameter.is_floating_point():
            remedy = "load the model unquantized and not offloaded"
            raise EditError(f"cannot train beside a weight of type {parameter.dtype}", where=name, remedy=remedy)
    gradients = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    settings, own = dict(vars(model.config)), set(vars(model))
    with _own_randomness(seed):
        try:
            yield
        finally:
            _restore(model, gradients, modes, settings)
            for name in {"forward", "_original_forward"} - own:  # mixed precision wraps it
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
    """Seed Python's, numpy's and torch's generators, and give them their states back afterwards."""
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

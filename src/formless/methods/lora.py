"""A LoRA adapter on the model that an `LM` holds, put in for training and taken out again without a trace."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from formless.errors import EditError, UserError
from formless.models.architecture import is_transposed
from formless.models.lm import LM
from formless.models.overlay import Factors

QUERY_AND_VALUE: tuple[tuple[str, ...], ...] = (("q_proj", "v_proj"), ("qkv_proj",), ("c_attn",), ("query_key_value",))
"""The paper's projections, then what holds queries and values in families that compute them in one."""


def lora_config(lm: LM, *, modules: tuple[str, ...] | None, rank: int, alpha: int) -> LoraConfig:
    """PEFT's description of an adapter on projections of every decoder layer.

    Args:
        lm: The model.
        modules: Last parts of the projections' names; by family unless given.
        rank: Rank of the updates.
        alpha: Their scale times the rank.

    Raises:
        UserError: The layers have no such projection, or the family's are not known.
    """
    found = {name.rsplit(".", 1)[-1] for name, module in lm.architecture.layer(lm.model, 0).named_modules() if _fits(module)}
    known = next((names for names in QUERY_AND_VALUE if found.issuperset(names)), None) if modules is None else modules
    missing = sorted(set(known or ()) - found)
    if not known or missing:
        what = f"the layers have no projection {missing[0]!r}" if missing else "no projections to train are given or known"
        raise UserError(what, where="modules", remedy=f"choose from {', '.join(sorted(found))}")
    inside = [name for name, module in lm.model.named_modules() if _fits(module) and name.rsplit(".", 1)[-1] in known]
    layers = f"{lm.architecture.layers}."
    # A picture tower has projections of the same names, so there the pattern names the layers too.
    alone = all(name.startswith(layers) for name in inside)
    pattern = rf"{re.escape(layers)}\d+\..*({'|'.join(map(re.escape, known))})"
    first = next(name for name in inside if name.startswith(layers))
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=list(known) if alone else pattern,
        fan_in_fan_out=is_transposed(lm.model.get_submodule(first)),
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(lm.model.config._name_or_path) or None,
        revision=getattr(lm.model.config, "_commit_hash", None),
    )


@contextmanager
def adapted(lm: LM, adapter: LoraConfig, seed: int) -> Iterator[PeftModel]:
    """The model with a fresh adapter, whose parameters alone have gradients; afterwards the model is as before.

    Weights, modules, their modes, which of them have gradients, the configuration and the random states come back.

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
    settings = dict(vars(model.config))
    with _own_randomness(seed):
        with warnings.catch_warnings():
            # PEFT asks transformers for an attribute by its old name.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            wrapped = get_peft_model(model, adapter)
        try:
            yield wrapped
        finally:
            wrapped.unload()
            _restore(model, gradients, modes, settings)


def factors_of(model: PreTrainedModel) -> dict[str, Factors]:
    """The updates of the adapter in a model by module name, its scale folded in; float32 on the CPU."""
    updates = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            sides = (cast(nn.Linear, side["default"]) for side in (module.lora_B, module.lora_A))
            up, down = (side.weight.detach().float().cpu() for side in sides)
            updates[name] = Factors(module.scaling["default"] * up, down.clone())
    return updates


def _fits(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or is_transposed(module)


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

"""A LoRA adapter on the model of an `LM`: added for training, and removed again without a trace."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

from formless.errors import EditError, UserError
from formless.interrupts import uninterrupted
from formless.methods.training.weights import as_loaded
from formless.models.families import is_transposed, projection_shape
from formless.models.lm import LM
from formless.models.meta import MetaModel
from formless.models.overlay import Factors

QUERY_AND_VALUE: tuple[tuple[str, ...], ...] = (("q_proj", "v_proj"), ("qkv_proj",), ("c_attn",), ("query_key_value",))
"""The paper's projections, then their equivalents in families that compute queries and values in one projection."""


def lora_config(
    lm: LM | MetaModel,
    *,
    target_modules: tuple[str, ...] | None,
    r: int,
    lora_alpha: int,
    layers: tuple[int, ...] | None = None,
) -> LoraConfig:
    """Return PEFT's description of an adapter on projections of decoder layers.

    Args:
        lm: The model.
        target_modules: Last parts of the projections' names; those of the family if None.
        r: Rank of the updates.
        lora_alpha: Scale of the updates times the rank.
        layers: Layers that get an adapter; all if None.

    Raises:
        UserError: A layer or projection does not exist, the projections of the family are not known, or one has a smaller
            rank than the adapter.
    """
    found = [name for name, module in lm.architecture.layer(lm.model, 0).named_modules() if _fits(module)]
    leaves = {name.rsplit(".", 1)[-1] for name in found}
    known = (
        next((names for names in QUERY_AND_VALUE if leaves.issuperset(names)), None)
        if target_modules is None
        else target_modules
    )
    missing = [name for name in known or () if not any(_ends(inside, name) for inside in found)]
    if not known or missing:
        what = f"the layers have no projection {missing[0]!r}" if missing else "no projections to train are given or known"
        raise UserError(what, where="target_modules", remedy=f"choose from {', '.join(sorted(leaves))}")
    for layer in layers or ():
        lm.architecture.layer(lm.model, layer)
    within = f"{lm.architecture.layers}."
    everywhere = [name for name, module in lm.model.named_modules() if _fits(module) and any(_ends(name, n) for n in known)]
    # A picture tower has projections of the same names, so there the pattern names the layers too.
    alone = layers is None and all(name.startswith(within) for name in everywhere)
    numbers = r"\d+" if layers is None else f"(?:{'|'.join(map(str, layers))})"
    pattern = rf"{re.escape(within)}{numbers}\.(?:.*\.)?(?:{'|'.join(map(re.escape, known))})"
    first = next(name for name in everywhere if name.startswith(within))
    for name in (name for name in everywhere if re.fullmatch(pattern, name)):
        shape = projection_shape(lm.model.get_submodule(name))
        if r > min(shape):
            what = f"r is {r}, and {name} is {list(shape)}"
            raise UserError(what, where="setting r", remedy=f"choose at most {min(shape)}")
    return LoraConfig(
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=0.0,
        target_modules=list(known) if alone else pattern,
        fan_in_fan_out=is_transposed(lm.model.get_submodule(first)),
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(lm.model.config._name_or_path) or None,
        revision=getattr(lm.model.config, "_commit_hash", None),
    )


class Adapter:
    """A LoRA adapter in training.

    Args:
        module: The model, wrapped by PEFT.
    """

    def __init__(self, module: PeftModel) -> None:
        self.module = module

    def reference(self) -> AbstractContextManager[Any]:
        """Disable the adapter inside the block: there is no second copy of the weights."""
        return cast(AbstractContextManager[Any], self.module.disable_adapter())

    def updates(self) -> dict[str, Factors]:
        """Return the updates by module name, multiplied by the scale; float32 on the CPU."""
        found = {}
        for name, module in self.module.get_base_model().named_modules():
            if isinstance(module, LoraLayer):
                sides = (cast(nn.Linear, side["default"]) for side in (module.lora_B, module.lora_A))
                up, down = (side.weight.detach().float().cpu() for side in sides)
                found[name] = Factors(module.scaling["default"] * up, down.clone())
        return found


@contextmanager
def adapted(lm: LM, adapter: LoraConfig, seed: int) -> Iterator[Adapter]:
    """Add a fresh adapter, whose parameters alone have gradients; after the block the model is as before.

    Raises:
        EditError: A weight is offloaded, or quantized in a way through which no gradient passes.
    """
    wrapped = None
    with as_loaded(lm, seed):
        _refuse_inference_only(lm)
        try:
            with uninterrupted(), warnings.catch_warnings():
                # PEFT asks transformers for an attribute by its old name.
                warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
                wrapped = get_peft_model(lm.model, adapter)
            yield Adapter(wrapped)
        finally:
            if wrapped:
                with uninterrupted():
                    wrapped.unload()


def _refuse_inference_only(lm: LM) -> None:
    """Refuse a quantized model through which no gradient passes, as its package says; it is put into training mode."""
    quantizer = getattr(lm.model, "hf_quantizer", None)
    if quantizer is None:
        return
    reason = "" if quantizer.is_trainable else "transformers says so"
    try:
        lm.model.train()
    except NotImplementedError as error:  # the fast kernels of GPTQ and AWQ
        reason = str(error).partition(". ")[0]
    if reason:
        remedy = "use rocr or cdr, or a model that bitsandbytes, or torchao with 8 bits, quantized"
        raise EditError(f"no gradient passes through {lm.dtype_name} ({reason})", where=lm.name, remedy=remedy)


def _ends(name: str, last: str) -> bool:
    return f".{name}".endswith(f".{last}")


def _fits(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or is_transposed(module) or hasattr(module, "qweight")

"""Quantized models: which weights are packed, what they hold, and what a checkpoint may claim.

A packed weight is one that transformers left in the form of a quantization package: integers with scales, not floats. Its bits
are never changed here. A low-rank update is added to the projection's output instead (`models/adapters.py`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from formless.errors import ModelError

METHODS: Final = ("bitsandbytes", "torchao", "gptq", "awq")
"""The values of `quant_method` in config.json that are read; transformers turns some others into floats without a word."""

LOW_RANK: Final = "use a low-rank method (rocr, cdr, or training with full=false), or load the unquantized model"

_ROWS: Final = 512


def is_packed(module: nn.Module) -> bool:
    """Return whether a module's weight is packed: less than two bytes a value, a tensor of several parts, or buffers."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return isinstance(getattr(module, "qweight", None), Tensor)  # GPTQ and AWQ
    return weight.dtype.itemsize < 2 or hasattr(weight, "__tensor_flatten__")  # bitsandbytes, float8; torchao


def has_packed(model: nn.Module) -> bool:
    """Return whether any weight of a model is packed."""
    return any(is_packed(module) for module in model.modules())


def is_packed_weight(model: nn.Module, name: str) -> bool:
    """Return whether a parameter's name is that of a packed weight; a name that the model lacks is not."""
    module, _, last = name.rpartition(".")
    found = dict(model.named_modules()).get(module)
    return last == "weight" and found is not None and is_packed(found)


def quantization_of(config: PretrainedConfig, source: object) -> str | None:
    """Return how a checkpoint says that it is quantized, e.g. "bitsandbytes"; None if it does not.

    Raises:
        ModelError: It names a way that Formless does not read.
    """
    found: Any = getattr(config, "quantization_config", None)
    if found is None:
        return None
    method = _method(found)
    if method not in METHODS:
        what = f"the model is quantized with {method!r}, which Formless does not read"
        remedy = f"load the unquantized model, or one quantized with {', '.join(METHODS[:-1])} or {METHODS[-1]}"
        raise ModelError(what, where=source, remedy=remedy)
    return method


def check_packed(model: PreTrainedModel, method: str, source: object) -> None:
    """Refuse a checkpoint that is not quantized as its configuration says.

    Args:
        model: The loaded model.
        method: What `quantization_of` returns.
        source: The folder or hub id, for the message.

    Raises:
        ModelError: No weight is packed, or one lacks its scales.
    """
    remedy = "use the model's own config.json with all of its weight files"
    packed = {name: module for name, module in model.named_modules() if is_packed(module)}
    if not packed:
        raise ModelError(f"config.json says that {method} quantized the model, and no weight is", where=source, remedy=remedy)
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if _is_of_bitsandbytes(module) and isinstance(weight, Tensor) and not _is_of_bitsandbytes(weight):
            raise ModelError(f"the weight of {name} has no scales of {method}", where=source, remedy=remedy)


def warn_of_rounded_activations(model: PreTrainedModel, source: object) -> None:
    """Warn of a model whose activations are rounded to 8 bits: what it says depends on what else is in the batch."""
    if any(_rounds_activations(module) for module in model.modules()):
        what = f"{dtype_name(model)}: activations are rounded too, so that a result depends on its batch"
        warnings.warn(f"{what} [{source}]; quantize the weights alone for numbers that repeat", stacklevel=3)


def named_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter by name, and in place of packed ones what they consist of, flat.

    Integers come as bytes, which bfloat16 holds exactly, so that a fingerprint in bfloat16 tells them apart.
    """
    packed = {name: module for name, module in model.named_modules() if is_packed(module)}
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[0] not in packed:
            yield name, parameter
    for name, module in packed.items():
        for part, tensor in stored_parts(module):
            flat = tensor.flatten()
            yield f"{name}.{part}", flat if _is_float(flat) else flat.view(torch.uint8)


def stored_parts(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what a module's weights consist of, by the name in its state: integers, scales, zeros."""
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, Tensor):  # of 8 bits, bitsandbytes may note the format as a word
            yield from _parts(name, tensor)


def is_finite(module: nn.Module) -> bool:
    """Return whether every float that a module stores is finite."""
    return all(bool(part.isfinite().all()) for _, part in stored_parts(module) if _is_float(part) and not part.is_meta)


def prepare_packed(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit weights anew at the first forward pass, as it does on some CPUs.

    Their scales would lose digits, and no gradient would pass any more.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            cast(Any, module).support_avx512bf16_for_cpu = False


def cast_floats(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast a model's float parameters, and the scales of torchao's tensors, which do not multiply another dtype.

    Buffers stay as they are: RoPE's frequencies are float32. Integers stay as they are too.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if hasattr(parameter, "__tensor_flatten__"):
                setattr(module, name, nn.Parameter(_cast(parameter, dtype), requires_grad=False))
            elif _is_float(parameter):
                parameter.data = parameter.data.to(dtype)


@torch.no_grad()
def packed_norm(module: nn.Module) -> float:
    """Return the Frobenius norm of a packed weight: what the projection makes of the unit vectors, without the bias."""
    sample = next(part for _, part in stored_parts(module))
    dtype = next((part.dtype for _, part in stored_parts(module) if _is_float(part)), torch.float32)
    width, total = int(cast(Any, module).in_features), 0.0
    bias: Any = getattr(module, "bias", None)
    for start in range(0, width, _ROWS):
        count = min(_ROWS, width - start)
        units = torch.zeros(count, width, dtype=dtype, device=sample.device)
        units[range(count), range(start, start + count)] = 1
        columns = module.forward(units).float() - (0 if bias is None else bias.float())  # not the hooks of an edit
        total += float(columns.square().sum(dim=1).double().sum())
    return float(total**0.5)


def dtype_name(model: PreTrainedModel) -> str:
    """Return the dtype of a model's floats, and how its other weights are quantized, e.g. "float32, bitsandbytes 4 bit"."""
    floats = str(model.dtype).removeprefix("torch.")
    if not has_packed(model):
        return floats
    settings: Any = getattr(model.config, "quantization_config", None)
    bits = {"load_in_4bit": "4 bit", "load_in_8bit": "8 bit"}
    kind = next((name for key, name in bits.items() if getattr(settings, key, False)), "")
    if isinstance(getattr(settings, "bits", None), int):
        kind = f"{settings.bits} bit"
    elif (scheme := getattr(settings, "quant_type", None)) is not None and not isinstance(scheme, str):  # torchao's
        kind = type(scheme).__name__.removesuffix("Config")
    return f"{floats}, {_method(settings) or 'quantized'} {kind}".rstrip()


def _rounds_activations(module: nn.Module) -> bool:
    if type(module).__name__ == "Linear8bitLt":  # of bitsandbytes
        return True
    weight = getattr(module, "weight", None)
    names = ("act_quant_kwargs", "activation_quantization")  # of torchao's tensors
    return any(getattr(weight, name, None) is not None for name in names)


def _method(settings: Any) -> str | None:
    """Return the name of the package or way in a quantization_config, which is an object once the model is loaded."""
    get = settings.get if isinstance(settings, dict) else partial(getattr, settings)
    if get("load_in_8bit", None) or get("load_in_4bit", None):
        return METHODS[0]
    found = get("quant_method", None)
    return None if found is None else str(getattr(found, "value", found))


def _parts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if not hasattr(tensor, "__tensor_flatten__"):
        yield name, tensor.detach()
        return
    for part in tensor.__tensor_flatten__()[0]:
        yield from _parts(f"{name}.{part}", getattr(tensor, part))


def _cast(packed: Any, dtype: torch.dtype) -> Tensor:
    names, context = packed.__tensor_flatten__()
    parts = {name: getattr(packed, name) for name in names}
    parts = {name: part.to(dtype) if _is_float(part) else part for name, part in parts.items()}
    found: Tensor = type(packed).__tensor_unflatten__(parts, context | {"dtype": dtype}, None, None)
    return found


def _is_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype.itemsize >= 2


def _is_of_bitsandbytes(thing: object) -> bool:
    return type(thing).__module__.startswith("bitsandbytes")

"""Where the weights of a model are put, and in which dtype; also of one that is larger than a device, or than the memory."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import convert_file_size_to_int, get_max_memory
from torch import nn

from formless import store
from formless.errors import ModelError
from formless.models.reading.memory import fits

DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SPREAD = "spread"


def check_dtype(dtype: str) -> None:
    """Refuse a name that is none of `DTYPES`.

    Raises:
        ModelError: It is unknown.
    """
    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}", where="--dtype", remedy=f"choose from {', '.join(DTYPES)}")


def find_device(name: str) -> torch.device:
    """Return a device of this machine; `auto` and `spread` stand for CUDA, then MPS, then the CPU.

    Raises:
        ModelError: The name is none, or this machine has no such device.
    """
    if is_spread(name):
        _, colon, size = name.partition(":")
        if colon:
            memory_size(size, where="--device")
    elif name != "auto":
        remedy = "e.g. cpu, cuda:0, mps"
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ModelError(f"unknown device {name!r}", where="--device", remedy=remedy) from error
        if device.type == "meta":
            raise ModelError("the device meta holds no weights", where="--device", remedy=remedy)
        try:
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError, ImportError) as error:  # ImportError: a type for which torch has no code
            reason = str(error).splitlines()[0].partition(". ")[0]
            raise ModelError(f"no device {name!r} here ({reason})", where="--device", remedy=remedy) from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def is_spread(device: str) -> bool:
    """Return whether a device is `spread` or `spread:SIZE`: layers on all devices, and what does not fit on disk."""
    return device.partition(":")[0] == SPREAD


def memory_size(text: str, *, where: str) -> int:
    """Return a size such as `500MB` or `2.5GiB` in bytes.

    Args:
        text: The size.
        where: Where it is given, for the message.

    Raises:
        ModelError: It is none, or not positive.
    """
    with suppress(ValueError, OverflowError):
        size: int = convert_file_size_to_int(text.upper())  # accelerate reads a small "b" as bits
        if size > 0:
            return size
    raise ModelError(f"{text!r} is no size of memory", where=where, remedy="e.g. 500MB or 2GB")


def spread_options(
    device_map: str | dict[str, Any],
    max_memory: str | dict[int | str, int | str] | None,
    offload_folder: str | Path | None,
    scratch: ExitStack,
) -> dict[str, Any]:
    """Return how transformers spreads a model; a scratch folder for weights is removed when the stack is closed."""
    folder = offload_folder or scratch.enter_context(store.scratch_folder(store.cache_folder() / "offloaded"))
    limits = max_memory
    if isinstance(max_memory, str):  # of the others, a tenth is for activations, as transformers leaves it
        others: dict[int | str, int | str] = {device: int(0.9 * free) for device, free in get_max_memory().items()}
        limits = others | {"cpu": memory_size(max_memory, where="max_memory")}
    return {"device_map": device_map, "max_memory": limits, "offload_folder": str(folder)}


def read_mapped(model: nn.Module) -> None:
    """Copy what a spread model has in the main memory out of its mapped files, whose pages the system may take, if it fits."""
    held = [parameter for parameter in model.parameters() if parameter.device.type == "cpu"]
    mapped = [parameter for parameter in held if not parameter.untyped_storage().resizable()]
    if fits(sum(parameter.nbytes for parameter in mapped)):
        for parameter in mapped:
            parameter.data = parameter.data.clone()

"""Load a model by short name, folder or hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from formless.errors import ModelError, UserError
from formless.models.bundled import ORIGIN, bundled_model
from formless.models.families import architecture_of
from formless.models.lm import LM, fingerprint
from formless.models.settings import BUNDLED, settings_for, unknown_model

DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    name_or_path: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | dict[str, Any] | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LM:
    """Load a causal language model.

    Args:
        name_or_path: A short name (`formless models` lists them), a folder, or a hub id (`owner/name`).
        dtype: `float32`, `bfloat16` or `float16`; `auto` takes float32 on the CPU and the checkpoint's own elsewhere.
        device: A torch device; `auto` takes CUDA, then MPS, then the CPU.
        device_map: As in transformers, e.g. `"auto"` to spread layers over several devices; replaces `device`.
        revision: The hub revision.
        trust_remote_code: Whether code from the model's repository may run.

    Raises:
        UnknownNameError: No such model, or its family has no row.
        ModelError: The model cannot be loaded.
    """
    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}", where="--dtype", remedy=f"choose from {', '.join(DTYPES)}")
    place = _device(device)
    settings = settings_for(name_or_path)
    if settings.source != BUNDLED and not Path(settings.source).is_dir() and settings.source.count("/") != 1:
        raise unknown_model(name_or_path)
    source = str(bundled_model()) if settings.source == BUNDLED else settings.source
    common: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        architecture_of(AutoConfig.from_pretrained(source, **common))  # before gigabytes of weights
        tokenizer = AutoTokenizer.from_pretrained(source, **common)
        precision = "auto" if device_map is None or dtype == "auto" else DTYPES[dtype]
        model = AutoModelForCausalLM.from_pretrained(source, dtype=precision, device_map=device_map, **common)
    except UserError:
        raise
    except Exception as error:  # readers of configurations, weights and tokenizers raise whatever they like
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError("the model cannot be loaded", where=source, remedy=reason) from error
    # Taken before any cast: float16 rounds weights so that they would no longer be known as the checkpoint's.
    mark = fingerprint(model)
    if device_map is None:
        asked = torch.float32 if dtype == "auto" and place.type == "cpu" else DTYPES[dtype]
        nn.Module.to(model, device=place, dtype=asked)
    if settings.source == BUNDLED:
        model.config._name_or_path = ORIGIN  # what a saved adapter names as its base, instead of a path of this machine
    return LM(model, tokenizer, name_or_path, settings=settings, fingerprint=mark)


def _device(name: str) -> torch.device:
    if name != "auto":
        remedy = "e.g. cpu, cuda:0, mps"
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ModelError(f"unknown device {name!r}", where="--device", remedy=remedy) from error
        try:
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"no device {name!r} here ({reason})", where="--device", remedy=remedy) from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")

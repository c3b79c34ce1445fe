"""A model's shapes, from its configuration alone: nothing is downloaded but that, and no weight takes memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from formless.errors import ModelError, UserError
from formless.models.architecture import Architecture
from formless.models.bundled import bundled_model
from formless.models.families import architecture_of
from formless.models.loading import DTYPES
from formless.models.settings import BUNDLED, ModelSettings, settings_for, unknown_model


@dataclass(frozen=True)
class Outline:
    """What is known of a model before it is loaded.

    Args:
        model: Its modules; their weights are on the meta device and have shapes and a dtype only.
        architecture: Its family.
        settings: What configs/models says about it.
    """

    model: PreTrainedModel
    architecture: Architecture
    settings: ModelSettings


def outline(name_or_path: str, *, dtype: str = "auto", trust_remote_code: bool = False) -> Outline:
    """Build a model without weights.

    Args:
        name_or_path: As in `load`.
        dtype: `float32`, `bfloat16` or `float16`; `auto` takes the checkpoint's own.
        trust_remote_code: Whether code from the model's repository may run.

    Raises:
        UnknownNameError: No such model, or its family has no row.
        ModelError: An unknown dtype, or the configuration cannot be read.
    """
    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}", where="--dtype", remedy=f"choose from {', '.join(DTYPES)}")
    settings = settings_for(name_or_path)
    is_bundled = settings.source == BUNDLED
    if not is_bundled and not Path(settings.source).is_dir() and settings.source.count("/") != 1:
        raise unknown_model(name_or_path)
    source = str(bundled_model()) if is_bundled else settings.source
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        architecture = architecture_of(config)
        precision = DTYPES[dtype] or config.get_text_config().dtype or torch.float32
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=precision, trust_remote_code=trust_remote_code)
    except UserError:
        raise
    except Exception as error:  # readers of configurations raise whatever they like
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError("the model's configuration cannot be read", where=source, remedy=reason) from error
    return Outline(model, architecture, settings)

"""Models on the meta device: what their configuration and tokenizer say, without weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from formless.errors import ModelError
from formless.models.families import Architecture, architecture_of
from formless.models.lm import LM
from formless.models.quantized import quantization_of
from formless.models.reading.checkpoint import check_config, check_tokenizer, transformers_errors
from formless.models.reading.fingerprint import fingerprint_of
from formless.models.reading.placement import DTYPES, check_dtype
from formless.models.reading.stored import stored_tensors
from formless.models.settings import ModelSettings, find_model, is_recipe
from formless.models.sources.folder import model_source
from formless.models.sources.hub_files import model_files
from formless.progress import Progress

_SHAPE = {
    "model_type": "family", "num_hidden_layers": "number of layers", "hidden_size": "hidden size", "vocab_size": "vocabulary",
}  # fmt: skip


@dataclass(frozen=True)
class MetaModel:
    """A model on PyTorch's meta device: modules and shapes without weights.

    Args:
        model: The transformers model; its parameters have shapes and a dtype but take no memory.
        architecture: The architecture of its family.
        settings: The model's entry in configs/models.
        stored: The dtype of the checkpoint.
        source: The folder that is read.
    """

    model: PreTrainedModel
    architecture: Architecture
    settings: ModelSettings
    stored: torch.dtype
    source: str


def load_meta(
    name_or_path: str,
    *,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: bool | Progress = False,
) -> MetaModel:
    """Build a model on the meta device from its configuration; no weights are downloaded or allocated.

    Args:
        name_or_path: As in `load`.
        dtype: `float32`, `bfloat16` or `float16`; `auto` takes the checkpoint's own.
        revision: As in `load`.
        trust_remote_code: Whether code from the model's repository may run.
        progress: As in `load`, for a model that is downloaded or converted first; of a hub id only small files are downloaded.

    Raises:
        UnknownNameError: There is no such model, or its family is not supported.
        ModelError: The dtype is unknown, or the configuration cannot be read.
    """
    check_dtype(dtype)
    settings = find_model(name_or_path)
    source, _ = model_source(settings, progress, revision, partial(model_files, code=trust_remote_code, weights=False))
    with transformers_errors("the model's configuration cannot be read", source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        architecture = architecture_of(config)
        check_config(config, source)
        quantization_of(config, source)
        stored = config.get_text_config().dtype or torch.float32
        precision = DTYPES[dtype] or stored
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=precision, trust_remote_code=trust_remote_code)
    return MetaModel(model, architecture, settings, stored, source)


def refuse_other_architecture(model: MetaModel, retain: MetaModel) -> None:
    """Refuse a retain model that cannot have been trained from the same model.

    Raises:
        ModelError: Its family, number of layers, hidden size or vocabulary is another.
    """
    for name, title in _SHAPE.items():
        own, other = (getattr(one.model.config.get_text_config(), name) for one in (model, retain))
        if own != other:
            what = f"the retain model is of another architecture: its {title} is {other}, not {own}"
            remedy = "give a model that was trained from the same one, without the forget set"
            raise ModelError(what, where=retain.source, remedy=remedy)


def load_tokenizer(meta: MetaModel, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model, without its weights.

    Raises:
        ModelError: It cannot be loaded.
    """
    with transformers_errors("the tokenizer cannot be loaded", meta.source):
        return AutoTokenizer.from_pretrained(meta.source, trust_remote_code=trust_remote_code)


def stored_fingerprint(meta: MetaModel) -> str | None:
    """Return the fingerprint of a model in a folder of safetensors, of which only the hashed values are read.

    Returns:
        None where the weights are not on this machine, where the files name or shape them otherwise than the model does, and
        of a quantized model.
    """
    if quantization_of(meta.model.config, meta.source):
        return None
    stored = stored_tensors(meta.model, Path(meta.source))
    named = dict(meta.model.named_parameters())
    if any(name not in stored or stored[name].shape != parameter.shape for name, parameter in named.items()):
        return None
    return fingerprint_of({name: (stored[name].shape, stored[name].sample()) for name in named})


def load_prompts(name_or_path: str, *, trust_remote_code: bool = False, progress: bool | Progress = False) -> LM:
    """Load a model's tokenizer and configuration, to render and tokenize its prompts; it has no weights and cannot run.

    Args:
        name_or_path: As in `load`.
        trust_remote_code: Whether code from the model's repository may run.
        progress: As in `load_meta`.

    Raises:
        UserError: As `load_meta`, or the tokenizer cannot be loaded.
    """
    meta = load_meta(name_or_path, trust_remote_code=trust_remote_code, progress=progress)
    tokenizer = load_tokenizer(meta, trust_remote_code=trust_remote_code)
    with transformers_errors("the tokenizer cannot be loaded", meta.source):
        check_tokenizer(tokenizer, meta.model, meta.source)
    name = meta.settings.name if is_recipe(name_or_path) else name_or_path
    return LM(meta.model, tokenizer, name, settings=meta.settings)

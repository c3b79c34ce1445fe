"""Verify that a checkpoint is what its configuration says, so that no weight is invented, left out or misread."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from formless import store
from formless.errors import ModelError, UserError
from formless.models.quantized import named_weights

NAMED = 5  # parameters in a message

REMEDY = "use the model's own config.json with all of its weight files"


FILES = (".json", ".safetensors", ".bin", ".jinja", ".model", ".txt")
MAX_LAYERS = 10_000
MAX_SIZE = 2**31 - 1
"""The largest layer count and the largest size in a configuration; larger ones would fill the memory before any check."""


def check_folder(folder: Path) -> None:
    """Refuse a model's folder with a file that cannot be read, or a config.json that no model has.

    Args:
        folder: The folder; one without config.json is left to transformers.

    Raises:
        ModelError: A file is a named pipe, a device or a link that leads nowhere, or config.json is no JSON object, has a key
            twice, or a number that is not finite or too large.
    """
    for path in sorted(folder.iterdir()):
        if not (path.is_file() or (path.is_dir() and path.suffix not in FILES)):
            raise ModelError("a file of the model is no plain file", where=path, remedy="remove it, or put the file there")
    path = folder / "config.json"
    if not path.exists():
        return
    try:
        content = store.read_json(path)
    except (OSError, ValueError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise ModelError("the model's configuration cannot be read", where=path, remedy=reason.splitlines()[0]) from error
    if not isinstance(content, dict):
        raise ModelError("the model's configuration is no JSON object", where=path, remedy=REMEDY)
    for place, value in _whole_numbers(content):
        largest = MAX_LAYERS if "layer" in place.rpartition(".")[2] else MAX_SIZE
        if abs(value) > largest:
            raise ModelError(f"{place} is {value:.3g}, more than {largest:,}", where=path, remedy=REMEDY)


def _whole_numbers(content: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, int]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _whole_numbers(value, f"{place}{key}.")
        elif isinstance(value, int):
            yield f"{place}{key}", value


def check_config(config: PretrainedConfig, source: str) -> None:
    """Refuse a configuration whose context length is no length, or that names the model class of another family.

    Args:
        config: The model's configuration.
        source: The folder or hub id, for the message.

    Raises:
        ModelError: A field is wrong.
    """
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 1):
        what = f"config.json has max_position_embeddings {length!r}, which is no number of tokens"
        raise ModelError(what, where=source, remedy="write the context length in tokens, at least 1")
    model_type, named = str(config.model_type), config.architectures or []
    own = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    others = {
        name: other
        for other, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()
        if other.split("_")[0] != model_type.split("_")[0]  # "gemma3" and "gemma3_text" are one family
    }
    if own not in named and (wrong := [name for name in named if name in others]):
        what = f"config.json has the model_type {model_type!r} but the architecture {wrong[0]} of {others[wrong[0]]!r}"
        raise ModelError(what, where=source, remedy="use the model's own config.json")


def check_finite(model: PreTrainedModel, source: str, *, remedy: str = REMEDY) -> None:
    """Refuse weights that hold NaN or infinity; every weight is read once.

    Args:
        model: The loaded model; weights on the meta device are left out.
        source: The folder, file or hub id, for the message.
        remedy: What to do about it.

    Raises:
        ModelError: A weight is not finite.
    """
    for name, weight in named_weights(model):
        if not weight.is_meta:
            refuse_infinite(name, weight.detach(), source, remedy=remedy)


def refuse_infinite(name: str, values: Tensor, source: str, *, remedy: str = REMEDY) -> None:
    """Refuse values of a weight that hold NaN or infinity.

    Raises:
        ModelError: One is not finite.
    """
    if values.is_floating_point():
        total = values.sum(dtype=torch.float32)  # not finite if one value is not; faster than isfinite of each
        if not bool(total.isfinite()) and not bool(values.isfinite().all()):
            raise ModelError(f"the weight {name} holds NaN or infinity", where=source, remedy=remedy)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, source: str) -> None:
    """Refuse a tokenizer whose special tokens have no embedding, or whose chat template holds what nobody can see.

    Args:
        tokenizer: The tokenizer.
        model: The model.
        source: The folder or hub id, for the message.

    Raises:
        ModelError: A token or a template is wrong.
    """
    rows = int(next(model.get_input_embeddings().parameters()).shape[0])
    for name in ("bos_token", "eos_token", "pad_token"):
        number = getattr(tokenizer, f"{name}_id")
        if isinstance(number, int) and number >= rows:
            what = f"the tokenizer's {name} {getattr(tokenizer, name)!r} has the id {number}, and the model {rows} embeddings"
            raise ModelError(what, where=source, remedy="use the model's own tokenizer files")
    templates = tokenizer.chat_template
    for template in templates.values() if isinstance(templates, dict) else [templates or ""]:
        if odd := re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff]", template):
            what = f"the chat template holds the character U+{ord(odd[0]):04X}"
            raise ModelError(what, where=source, remedy="use the chat template of the model's publisher")


def check_weights(info: Mapping[str, Any], source: str, *, described: str = "config.json", remedy: str = REMEDY) -> None:
    """Refuse weights that lack a parameter, have one too many, or have one of another shape.

    transformers fills a missing parameter with random numbers and ignores an unexpected one. Parameters that the configuration
    ties to others are not missing, and buffers that a family no longer stores are not unexpected: transformers leaves both out.

    Args:
        info: What `from_pretrained(..., output_loading_info=True, ignore_mismatched_sizes=True)` returns beside the model.
        source: The folder, file or hub id, for the message.
        described: What describes the model, for the message.
        remedy: What to do.

    Raises:
        ModelError: The weights do not fit; it names up to five parameters.
    """
    found = {
        "missing": sorted(info["missing_keys"], key=_natural),
        "unexpected": sorted(info["unexpected_keys"], key=_natural),
        "of another shape": [
            f"{name}: {list(stored)}, not {list(expected)}"
            for name, stored, expected in sorted(info["mismatched_keys"], key=lambda row: _natural(row[0]))
        ],
    }
    found = {kind: names for kind, names in found.items() if names}
    if not found:
        return
    shown = max(1, NAMED // len(found))
    parts = [
        f"{len(names)} {kind} ({', '.join(names[:shown])}{', ...' if len(names) > shown else ''})"
        for kind, names in found.items()
    ]
    raise ModelError(f"the weights do not fit {described}: {'; '.join(parts)}", where=source, remedy=remedy)


def check_dtypes(model: PreTrainedModel, source: str) -> None:
    """Refuse a local file that stores a parameter as whole numbers, which transformers would take for floats.

    Weights that their configuration calls quantized are left alone.

    Args:
        model: The loaded model.
        source: The folder or hub id; nothing is checked at a hub.

    Raises:
        ModelError: A parameter is stored in a dtype that is no float.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        return
    names = {name for name, _ in model.named_parameters()}
    for path, stored in stored_dtypes(Path(source)):
        for name, dtype in stored.items():
            is_parameter = name in names or f"{model.base_model_prefix}.{name}" in names  # masks of GPT-2 are bytes
            if is_parameter and not dtype.startswith(("F", "BF", "float", "bfloat")):
                raise ModelError(f"the weight {name} has the dtype {dtype}, which is no float", where=path, remedy=REMEDY)


def stored_dtypes(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield the files of a model's weights with the dtype of every tensor; no values are read."""
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            yield path, {name: str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118 - no mapping
    for path in sorted(folder.glob("pytorch_model*.bin")):
        tensors = torch.load(path, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(path))
        yield path, {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}


@contextmanager
def transformers_errors(what: str, source: object) -> Iterator[None]:
    """Turn every error of transformers in the block into a ModelError.

    Args:
        what: What cannot be done.
        source: The folder, file or hub id, for the message.

    Raises:
        ModelError: transformers failed; a UserError of ours passes as it is.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # transformers raises many types for broken configurations, weights and tokenizers
        first, *rest = (str(error).strip() or type(error).__name__).splitlines()
        reason = " ".join((first, *rest[:1])) if first.endswith(":") else first.partition(" For details look at")[0]
        raise ModelError(what, where=source, remedy=reason) from error


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key by which layer 2 comes before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]

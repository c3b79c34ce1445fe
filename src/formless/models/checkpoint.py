"""Verify that a checkpoint is what its configuration says, so that no weight is invented, left out or misread."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from formless.errors import ModelError

NAMED = 5  # parameters in a message

REMEDY = "use the model's own config.json with all of its weight files"


def check_files(source: str) -> None:
    """Refuse a local folder with a link to nowhere, a pipe or the like, which transformers would leave out in silence.

    Args:
        source: The folder or hub id; nothing is checked at a hub.

    Raises:
        ModelError: A file of the model, such as its chat template, is no plain file.
    """
    folder = Path(source)
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    if odd := next((path for path in found if path.suffix in (".json", ".jinja", ".safetensors") and not path.is_file()), None):
        raise ModelError("a file of the model is no plain file", where=odd, remedy="restore or remove it")


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


def check_weights(info: Mapping[str, Any], source: str) -> None:
    """Refuse weights that lack a parameter, have one too many, or have one of another shape.

    transformers fills a missing parameter with random numbers and ignores an unexpected one. Parameters that the configuration
    ties to others are not missing, and buffers that a family no longer stores are not unexpected: transformers leaves both out.

    Args:
        info: What `from_pretrained(..., output_loading_info=True, ignore_mismatched_sizes=True)` returns beside the model.
        source: The folder or hub id, for the message.

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
    raise ModelError(f"the weights do not fit config.json: {'; '.join(parts)}", where=source, remedy=REMEDY)


def check_dtypes(model: PreTrainedModel, source: str) -> None:
    """Refuse a local safetensors file that stores a parameter as whole numbers, which transformers would take for floats.

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
    for path in sorted(Path(source).glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - the file itself cannot be iterated over
                dtype = str(file.get_slice(name).get_dtype())
                is_parameter = name in names or f"{model.base_model_prefix}.{name}" in names  # masks of GPT-2 are bytes
                if is_parameter and dtype.startswith(("I", "U", "B")) and dtype != "BF16":
                    raise ModelError(f"the weight {name} has the dtype {dtype}, which is no float", where=path, remedy=REMEDY)


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key by which layer 2 comes before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]

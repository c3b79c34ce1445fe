"""Which files of a model's repository on the hub a model is loaded from."""

from __future__ import annotations

import re
from collections.abc import Sequence

from formless.errors import ModelError

SUFFIXES = (".json", ".jinja", ".model", ".txt", ".tiktoken")
"""Of the configuration, the tokenizer and the chat template."""

_WEIGHTS = tuple(
    (re.compile(rf"{name}\.{suffix}"), re.compile(rf"{name}-\d+-of-(\d+)\.{suffix}"))
    for name, suffix in (("model", "safetensors"), ("pytorch_model", "bin"))
)
"""The weights as one file or as shards, in the order in which transformers prefers them."""


def model_files(names: Sequence[str], *, code: bool, weights: bool = True) -> list[str]:
    """Return the files that a model is loaded from, the weights last, so that they are there once all is there.

    Args:
        names: The names of all files of the repository.
        code: Whether code from the repository may run.
        weights: Whether the weights are needed.

    Raises:
        ModelError: The repository holds no model that transformers loads.
    """
    if "config.json" not in names:
        if "adapter_config.json" in names:
            raise ModelError("it is an adapter, not a model", remedy="load its base model, and give the adapter with --edit")
        raise _no_model(names, "config.json")
    small = [name for name in names if "/" not in name and name.endswith(SUFFIXES)]
    small += [name for name in names if re.fullmatch(r"additional_chat_templates/[^/]+\.jinja", name)]
    small += [name for name in names if code and name.endswith(".py")]
    return [*small, *_weights(names)] if weights else small


def _weights(names: Sequence[str]) -> list[str]:
    for whole, shard in _WEIGHTS:
        if found := [name for name in names if whole.fullmatch(name)]:
            return found
        parts = {name: int(match[1]) for name in names if (match := shard.fullmatch(name))}
        if parts:
            if len(parts) != (count := max(parts.values())):
                remedy = "download the model again with a connection, or choose another revision"
                raise ModelError(f"{len(parts)} of {count} files of the weights are there", remedy=remedy)
            return list(parts)
    raise _no_model(names, "weights in safetensors")


def _no_model(names: Sequence[str], lacks: str) -> ModelError:
    if gguf := next((name for name in names if name.endswith(".gguf")), None):
        remedy = f"download {gguf} with `hf download`, and give the file as the model"
        return ModelError("the repository holds a GGUF file and no model of transformers", remedy=remedy)
    return ModelError(
        f"the repository has no {lacks}", remedy="choose a model of transformers, or load it once with a connection"
    )

"""The model families: ONE ROW PER FAMILY.

To add one, find in its `modeling_*.py` the path of the layer list in the causal language model and, inside a layer, of the
linear map from the MLP's inner width back to the hidden width. `tests/models/test_families.py` tests every row by itself.
"""

from __future__ import annotations

from transformers import PretrainedConfig

from formless.errors import UnknownNameError
from formless.models.architecture import Architecture

FAMILIES: tuple[Architecture, ...] = (
    Architecture(("llama", "mistral", "qwen2", "qwen3"), "model.layers", "mlp.down_proj"),
    Architecture(("gemma2", "gemma3_text", "phi3", "olmo2"), "model.layers", "mlp.down_proj"),
    Architecture(("gemma3",), "model.language_model.layers", "mlp.down_proj"),
    Architecture(("phi",), "model.layers", "mlp.fc2"),
    Architecture(("gpt2",), "transformer.h", "mlp.c_proj"),
    Architecture(("gptj",), "transformer.h", "mlp.fc_out"),
    Architecture(("gpt_neox",), "gpt_neox.layers", "mlp.dense_4h_to_h"),
)


def known_model_types() -> tuple[str, ...]:
    """Every `config.model_type` that has a row."""
    return tuple(name for family in FAMILIES for name in family.model_types)


def architecture_of(config: PretrainedConfig) -> Architecture:
    """The row for a model's configuration, by an exact match on `model_type`.

    Raises:
        UnknownNameError: No family has that type.
    """
    model_type = str(config.model_type)
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    remedy = "To support it, add a row to formless/models/families.py (CONTRIBUTING.md: add a family)"
    raise UnknownNameError("model type", model_type, known_model_types(), remedy=remedy)

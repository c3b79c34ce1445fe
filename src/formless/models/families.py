"""The model families: ONE ROW PER FAMILY, each with the place of its decoder layers and of the projection that ROCR edits.

To add a family, look into its `modeling_*.py` for the path of the list of decoder layers in the causal language model and,
inside a layer, of the linear map from the MLP's inner width back to the hidden width; and for that of the norm after the last
layer. `tests/models/test_families.py` tests every row. A package can add a row of its own with an entry point of the group
`formless.families` that gives an `Architecture`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from formless.errors import UnknownNameError, UserError
from formless.registry import Registry

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Architecture:
    """The architecture of one family of models.

    Args:
        name: The family's name.
        model_types: The exact values of `config.model_type` that belong to the family.
        layers: Path of the list of decoder layers inside the model.
        mlp_out: Path of the MLP's down-projection inside a layer, `[d_mlp] -> [hidden]`.
        final_norm: Path of the norm between the last layer and the output embedding; only `LM.score_layers` needs it.
        is_packable: Whether the model takes `position_ids` and a four-dimensional `attention_mask`; then common beginnings of
            scored texts are computed once.
    """

    name: str
    model_types: tuple[str, ...]
    layers: str
    mlp_out: str
    final_norm: str = ""
    is_packable: bool = False

    def depth(self, model: PreTrainedModel) -> int:
        """Return the number of decoder layers."""
        return len(cast("nn.ModuleList", model.get_submodule(self.layers)))

    def layer(self, model: PreTrainedModel, index: int) -> nn.Module:
        """Return decoder layer `index`, counted from 0; its output is the residual stream.

        Raises:
            UserError: The model has no such layer.
        """
        depth = self.depth(model)
        if not 0 <= index < depth:
            raise UserError(f"no layer {index}", where="--layers", remedy=f"choose from 0 to {depth - 1}")
        return model.get_submodule(f"{self.layers}.{index}")

    def norm(self, model: PreTrainedModel) -> nn.Module:
        """Return the norm between the last layer and the output embedding.

        Raises:
            UserError: The family's row does not name it.
        """
        if not self.final_norm:
            remedy = "name `final_norm` in the family's row"
            raise UserError("the family does not say where its final norm is", where=self.name, remedy=remedy)
        return model.get_submodule(self.final_norm)

    def down_projection(self, model: PreTrainedModel, index: int) -> nn.Module:
        """Return the MLP down-projection of layer `index`."""
        return self.layer(model, index).get_submodule(self.mlp_out)

    def down_projection_name(self, index: int) -> str:
        """Return the name of a layer's down-projection in the model, as in `state_dict` and PEFT."""
        return f"{self.layers}.{index}.{self.mlp_out}"


FAMILIES: Registry[Architecture] = Registry(
    "model family",
    "formless.families",
    Architecture,
    (
        Architecture(
            name="llama",
            model_types=("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "olmo2"),
            layers="model.layers",
            mlp_out="mlp.down_proj",
            final_norm="model.norm",
            is_packable=True,
        ),
        Architecture(
            name="gemma3",
            model_types=("gemma3",),
            layers="model.language_model.layers",
            mlp_out="mlp.down_proj",
            final_norm="model.language_model.norm",
            is_packable=True,
        ),
        Architecture(
            name="phi",
            model_types=("phi",),
            layers="model.layers",
            mlp_out="mlp.fc2",
            final_norm="model.final_layernorm",
            is_packable=True,
        ),
        Architecture(
            name="gpt2",
            model_types=("gpt2",),
            layers="transformer.h",
            mlp_out="mlp.c_proj",
            final_norm="transformer.ln_f",
            is_packable=True,
        ),
        Architecture(
            name="gptj",
            model_types=("gptj",),
            layers="transformer.h",
            mlp_out="mlp.fc_out",
            final_norm="transformer.ln_f",
            is_packable=True,
        ),
        Architecture(
            name="gpt_neox",
            model_types=("gpt_neox",),
            layers="gpt_neox.layers",
            mlp_out="mlp.dense_4h_to_h",
            final_norm="gpt_neox.final_layer_norm",
            is_packable=True,
        ),
    ),
)


def known_model_types() -> tuple[str, ...]:
    """Return every `config.model_type` that belongs to a family."""
    return tuple(name for family in FAMILIES.values() for name in family.model_types)


def architecture_of(config: PretrainedConfig) -> Architecture:
    """Return the architecture of a model by an exact match on `config.model_type`.

    Raises:
        UnknownNameError: No family has that type.
    """
    model_type = str(config.model_type)
    for family in FAMILIES.values():
        if model_type in family.model_types:
            return family
    remedy = "To support it, add a row to formless/models/families.py (CONTRIBUTING.md: add a family)"
    raise UnknownNameError("model type", model_type, known_model_types(), remedy=remedy)


def is_transposed(module: nn.Module) -> bool:
    """Return whether a projection stores its weight as `[in, out]` (GPT-2's Conv1D) rather than `[out, in]`."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def projection_shape(module: nn.Module) -> tuple[int, int]:
    """Return `(out, in)` of a linear, Conv1D or packed projection."""
    from formless.models.quantized import is_packed

    if is_packed(module):  # its weight may have any shape
        return cast("nn.Linear", module).out_features, cast("nn.Linear", module).in_features
    rows, columns = cast("nn.Linear", module).weight.shape
    return (columns, rows) if is_transposed(module) else (rows, columns)

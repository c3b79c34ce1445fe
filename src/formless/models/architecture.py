"""Where a family of models keeps its layers and the MLP down-projection that ROCR edits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from formless.errors import UserError


@dataclass(frozen=True)
class Architecture:
    """One row per family.

    Args:
        model_types: Exact values of `config.model_type`.
        layers: Path of the list of decoder layers inside the model.
        mlp_out: Path of the down-projection inside one layer: `[d_mlp] -> [hidden]`.
    """

    model_types: tuple[str, ...]
    layers: str
    mlp_out: str

    def depth(self, model: PreTrainedModel) -> int:
        """The number of decoder layers."""
        return len(cast(nn.ModuleList, model.get_submodule(self.layers)))

    def layer(self, model: PreTrainedModel, index: int) -> nn.Module:
        """Decoder layer `index`, counted from 0; its output is the residual stream.

        Raises:
            UserError: The model has no such layer.
        """
        depth = self.depth(model)
        if not 0 <= index < depth:
            raise UserError(f"no layer {index}", where="--layers", remedy=f"choose from 0 to {depth - 1}")
        return model.get_submodule(f"{self.layers}.{index}")

    def down_projection(self, model: PreTrainedModel, index: int) -> nn.Module:
        """The MLP down-projection of layer `index`."""
        return self.layer(model, index).get_submodule(self.mlp_out)

    def down_projection_name(self, index: int) -> str:
        """The down-projection's name in the model, as PEFT and `state_dict` spell it."""
        return f"{self.layers}.{index}.{self.mlp_out}"


def is_transposed(module: nn.Module) -> bool:
    """Whether a projection stores its weight as `[in, out]` (GPT-2's Conv1D) rather than `[out, in]`."""
    return isinstance(module, Conv1D)


def projection_shape(module: nn.Module) -> tuple[int, int]:
    """`(out, in)` of a linear or Conv1D projection."""
    rows, columns = cast(nn.Linear, module).weight.shape
    return (columns, rows) if is_transposed(module) else (rows, columns)

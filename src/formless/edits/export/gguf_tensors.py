"""An edit in llama.cpp's names and layout, as its convert_hf_to_gguf.py and convert_lora_to_gguf.py write tensors."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from formless.edits.edit import WeightEdit, refuse_other_model
from formless.errors import EditError
from formless.models.families import is_transposed
from formless.models.lm import LM
from formless.models.overlay import Difference, Factors

ARCHITECTURES: Final = {
    "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma2": "gemma2", "gemma3_text": "gemma3",
    "gemma3": "gemma3", "phi3": "phi3", "olmo2": "olmo2", "phi": "phi2", "gpt2": "gpt2", "gpt_neox": "gptneox",
}  # fmt: skip
"""llama.cpp's `general.architecture` by `config.model_type`; those whose rows have another order are in `_row_order`."""


def architecture_name(lm: LM) -> str:
    """Return llama.cpp's name of a model's architecture.

    Raises:
        EditError: llama.cpp does not run such models.
    """
    model_type = str(lm.model.config.model_type)
    if model_type not in ARCHITECTURES:
        what = f"models of the type {model_type} cannot be exported for llama.cpp"
        raise EditError(what, where=lm.name, remedy="use --to peft or --to merged")
    return ARCHITECTURES[model_type]


def gguf_updates(edit: WeightEdit[Any], lm: LM) -> dict[str, Factors | Difference]:
    """Return the updates of an edit by llama.cpp's name of the tensor, each `[out, in]` with llama.cpp's order of rows.

    Raises:
        EditError: The edit is for another model, or llama.cpp lacks the model's architecture or one of the weights.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    refuse_other_model(lm, edit.info)
    architecture = architecture_name(lm)
    key = next(key for key, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(key, lm.architecture.depth(lm.model))
    found: dict[str, Factors | Difference] = {}
    for name, change in edit.updates.items():
        module, _, kind = (name, ".", "weight") if isinstance(change, Factors) else name.rpartition(".")
        tensor = names.get_name(module.replace("model.language_model.", "model.", 1))  # Gemma 3 with pictures
        if tensor is None:
            raise EditError("llama.cpp has no tensor for this weight", where=name, remedy="use --to merged")
        if isinstance(change, Factors):
            found[f"{tensor}.{kind}"] = Factors(change.up[_row_order(architecture, tensor, len(change.up), lm)], change.down)
        else:
            values = change.values
            values = values.T if values.dim() > 1 and is_transposed(lm.model.get_submodule(module)) else values
            found[f"{tensor}.{kind}"] = Difference(values[_row_order(architecture, tensor, len(values), lm)])
    return found


def _row_order(architecture: str, tensor: str, rows: int, lm: LM) -> Tensor:
    """Return the places of llama.cpp's rows among transformers' rows of a weight or bias.

    llama.cpp rotates neighboring pairs of a Llama head's queries and keys, transformers its two halves. The fused projection
    of GPT-NeoX has queries, keys and values head by head in transformers, and one after the other in llama.cpp.
    """
    config, order = lm.model.config.get_text_config(), torch.arange(rows)
    part = tensor.rpartition(".")[2]
    if architecture == "llama" and part in ("attn_q", "attn_k"):
        heads = config.num_attention_heads if part == "attn_q" else config.num_key_value_heads
        return order.view(heads, 2, -1).transpose(1, 2).flatten()
    if architecture == "gptneox" and part == "attn_qkv":
        return order.view(config.num_attention_heads, 3, -1).transpose(0, 1).flatten()
    return order

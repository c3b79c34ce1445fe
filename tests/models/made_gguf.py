"""Tiny GGUF files, written from tiny models as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy
import torch
from gguf import GGMLQuantizationType
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from formless.models.lm import LM

# The names that differ from `config.model_type`.
ARCHITECTURES = {"gemma3_text": "gemma3", "mistral": "llama", "phi": "phi2", "gpt_neox": "gptneox"}
MERGED = "Ġt"  # the one token that is more than a byte
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
F32, Q8_0, Q4_0 = GGMLQuantizationType.F32, GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_0
# Others are not read from the file.
SIZES: dict[str, dict[str, Any]] = {"qwen3": {"head_dim": 128}, "gpt2": {"context": 1024, "n_inner": 128}}


def pieces() -> list[str]:
    """A sentencepiece vocabulary: special tokens, bytes, letters, and what is merged, the first first."""
    parts = ["<pad>", "</s>", "<s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefgh", "ab", "▁ab", "abc"]
    return [f"<{part}>" if part in parts[:place] else part for place, part in enumerate(parts)]


def vocabulary() -> list[str]:
    return ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), MERGED]


def expected_tokenizer() -> PreTrainedTokenizerFast:
    tokens = {token: index for index, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=[("Ġ", "t")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>", chat_template=TEMPLATE
    )


def made_lm(tiny: Callable[..., LM], model_type: str, kind: GGMLQuantizationType = F32, **more: Any) -> LM:
    """A tiny random model, its matrices rounded as the quantization rounds them."""
    more = SIZES.get(model_type, {}) | more
    sizes = {} if model_type == "gpt2" else {"intermediate_size": 64}
    lm = tiny(model_type, **{"vocab_size": len(vocabulary())} | sizes | more)
    lm.tokenizer = expected_tokenizer()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
            if parameter.ndim == 2:
                parameter.copy_(torch.from_numpy(gguf.dequantize(gguf.quantize(parameter.numpy(), kind), kind)))
    return lm


def write_gguf(
    path: Path,
    lm: LM,
    kind: GGMLQuantizationType = F32,
    *,
    architecture: str | None = None,
    tokenizer: str | None = "gpt2",
    bos: bool | None = None,
    template: str | None = TEMPLATE,
    metadata: dict[str, Any] | None = None,
    change: Callable[[dict[str, numpy.ndarray]], object] = lambda tensors: None,
) -> Path:
    """Write a model to a GGUF file.

    Args:
        path: The file.
        lm: The model.
        kind: The quantization of matrices.
        architecture: In place of the model's own.
        tokenizer: The kind of tokenizer, `gpt2` or `llama`.
        bos: Whether texts begin with BOS; by default the file does not say.
        template: The chat template.
        metadata: More fields, after the architecture's name.
        change: Changes the tensors before they are written.
    """
    config = lm.model.config.get_text_config()
    own = ARCHITECTURES.get(str(config.model_type), str(config.model_type))
    name = architecture or own
    writer = gguf.GGUFWriter(path, name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if own == "gpt2":
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        writer.add_feed_forward_length(config.intermediate_size)
        if hasattr(config, "rms_norm_eps"):
            writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        else:
            writer.add_layer_norm_eps(config.layer_norm_eps)
            writer.add_rope_dimension_count(int(head * config.rope_parameters["partial_rotary_factor"]))
        writer.add_head_count_kv(getattr(config, "num_key_value_heads", config.num_attention_heads))
        writer.add_rope_freq_base(rope_base(config))
        writer.add_key_length(head)
        writer.add_value_length(head)
    for key, value in (metadata or {}).items():
        writer.add_key_value(f"{name}.{key}" if not key.startswith("split.") else key, value, value_type(value))
    if tokenizer == "gpt2":
        tokens = vocabulary()
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_types([3, 3, *[1] * (len(tokens) - 2)])
        writer.add_token_merges(["Ġ t"])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        writer.add_pad_token_id(1)
    elif tokenizer == "llama":
        tokens = pieces()
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([-float(place) for place in range(len(tokens))])
        writer.add_token_types([3, 3, 3, 2, *[6] * 256, *[1] * (len(tokens) - 260)])
        writer.add_pad_token_id(0)
        writer.add_eos_token_id(1)
        writer.add_bos_token_id(2)
        writer.add_unk_token_id(3)
    if bos is not None:
        writer.add_add_bos_token(bos)
    if template is not None:
        writer.add_chat_template(template)
    tensors = gguf_tensors(lm.model, own)
    change(tensors)
    for tensor_name, values in tensors.items():
        stored = kind if values.ndim == 2 else F32
        writer.add_tensor(tensor_name, gguf.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rope_base(config: Any) -> float:
    parameters = config.rope_parameters
    return float((parameters.get("full_attention") or parameters)["rope_theta"])


def value_type(value: Any) -> gguf.GGUFValueType:
    return gguf.GGUFValueType.UINT32 if type(value) is int else gguf.GGUFValueType.get_type(value)


def gguf_tensors(model: PreTrainedModel, architecture: str) -> dict[str, numpy.ndarray]:
    """The model's parameters under GGUF's names, changed as llama.cpp's converter changes them."""
    key = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    config = model.config.get_text_config()
    names = gguf.get_tensor_name_map(key, config.num_hidden_layers)
    heads = {"attn_q": config.num_attention_heads, "attn_k": getattr(config, "num_key_value_heads", None)}
    tensors = {}
    for name, parameter in model.named_parameters():
        module, _, kind = name.rpartition(".")
        values = parameter.detach().numpy().copy()
        part = names.get_name(module.replace("model.language_model.", "model."))
        if part is None:  # of a picture tower
            continue
        last = part.rpartition(".")[2]
        if architecture == "llama" and (count := heads.get(last)):
            values = values.reshape(count, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
        if architecture == "gptneox" and last == "attn_qkv":
            values = values.reshape(config.num_attention_heads, 3, -1, *values.shape[1:]).swapaxes(0, 1).reshape(values.shape)
        if architecture.startswith("gemma") and "norm" in name:
            values = values + 1
        if architecture == "gpt2" and last in ("attn_qkv", "attn_output", "ffn_up", "ffn_down"):
            values = values.T.copy()
        tensors[f"{part}.{kind}"] = values
    return tensors

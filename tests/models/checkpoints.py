"""Tiny random checkpoints of every family, with the family's own tokenizer class and the shape of its chat template.

The vocabularies are trained on the sample set. The special tokens, where BOS comes from, and what a template refuses are those
of the published models: Llama 2 and 3, Mistral 7B, Qwen 2.5 and 3, Gemma 2 and 3, Phi 2 and 3, GPT-2, GPT-J, Pythia, OLMo 2.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GemmaTokenizer,
    GPT2Tokenizer,
    GPTNeoXTokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)

_ALTERNATE = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
)
_CHATML = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
_INST = "{{ bos_token }}{% for m in messages %}" + _ALTERNATE + (
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}"
    "{% endfor %}"
)  # fmt: skip
_GEMMA_TURNS = (
    "{% for m in turns %}" + _ALTERNATE + "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{ (first if loop.first else '') + m.content | trim }}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)  # fmt: skip

TEMPLATES: dict[str, str | None] = {
    "llama": _INST,
    "llama3": "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{ m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "mistral": _INST,
    "qwen2": "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}{% endif %}" + _CHATML
    + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "qwen3": _CHATML + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and"
    " enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
    "gemma2": "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% set turns = messages %}{% set first = '' %}" + _GEMMA_TURNS,
    "gemma3": "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}" + _GEMMA_TURNS,
    "phi3": "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    "olmo2": "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}"
    "{{ (eos_token if m.role == 'assistant' else '') + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
}  # fmt: skip
"""Base models (GPT-2, GPT-J, Pythia, Phi 2) have none."""


@dataclass(frozen=True)
class Checkpoint:
    """A published family: the configuration's type, how its tokenizer is built, and settings of its configuration."""

    model_type: str
    pieces: str  # "spaces" as SentencePiece has them, "bytes" as GPT-2
    tokenizer: type[PreTrainedTokenizerBase]
    template: str | None = None
    special: dict[str, Any] = field(default_factory=dict)
    added: tuple[str | AddedToken, ...] = ()
    adds_bos: bool = False
    ends: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    system: bool = False
    published: str = ""  # the tokenizer's class in the hub's files, where it has another name


_GROUPED = {"num_key_value_heads": 2}
_WIDE = _GROUPED | {"head_dim": 8}
_SENTENCEPIECE = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
_GEMMA = {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
_TEXT = {"unk_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
_TURNS = ("<start_of_turn>", "<end_of_turn>")
_PHI3 = tuple(AddedToken(f"<|{name}|>", rstrip=True, special=True) for name in ("user", "assistant", "system", "end"))
_LLAMA3 = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")

CHECKPOINTS: dict[str, Checkpoint] = {
    "llama": Checkpoint("llama", "spaces", LlamaTokenizer, "llama", _SENTENCEPIECE, adds_bos=True, config=_GROUPED),
    "llama3": Checkpoint(
        "llama", "bytes", PreTrainedTokenizerFast, "llama3",
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}, _LLAMA3,
        adds_bos=True, ends="<|eot_id|>", config=_GROUPED | {"tie_word_embeddings": True}, system=True,
        published="PreTrainedTokenizerFast",
    ),
    "mistral": Checkpoint(
        "mistral", "spaces", LlamaTokenizer, "mistral", _SENTENCEPIECE, adds_bos=True, config=_GROUPED | {"sliding_window": 16}
    ),
    "qwen2": Checkpoint(
        "qwen2", "bytes", Qwen2Tokenizer, "qwen2", {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, _CHATML_TOKENS,
        ends="<|im_end|>", config=_GROUPED | {"tie_word_embeddings": True}, system=True,
    ),
    "qwen3": Checkpoint(
        "qwen3", "bytes", Qwen2Tokenizer, "qwen3", {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        (*_CHATML_TOKENS, AddedToken("<think>", special=False), AddedToken("</think>", special=False)),
        ends="<|im_end|>", config=_WIDE | {"tie_word_embeddings": True}, system=True,
    ),
    "gemma2": Checkpoint(
        "gemma2", "spaces", GemmaTokenizer, "gemma2", _GEMMA, _TURNS, adds_bos=True, ends="<end_of_turn>",
        config=_WIDE | {"sliding_window": 16, "query_pre_attn_scalar": 8},
    ),
    "gemma3_text": Checkpoint(
        "gemma3_text", "spaces", GemmaTokenizer, "gemma3", _GEMMA, _TURNS, adds_bos=True, ends="<end_of_turn>",
        config=_WIDE | {"sliding_window": 16, "query_pre_attn_scalar": 8}, system=True,
    ),
    "gemma3": Checkpoint(
        "gemma3", "spaces", GemmaTokenizer, "gemma3", _GEMMA, _TURNS, adds_bos=True, ends="<end_of_turn>",
        config=_WIDE | {"sliding_window": 16, "query_pre_attn_scalar": 8}, system=True,
    ),
    "phi": Checkpoint(
        "phi", "bytes", GPT2Tokenizer, None, _TEXT, config={"partial_rotary_factor": 0.5}, published="CodeGenTokenizer"
    ),
    "phi3": Checkpoint(
        "phi3", "spaces", LlamaTokenizer, "phi3",
        _SENTENCEPIECE | {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}, _PHI3,
        ends="<|end|>", config=_GROUPED | {"sliding_window": 16}, system=True,
    ),
    "gpt2": Checkpoint("gpt2", "bytes", GPT2Tokenizer, None, _TEXT),
    "gptj": Checkpoint("gptj", "bytes", GPT2Tokenizer, None, _TEXT, config={"rotary_dim": 4}),
    "gpt_neox": Checkpoint(
        "gpt_neox", "bytes", GPTNeoXTokenizer, None, _TEXT | {"pad_token": "<|padding|>"}, published="GPTNeoXTokenizerFast"
    ),
    "olmo2": Checkpoint(
        "olmo2", "bytes", GPT2Tokenizer, "olmo2", _TEXT | {"pad_token": "<|pad|>"}, config=_GROUPED, system=True
    ),
}  # fmt: skip


def save_checkpoint(name: str, folder: Path, *, seed: int = 0) -> Checkpoint:
    """Write a model with random weights and its tokenizer as its publisher does."""
    row = CHECKPOINTS[name]
    tokenizer = build_tokenizer(row)
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": len(tokenizer) + 5,  # published embeddings are padded, too
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
        "max_position_embeddings": 1024, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    if row.model_type == "gemma3":
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = AutoConfig.for_model("gemma3", text_config=sizes | row.config, vision_config=vision)
    elif row.model_type in ("gpt2", "gptj"):
        names = {
            "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
            "intermediate_size": "n_inner", "max_position_embeddings": "n_positions",
        }  # fmt: skip
        config = AutoConfig.for_model(
            row.model_type, **{names.get(key, key): value for key, value in sizes.items()}, **row.config
        )
    else:
        config = AutoConfig.for_model(row.model_type, **sizes, **row.config)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if row.ends:
        model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(row.ends)]
    model.save_pretrained(folder)
    _rewrite_weights(row.model_type, folder / "model.safetensors")
    tokenizer.save_pretrained(folder)
    _rewrite_tokenizer(row, folder)
    return row


def build_tokenizer(row: Checkpoint) -> PreTrainedTokenizerBase:
    """Return a family's tokenizer with a small vocabulary."""
    special = [token for token in dict.fromkeys(row.special.values()) if token]
    vocab, merges = _pieces(row.pieces, row.tokenizer is LlamaTokenizer)
    if row.pieces == "spaces":
        special += [f"<0x{byte:02X}>" for byte in range(256)]
    numbered = {token: number for number, token in enumerate(dict.fromkeys([*special, *vocab]))}
    if row.tokenizer is PreTrainedTokenizerFast:  # Llama 3: bytes, and a BOS token that the post-processor adds
        backend = Tokenizer(models.BPE(vocab=numbered, merges=merges))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        bos = row.special["bos_token"]
        backend.add_special_tokens([bos, *map(str, row.added)])
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, numbered[bos])]
        )
        tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=backend, **row.special)
    else:
        tokenizer = row.tokenizer(vocab=numbered, merges=merges, add_bos_token=row.adds_bos, **row.special)
        tokenizer.add_tokens([token for token in row.added if isinstance(token, AddedToken) and not token.special])
        tokenizer.add_special_tokens(
            {"additional_special_tokens": [t for t in row.added if not isinstance(t, AddedToken) or t.special]}
        )
    tokenizer.chat_template = TEMPLATES[row.template] if row.template else None
    return tokenizer


@cache
def _pieces(kind: str, prefixed: bool) -> tuple[list[str], list[tuple[str, str]]]:
    """Learn a vocabulary and its merges from the sample set."""
    backend = Tokenizer(models.BPE())
    if kind == "bytes":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if prefixed else "never")
        alphabet = []
    trainer = trainers.BpeTrainer(vocab_size=700, show_progress=False, initial_alphabet=alphabet)
    backend.train_from_iterator(_corpus(), trainer)
    learned = json.loads(backend.to_str())["model"]
    return list(learned["vocab"]), [tuple(pair) for pair in learned["merges"]]


def _corpus() -> Iterator[str]:
    sample = files("formless").joinpath("data", "sample")
    for target in ("1_Albert_Einstein", "2_Isaac_Newton"):
        for name in ("forget_level1.json", "forget_level2.json", "neighbor_level2.json"):
            for row in json.loads(sample.joinpath(target, name).read_text("utf-8")):
                yield f"{row['query']} {row['answer']}\n"


def _rewrite_weights(model_type: str, path: Path) -> None:
    """Name the weights as the hub's files do, and add the buffers that older versions of transformers stored."""
    tensors = load_file(path)
    if model_type == "gemma3":
        tensors = {
            name.removeprefix("model.").replace("language_model.", "language_model.model.", 1): tensor
            for name, tensor in tensors.items()
        }
    if model_type == "gpt2":
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    mask, number = torch.ones(1, 1, 8, 8, dtype=torch.bool), torch.tensor(-1e4, dtype=torch.bfloat16)
    old = {
        "llama": {"self_attn.rotary_emb.inv_freq": torch.ones(4)},
        "mistral": {"self_attn.rotary_emb.inv_freq": torch.ones(4)},
        "gpt2": {"attn.bias": mask.float()},
        "gptj": {"attn.bias": mask, "attn.masked_bias": number},
        "gpt_neox": {
            "attention.bias": mask, "attention.masked_bias": number, "attention.rotary_emb.inv_freq": torch.ones(4),
        },
    }  # fmt: skip
    places = {"gpt2": "h", "gptj": "transformer.h", "gpt_neox": "gpt_neox.layers"}
    for layer in range(4):
        for name, tensor in old.get(model_type, {}).items():
            tensors[f"{places.get(model_type, 'model.layers')}.{layer}.{name}"] = tensor.clone()
    save_file(tensors, path, metadata={"format": "pt"})


def _rewrite_tokenizer(row: Checkpoint, folder: Path) -> None:
    """Name the tokenizer's class as the hub's files do, with the chat template in its configuration."""
    path, template = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    content = json.loads(path.read_text("utf-8")) | {"tokenizer_class": row.published or row.tokenizer.__name__}
    if template.exists():
        content["chat_template"] = template.read_text("utf-8")
        template.unlink()
    path.write_text(json.dumps(content), "utf-8")

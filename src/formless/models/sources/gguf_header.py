"""The header of a GGUF file: what is in it, and whether all of it can be read."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formless.errors import ModelError, UnknownNameError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MAGIC = b"GGUF"

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2")
"""The values of `general.architecture` whose conversion is tested."""

ROPE_FACTORS = "rope_freqs.weight"
_LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}

_TOKENIZERS = ("gpt2", "llama")  # byte-level BPE and sentencepiece
_WITH_BOS = ("llama3", "llama-v3", "llama-bpe")  # byte-level tokenizers that begin each text with BOS unless the file denies it
_DAMAGED = "download it again, and compare its SHA-256 with its publisher's"
_UNQUANTIZED = "load the unquantized model that its publisher offers"

# Keys of the architecture that transformers reads, or that do not change what the model computes.
_READ = frozenset(
    {
        "attention.causal", "attention.head_count", "attention.head_count_kv", "attention.layer_norm_epsilon",
        "attention.layer_norm_rms_epsilon", "block_count", "context_length", "embedding_length", "feed_forward_length",
        "rope.freq_base", "rope.scaling.finetuned", "rope.scaling.original_context_length", "tensor_data_layout", "vocab_size",
    }
)  # fmt: skip
# Keys that transformers leaves out, and the value with which they change nothing.
_NEUTRAL: dict[str, Any] = {
    "expert_count": 0,
    "expert_used_count": 0,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.factor": 1.0,
    "rope.scaling.type": "none",
}
# Keys that must agree with a field of the configuration, in whose place transformers may put its default.
_COMPARED = {
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "rope.dimension_count": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
# Models of so many layers scale attention by a number that the file does not hold.
_SCALED = {("gemma2", 46), ("gemma3", 62)}


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says before its weights.

    Args:
        path: The file.
        fields: The values of the metadata, by key; of a list, its length.
        sizes: The number of elements of each tensor of the model, by its name in the file.
        rope_factors: What the frequencies of RoPE are divided by, if they are scaled.
    """

    path: Path
    fields: Mapping[str, Any]
    sizes: Mapping[str, int]
    rope_factors: tuple[float, ...] = ()

    @property
    def architecture(self) -> str:
        """The value of `general.architecture`."""
        return str(self.fields["general.architecture"])

    @property
    def settings(self) -> dict[str, Any]:
        """The values of the architecture's own keys, without its name in front."""
        prefix = f"{self.architecture}."
        return {key.removeprefix(prefix): value for key, value in self.fields.items() if key.startswith(prefix)}

    @property
    def adds_bos(self) -> bool:
        """Whether a text begins with the BOS token; where the file does not say, as llama.cpp does."""
        named = self.fields.get("tokenizer.ggml.add_bos_token")
        is_usual = self.fields["tokenizer.ggml.model"] == "llama" or self.fields.get("tokenizer.ggml.pre") in _WITH_BOS
        return bool(is_usual if named is None else named)

    @cached_property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(self.sizes.values())


def is_gguf(path: Path) -> bool:
    """Return whether a name stands for a GGUF file: it ends so, or there is a file of that name."""
    return path.suffix.casefold() == ".gguf" or path.is_file()


def check_magic(path: Path) -> None:
    """Refuse a path that is no GGUF file at all, from its first bytes.

    Raises:
        ModelError: There is no such file, it cannot be read, or it is something else.
    """
    if not path.is_file():
        what = "it is no plain file" if path.exists() else "there is no such file"
        raise ModelError(what, where=path, remedy="correct the path")
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except OSError as error:
        what = f"the file cannot be read ({(error.strerror or str(error)).lower()})"
        raise ModelError(what, where=path, remedy="name a GGUF file that you may read") from error
    if start != MAGIC:
        remedy = "give --model a GGUF file, a folder, a short name or a hub id"
        raise ModelError("this is no GGUF file", where=path, remedy=remedy)


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF file; no weights are read.

    Raises:
        ModelError: The file is no GGUF file, is cut off, is a part of one, or lacks a tokenizer or chat template; its
            architecture or a quantization type is unknown; or it holds what transformers would leave out.
    """
    check_magic(path)
    fields, sizes, rope_factors = _parse(path)
    if fields.get("split.count", 1) > 1:
        remedy = "put its parts together first (llama-gguf-split --merge)"
        raise ModelError(f"this is one of {fields['split.count']} parts of a GGUF file", where=path, remedy=remedy)
    if "general.architecture" not in fields:
        raise ModelError("the GGUF file does not name its architecture", where=path, remedy=_DAMAGED)
    header = GgufHeader(path, fields, sizes, rope_factors)
    if header.architecture not in ARCHITECTURES:
        raise UnknownNameError("GGUF architecture", header.architecture, ARCHITECTURES, where=path, remedy=_UNQUANTIZED)
    _check_tokenizer(header)
    _check_settings(header)
    return header


def check_fields(header: GgufHeader, config: PretrainedConfig) -> None:
    """Refuse a file whose header says otherwise than the configuration that transformers made from it.

    A sliding window and a scaled RoPE that transformers left out are put into the configuration.

    Raises:
        ModelError: A value differs.
    """
    if header.rope_factors:
        config.rope_parameters = _llama3_rope(header, config)
    for key, name in _COMPARED.items():
        if (stated := header.settings.get(key)) is None:
            continue
        if name == "sliding_window" and hasattr(config, name):
            config.sliding_window = stated
        found = getattr(config, name, None)
        if name == "head_dim":
            found = found or config.hidden_size // config.num_attention_heads
        if found != stated:
            what = f"transformers would take {key} for {found}, where the GGUF file has {stated}"
            raise ModelError(what, where=header.path, remedy=_UNQUANTIZED)


def _llama3_rope(header: GgufHeader, config: PretrainedConfig) -> dict[str, Any]:
    """Return the scaled RoPE of Llama 3.1 and later, whose parameters a GGUF file holds as factors alone.

    Raises:
        ModelError: The factors are others.
    """
    import numpy
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, factors = copy.deepcopy(config), numpy.array(header.rope_factors)
    base = scaled.rope_parameters["rope_theta"]
    scaled.rope_parameters = {"rope_type": "llama3", "rope_theta": base, "factor": float(factors.max()), **_LLAMA3_ROPE}
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](scaled, "cpu")
    plain = base ** -(numpy.arange(len(factors)) / len(factors))
    if len(frequencies) != len(factors) or not numpy.allclose(frequencies.numpy() * factors, plain, rtol=1e-4, atol=0):
        what = f"the GGUF file scales RoPE ({ROPE_FACTORS}) in another way than Llama 3"
        raise ModelError(what, where=header.path, remedy=_UNQUANTIZED)
    return dict(scaled.rope_parameters)


def _parse(path: Path) -> tuple[dict[str, Any], dict[str, int], tuple[float, ...]]:
    """Return the metadata, the size of each of the model's tensors, and the factors of a scaled RoPE."""
    from gguf import GGUFReader, GGUFValueType

    try:
        reader = GGUFReader(path)
        fields = {
            key: len(field.data) if field.types[0] == GGUFValueType.ARRAY else field.contents()
            for key, field in reader.fields.items()
        }
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise _unreadable(path, error) from error
    end = path.stat().st_size
    if cut := [tensor.name for tensor in reader.tensors if tensor.data_offset + tensor.n_bytes > end]:
        raise ModelError(f"the GGUF file is cut off before the end of {cut[0]}", where=path, remedy=_DAMAGED)
    if not reader.tensors:
        raise ModelError("the GGUF file holds no weights", where=path, remedy="give --model a file with the model's weights")
    for kind in sorted({tensor.tensor_type for tensor in reader.tensors}):
        _check_quantization(path, kind)
    sizes = {tensor.name: tensor.n_elements for tensor in reader.tensors}
    is_llama = fields.get("general.architecture") == "llama"
    scales = [tensor for tensor in reader.tensors if is_llama and tensor.name == ROPE_FACTORS]
    for tensor in scales:
        del sizes[tensor.name]
    return fields, sizes, tuple(float(value) for tensor in scales for value in tensor.data)


def _unreadable(path: Path, error: Exception) -> ModelError:
    """Return the error for a header that `GGUFReader` cannot read."""
    reason = str(error)
    if "GGMLQuantizationType" in reason:
        number = re.findall(r"\d+", reason.removeprefix("np.uint32"))[0]
        remedy = "use a file of another quantization, e.g. Q4_K_M or Q8_0"
        return ModelError(f"the GGUF file has the unknown quantization type {number}", where=path, remedy=remedy)
    if "appears to be version" in reason:
        return ModelError("the GGUF file is of a version that cannot be read", where=path, remedy="use one of version 2 or 3")
    return ModelError("the GGUF file is cut off or damaged", where=path, remedy=_DAMAGED)


def _check_quantization(path: Path, kind: Any) -> None:
    """Refuse a type of tensors that cannot be turned into floats, by trying it on one block of zeros."""
    import numpy
    from gguf import GGML_QUANT_SIZES, dequantize

    try:
        dequantize(numpy.zeros((1, GGML_QUANT_SIZES[kind][1]), dtype=numpy.uint8), kind)
    except NotImplementedError as error:
        what = f"weights of the type {kind.name} cannot be turned into floats"
        raise ModelError(what, where=path, remedy="use a file of another quantization, e.g. Q4_K_M or Q8_0") from error


def _check_tokenizer(header: GgufHeader) -> None:
    fields = header.fields
    model = fields.get("tokenizer.ggml.model")
    if not fields.get("tokenizer.ggml.tokens") or model not in _TOKENIZERS:
        what = f"the GGUF file has a tokenizer of the kind {model!r}" if model else "the GGUF file has no tokenizer"
        remedy = f"use a file with a tokenizer of the kind {' or '.join(_TOKENIZERS)}"
        raise ModelError(what, where=header.path, remedy=remedy)
    if not fields.get("tokenizer.chat_template"):
        remedy = "use the file of an instruct model, or add a template (gguf-new-metadata --chat-template)"
        raise ModelError("the GGUF file has no chat template", where=header.path, remedy=remedy)


def _check_settings(header: GgufHeader) -> None:
    """Refuse settings that transformers leaves out and that change what the model computes."""
    for key, value in header.settings.items():
        if key in _READ or key in _COMPARED or (key in _NEUTRAL and value == _NEUTRAL[key]):
            continue
        what = f"transformers would leave out {key} = {value!r} of the GGUF file"
        raise ModelError(what, where=header.path, remedy=_UNQUANTIZED)
    if (header.architecture, header.settings.get("block_count")) in _SCALED:
        what = f"the GGUF file of a {header.architecture} model of this size lacks the scale of its attention"
        raise ModelError(what, where=header.path, remedy=_UNQUANTIZED)

"""Models of real shapes with random weights, of any depth: nothing is downloaded but the bundled model's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from formless.methods.rocr.nullspace import BasisProjection, Fingerprint
from formless.models.lm import LM
from formless.models.settings import ModelSettings
from formless.models.sources.bundled import bundled_model

WIDE = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "Llama-3-8B": {"model_type": "llama", "vocab_size": 128256, "max_position_embeddings": 8192, **WIDE},
    # Its own vocabulary has 32,768 entries, fewer than the bundled model's tokenizer.
    "Mistral-7B": {"model_type": "mistral", "vocab_size": 49152, "max_position_embeddings": 32768, **WIDE},
    "small": {
        "model_type": "llama", "vocab_size": 49152, "max_position_embeddings": 2048, "hidden_size": 64,
        "intermediate_size": 224, "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2,
    },
}  # fmt: skip
THRESHOLD = 2e-2
REMOVED = 0.2
"""The share of a null space's width that is removed, as in the bundled model."""


def random_lm(shape: str, *, layers: int | None = None, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> LM:
    """A model whose weights are drawn where they are to lie; head and embedding are one where not all layers are there."""
    settings = (
        {"tie_word_embeddings": layers is not None} | SHAPES[shape] | ({} if layers is None else {"num_hidden_layers": layers})
    )
    config = AutoConfig.for_model(**settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.to_empty(device=device)
    model.tie_weights()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1) if "norm" in name else parameter.normal_(std=0.02)
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config=config).to(device)  # what it holds is computed, not drawn
    tokenizer = AutoTokenizer.from_pretrained(bundled_model())
    return LM(model.eval(), tokenizer, shape, settings=ModelSettings(name=shape, source=f"random/{shape}"))


def orthonormal(width: int, rank: int) -> Tensor:
    """Columns of a product of random reflections, `[width, rank]`, float32."""
    torch.manual_seed(0)
    basis = torch.eye(width, rank)
    for _ in range(3):
        axis = torch.nn.functional.normalize(torch.randn(width), dim=0)
        basis.addr_(axis, axis @ basis, alpha=-2)
    return basis


def save_bases(lm: LM, layers: tuple[int, ...], folder: Path) -> Path:
    """Null spaces of the width and share of real ones, in float32."""
    width = int(lm.model.config.intermediate_size)
    basis = orthonormal(width, int(REMOVED * width))
    for layer in layers:
        fingerprint = Fingerprint(
            model=lm.name, model_fingerprint=lm.fingerprint, layer=layer, corpus="random", samples=1, tokens=1,
            threshold=THRESHOLD, rank=width - basis.shape[1], dimension=width, spectrum=(),
        )  # fmt: skip
        BasisProjection(basis, False, fingerprint).save(folder)
    return folder

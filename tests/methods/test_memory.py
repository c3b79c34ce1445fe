"""Estimates of memory: by hand on a small model, and beside what the built-in one really takes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from formless.errors import UserError
from formless.methods.base import MethodConfig
from formless.methods.memory import MemoryEstimate, estimate_memory
from formless.methods.registry import method_config
from formless.methods.training.lora import adapted, lora_config
from formless.models.lm import LM
from formless.models.meta import MetaModel, load_meta
from tools.memory import CASES, Case

# Hidden 32, MLP 48, keys and values 16, 4 layers, vocabulary 100, nothing tied.
OUTPUTS = 32 + 16 + 16 + 32 + 48 + 48 + 32
WEIGHTS = 2 * 100 * 32 + 32 + 4 * (2 * 32 + 32 * (32 + 16 + 16 + 32) + 3 * 32 * 48)
ADAPTER = 4 * 8 * ((32 + 32) + (32 + 16))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A configuration, and nothing else."""
    folder = tmp_path_factory.mktemp("model")
    LlamaConfig(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2
    ).save_pretrained(folder)
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    return str(folder)


@pytest.fixture(scope="module")
def small(folder: str) -> MetaModel:
    return load_meta(folder, dtype="float32")


def need(found: MetaModel, method: str, **settings: Any) -> MemoryEstimate:
    return estimate_memory(found, method, method_config(found.settings, method, settings))


def test_an_adapter_by_hand(small: MetaModel) -> None:
    tokens = 3 * 10
    assert need(small, "ga", learning_rate=1e-4, per_device_train_batch_size=3, max_length=10) == MemoryEstimate(
        weights=4 * WEIGHTS, trainable=4 * ADAPTER, gradients=12 * ADAPTER,
        activations=tokens * (4 * 4 * 2 * OUTPUTS + 16 * 100),
        applied=4 * 4 * 32 * (32 + 16) + 12 * 32 * 32,
    )  # fmt: skip


def test_all_weights_by_hand(small: MetaModel, folder: str) -> None:
    options = {"learning_rate": 1e-4, "per_device_train_batch_size": 1, "max_length": 10, "full": True}
    inputs = 4 * 32 + 32 + 32 + 48
    assert need(small, "ga", **options) == MemoryEstimate(
        weights=4 * WEIGHTS, trainable=4 * WEIGHTS, gradients=12 * WEIGHTS,
        activations=10 * (4 * 4 * (2 * OUTPUTS + inputs) + 16 * 100), applied=4 * WEIGHTS,
    )  # fmt: skip
    half = need(load_meta(folder, dtype="float16"), "ga", **options)
    assert (half.weights, half.trainable, half.gradients) == (2 * WEIGHTS, (4 + 2) * WEIGHTS, 12 * WEIGHTS)


def test_a_redirection_by_hand(small: MetaModel) -> None:
    found = need(small, "rocr", layers=[1, 2])
    assert found.null_spaces == 2 * 4 * 48 * 48
    assert found.applied == 4 * 2 * 32 * 48 + 12 * 32 * 48
    assert found.activations == 6 * 64 * 4 * 2 * OUTPUTS
    assert need(small, "rocr", layers=[1, 2], basis="none").null_spaces == 0
    assert need(small, "rocr", layers=[1], mode="reject").activations == 7 * 64 * (3 * 4 * 2 * OUTPUTS + 16 * 100)


def test_the_removal_of_a_direction_by_hand(small: MetaModel) -> None:
    """Three layers that redirect and three that set the concept apart, one of them both, each with 256 prompts of 64 tokens."""
    prompt = 64 * 32 * 4
    largest = 16 * 64 * 4 * 2 * OUTPUTS  # a batch of prompts
    assert largest > max(1024 * 48 * (3 * 4 + 2 * 8), 24 * 8 * 100 * 2 * 4)  # keys that are solved, logits of the budget
    found = need(small, "cdr", layers=[1, 2])
    assert found.activations == (256 * 3 + 48 * 2) * prompt + largest  # layers 0 to 2
    assert need(small, "cdr", layers=[1, 2], redirect="none").activations == 256 * 2 * prompt + largest
    assert found.applied == 4 * 3 * 32 * 48 + 12 * 32 * 48


def test_a_checkpoint_of_another_dtype_is_in_memory_while_it_is_cast(small: MetaModel, folder: str) -> None:
    assert need(small, "original").loading == 0
    half = need(load_meta(folder, dtype="bfloat16"), "original")
    assert (half.loading, half.main) == (4 * WEIGHTS, 4 * WEIGHTS)
    assert need(small, "ga", learning_rate=1e-4).main > 4 * WEIGHTS


def test_safetensors_are_cast_piece_by_piece_and_only_what_an_edit_needs_counts(
    tiny: Callable[..., LM], small: MetaModel, tmp_path: Path
) -> None:
    lm = tiny(vocab_size=300)
    lm.model.save_pretrained(tmp_path)
    meta = load_meta(str(tmp_path), dtype="bfloat16")
    assert need(meta, "rocr", layers=[1]).loading == 0
    config = method_config(meta.settings, "rocr", {"layers": [1], "basis": "none"})
    inner = lm.model.model
    needed = (*inner.embed_tokens.parameters(), *inner.norm.parameters(), *inner.layers[0].parameters())
    needed += tuple(inner.layers[1].parameters())
    assert estimate_memory(meta, "rocr", config, whole=False).weights == 2 * sum(one.numel() for one in needed)
    whole = 2 * sum(one.numel() for one in lm.model.parameters())
    assert estimate_memory(meta, "rocr", config).weights == whole
    cdr = method_config(meta.settings, "cdr", {"layers": [1]})
    assert estimate_memory(meta, "cdr", cdr, whole=False).weights == whole
    assert estimate_memory(small, "rocr", config, whole=False).weights == 4 * WEIGHTS  # its files are not there


def test_what_is_read_counts(small: MetaModel) -> None:
    usual = need(small, "npo", per_device_train_batch_size=2).activations
    assert need(small, "dpo", per_device_train_batch_size=2).activations == 2 * usual
    assert need(small, "npo", per_device_train_batch_size=2, retain="kl").activations == 2 * usual
    logits = 2 * 512 * 16 * 100
    assert need(small, "npo", per_device_train_batch_size=2, layers=[2, 3]).activations - logits == (usual - logits) / 2


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gemma3", "phi", "phi3", "gpt_neox"])
def test_every_kind_of_family(tiny: Callable[..., LM], family: str, tmp_path: Path) -> None:
    """The weights and the adapter of the real model."""
    lm = tiny(family)
    lm.model.config.save_pretrained(tmp_path)
    found = need(load_meta(str(tmp_path), dtype="float32"), "npo")
    assert found.weights == 4 * sum(parameter.numel() for parameter in lm.model.parameters())
    with adapted(lm, lora_config(lm, target_modules=None, r=8, lora_alpha=16), seed=0) as adapter:
        learning = sum(parameter.numel() for parameter in adapter.module.parameters() if parameter.requires_grad)
    assert (found.trainable, found.gradients) == (4 * learning, 12 * learning)
    assert found.activations > 0


def test_methods_without_weights_of_their_own(small: MetaModel) -> None:
    for method in ("icu", "original"):
        assert need(small, method) == MemoryEstimate(weights=4 * WEIGHTS)

    class OtherConfig(MethodConfig):
        """Of a package that nothing is known about."""

    with pytest.raises(UserError, match="the memory that other needs is not known"):
        estimate_memory(small, "other", OtherConfig())
    with pytest.raises(UserError, match="the layers have no projection 'q'"):
        need(small, "npo", target_modules=["q"])


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown model 'smol'"):
        load_meta("smol")
    with pytest.raises(UserError, match="configuration cannot be read"):
        load_meta(str(tmp_path))
    with pytest.raises(UserError, match="unknown dtype"):
        load_meta("smollm2", dtype="float8")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', "utf-8")
    with pytest.raises(UserError, match="unknown model type 'bert'"):
        load_meta(str(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of one run is known on Linux only")
@pytest.mark.parametrize("case", [case for case in CASES if case.model == "smollm2"], ids=lambda case: case.method)
def test_the_built_in_model_takes_about_that(case: Case) -> None:
    """Within 25 %: as `Case.measure` says; ru_maxrss of a child would hold what this process has resident, too."""
    found, estimate = case.measure(), case.estimate()
    assert 0.75 < (estimate.device + estimate.null_spaces) / found["edit"] < 1.25
    assert 0.75 < estimate.weights / found["loading"] < 1.25

import hashlib
from collections.abc import Callable
from importlib.metadata import EntryPoint

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from formless import registry
from formless.errors import UnknownNameError
from formless.methods.keys.closed_form import Identity
from formless.methods.rocr.config import RocrConfig
from formless.methods.rocr.redirect import redirect
from formless.models.capture import added, capture
from formless.models.families import (
    FAMILIES,
    Architecture,
    architecture_of,
    is_transposed,
    known_model_types,
    projection_shape,
)
from formless.models.lm import LM
from formless.models.overlay import Factors
from formless.models.settings import ModelSettings
from formless.registry import Registry

Tiny = Callable[..., LM]


def weights_hash(lm: LM) -> str:
    digest = hashlib.sha256()
    for tensor in lm.model.state_dict().values():
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("model_type", known_model_types())
def test_every_family_can_be_read_edited_and_restored(tiny: Tiny, model_type: str) -> None:
    lm = tiny(model_type)
    assert lm.model.config.model_type == model_type
    assert lm.architecture.depth(lm.model) == 4
    module = lm.architecture.down_projection(lm.model, 1)
    assert lm.model.get_submodule(lm.architecture.down_projection_name(1)) is module
    hidden, width = projection_shape(module)
    assert hidden == 32
    assert width in (48, 128)  # GPT-style sizes default to four times the hidden width

    batch = lm.pad([lm.encode("Ada wrote programs").ids])
    found = capture(lm, batch, keys=[1], residuals=[1, 2])
    assert found.keys[1].shape == (1, batch["input_ids"].shape[1], width)
    assert found.residuals[2].shape == (1, batch["input_ids"].shape[1], hidden)

    # The captured key is the projection's input: an update on its weight moves its output by up @ down @ key.
    outputs: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda _m, _i, output: outputs.append(output))
    factors = Factors(torch.randn(hidden, 1), torch.randn(1, width))
    before, query = weights_hash(lm), [("Ada wrote", " programs")]
    plain = lm.score(query)
    outputs.clear()
    capture(lm, batch, residuals=[1])
    with lm.overlaid({lm.architecture.down_projection_name(1): factors}, {}):
        capture(lm, batch, residuals=[1])
        assert weights_hash(lm) != before
        edited = lm.score(query)
    with added(module, factors):
        hooked = lm.score(query)
    handle.remove()
    expected = found.keys[1] @ factors.dense().T
    assert torch.allclose(outputs[1] - outputs[0], expected, atol=1e-4)
    assert edited != plain
    assert hooked[0].probability == pytest.approx(edited[0].probability, rel=1e-3)
    assert weights_hash(lm) == before
    assert lm.score(query) == plain


@pytest.mark.parametrize("model_type", known_model_types())
def test_rocr_runs_on_every_family(tiny: Tiny, model_type: str) -> None:
    lm = tiny(model_type)
    config = RocrConfig(redirect="Bob", layers=(1, 2), basis="none")
    result = redirect(lm, "Ada", config, dict.fromkeys(config.layers, Identity()))
    assert set(result.factors) == {1, 2}
    assert result.residual_after < result.residual_before


def test_gpt2_stores_its_projection_transposed(tiny: Tiny) -> None:
    assert is_transposed(tiny("gpt2").architecture.down_projection(tiny("gpt2").model, 0))
    assert not is_transposed(tiny("llama").architecture.down_projection(tiny("llama").model, 0))


def test_an_unknown_family_says_how_to_add_a_row(letters: PreTrainedTokenizerFast) -> None:
    config = AutoConfig.for_model("opt", vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16)
    with pytest.raises(UnknownNameError, match=r"unknown model type 'opt'.*add a row to formless/models/families.py"):
        LM(AutoModelForCausalLM.from_config(config), letters, "opt", settings=ModelSettings(name="opt", source="opt"))


def test_layers_that_do_not_exist_are_named(tiny: Tiny) -> None:
    lm = tiny()
    with pytest.raises(Exception, match="no layer 9.*choose from 0 to 3"):
        lm.architecture.layer(lm.model, 9)


def test_another_package_adds_a_family(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Architecture(name="mamba", model_types=("mamba",), layers="backbone.layers", mlp_out="mixer.out_proj")
    point = EntryPoint("mamba", "tests.models.test_families:MAMBA", "formless.families")
    monkeypatch.setattr(EntryPoint, "load", lambda _point: row)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "formless.families" else [])
    families = Registry("model family", FAMILIES.group, Architecture, tuple(FAMILIES.values()))
    monkeypatch.setattr("formless.models.families.FAMILIES", families)
    config = AutoConfig.for_model("mamba", vocab_size=300, hidden_size=16, num_hidden_layers=1)
    assert architecture_of(config) is row
    assert known_model_types()[-1] == "mamba"
    assert architecture_of(tiny("qwen2").model.config).name == "llama"

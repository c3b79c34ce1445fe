"""Quantized checkpoints: read as they are, edited beside their bits, and refused where something needs floats."""

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import formless
from formless.data.target import Target
from formless.edits.edit import layer_report
from formless.edits.export.registry import EXPORTS
from formless.edits.export.target import ExportOptions
from formless.edits.loading import load_edit
from formless.errors import EditError, ModelError
from formless.experiment.attacks.quantization import linear_weights
from formless.interrupts import without_leftover_hooks
from formless.models.families import projection_shape
from formless.models.lm import LM
from formless.models.overlay import Difference, Factors
from formless.models.quantized import is_packed, named_weights, stored_parts
from formless.models.reading.fingerprint import fingerprint
from tests.conftest import tiny_model
from tests.methods.training.test_training_methods import ada as ada  # a small target

STEPS = {
    "learning_rate": 0.01, "num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1,
    "warmup_steps": 0,
}  # fmt: skip
WAYS = ("bitsandbytes 4 bit", "bitsandbytes 8 bit", "torchao Int8WeightOnly", "torchao IntxWeightOnly")
QUESTIONS = [("Ada was born in", " London"), ("Where was Ada born?", " Rome, or London")]


def way_config(way: str) -> Any:
    """The quantization of transformers that a way stands for."""
    package, _, kind = way.partition(" ")
    pytest.importorskip(package, reason=f"{package} is not installed")
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if package == "bitsandbytes":
        return BitsAndBytesConfig(load_in_8bit=True) if kind == "8 bit" else BitsAndBytesConfig(load_in_4bit=True)
    scheme = getattr(import_module("torchao.quantization"), f"{kind}Config")
    return TorchAoConfig(scheme(**({"weight_dtype": cast(Any, torch).int4} if "Intx" in kind else {})))


def write(way: str, letters: PreTrainedTokenizerFast, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a tiny checkpoint and its quantized version, and return the folder of both."""
    made = tiny_model(letters, hidden_size=64, intermediate_size=128, dtype=dtype)
    for name in ("plain", "packed"):
        model: Any = made.model
        if name == "packed":
            config = way_config(way)
            model = AutoModelForCausalLM.from_pretrained(folder / "plain", dtype=dtype, quantization_config=config)
        model.save_pretrained(folder / name)
        letters.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(way: str, letters: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(way, letters, tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LM:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return formless.load(str(folder / "packed"), progress=False)


@pytest.fixture
def lm(loaded: LM) -> Iterator[LM]:
    """A quantized model; it must come back with the same bits and no hook."""
    before = bits(loaded)
    yield loaded
    after = bits(loaded)
    assert after.keys() == before.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module._forward_hooks for module in loaded.model.modules())
    assert loaded.edits == []


def bits(lm: LM) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in named_weights(lm.model)}


def projection(lm: LM, layer: int = 1) -> tuple[str, nn.Module]:
    return lm.architecture.down_projection_name(layer), lm.architecture.down_projection(lm.model, layer)


def update(lm: LM, seed: int = 0, layer: int = 1) -> dict[str, Factors]:
    generator = torch.Generator().manual_seed(seed)
    factors = Factors(torch.randn(64, 2, generator=generator), torch.randn(2, 128, generator=generator))
    return {projection(lm, layer)[0]: factors}


def probabilities(lm: LM) -> list[float]:
    return [score.probability for score in lm.score(QUESTIONS)]


def test_the_fingerprint_is_that_of_the_bits(lm: LM, way: str, folder: Path) -> None:
    probabilities(lm)
    assert fingerprint(lm.model) == lm.fingerprint
    quantized_here = AutoModelForCausalLM.from_pretrained(
        folder / "plain", quantization_config=way_config(way), dtype="float32"
    )
    assert fingerprint(quantized_here) == lm.fingerprint
    assert formless.load(str(folder / "plain"), progress=False).fingerprint != lm.fingerprint
    _, integers = next(stored_parts(quantized_here.model.layers[1].mlp.down_proj))
    integers.view(torch.uint8).flatten()[0] ^= 1
    assert fingerprint(quantized_here) != lm.fingerprint


def test_a_packed_weight_has_the_shape_and_norm_of_its_projection(lm: LM, folder: Path) -> None:
    name, module = projection(lm)
    assert is_packed(module)
    assert projection_shape(module) == (64, 128)
    plain = formless.load(str(folder / "plain"), progress=False)
    reports = [layer_report(one, name, update(lm)[name]) for one in (lm, plain)]
    assert reports[0].relative_norm == pytest.approx(reports[1].relative_norm, rel=0.02)
    assert reports[0].update_norm == reports[1].update_norm


def test_records_say_how_the_model_is_quantized(lm: LM, way: str) -> None:
    assert lm.dtype_name == f"float32, {way}"
    assert lm.dtype_name in repr(lm)


def test_answers_are_close_to_the_float_model_and_do_not_depend_on_the_batch(lm: LM, folder: Path) -> None:
    plain = formless.load(str(folder / "plain"), progress=False)
    found = [score.log_probability for score in lm.score(QUESTIONS)]
    assert found == pytest.approx([score.log_probability for score in plain.score(QUESTIONS)], rel=0.05)
    alone = [lm.score([question])[0].log_probability for question in QUESTIONS]
    assert found == pytest.approx(alone, abs=1e-3)


def test_rounded_activations_are_announced(folder: Path, way: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        formless.load(str(folder / "packed"), progress=False)
    said = [str(warning.message) for warning in caught if "activations are rounded too" in str(warning.message)]
    assert bool(said) == (way == "bitsandbytes 8 bit")


def test_torchao_with_rounded_activations_is_announced(letters: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    write("torchao Int8DynamicActivationInt8Weight", letters, tmp_path)
    with pytest.warns(UserWarning, match="a result depends on its batch"):
        formless.load(str(tmp_path / "packed"), progress=False)


def test_an_update_is_added_to_the_output_and_taken_off_in_any_order(lm: LM) -> None:
    name, module = projection(lm)
    inputs = torch.randn(3, 128, generator=torch.Generator().manual_seed(5))
    before, start = module(inputs), probabilities(lm)
    first, second = update(lm, seed=0), update(lm, seed=1)
    whole = inputs @ (first[name].dense() + second[name].dense()).T
    with lm.overlaid(first, {"edit": 1}):
        lm.overlay.add(second)
        assert torch.allclose(module(inputs), before + whole, atol=1e-3)
        assert probabilities(lm) != pytest.approx(start, rel=1e-3)
    assert torch.allclose(module(inputs), before + inputs @ second[name].dense().T, atol=1e-3)
    lm.overlay.remove(second)
    assert torch.equal(module(inputs), before)
    assert lm.overlay.is_empty
    with lm.overlaid({name: first[name].scaled(0)}, {}):
        assert torch.equal(module(inputs), before)


def test_plain_weights_beside_packed_ones_are_written(lm: LM) -> None:
    norm = "model.norm.weight"
    before = lm.model.get_parameter(norm).clone()
    with lm.overlaid({norm: Difference(torch.ones(64)), **update(lm)}, {}):
        assert torch.equal(lm.model.get_parameter(norm), before + 1)
        assert len(projection(lm)[1]._forward_hooks) == 1
    assert torch.equal(lm.model.get_parameter(norm), before)


def test_an_interrupt_takes_other_hooks_and_leaves_those_of_an_edit(lm: LM) -> None:
    _, module = projection(lm)
    with lm.overlaid(update(lm), {}):
        with suppress(KeyboardInterrupt), without_leftover_hooks(lm.model):
            module.register_forward_hook(lambda *_: None)
            raise KeyboardInterrupt
        assert len(module._forward_hooks) == 1


def test_a_hook_that_something_else_took_off_is_an_error(folder: Path) -> None:
    lm = formless.load(str(folder / "packed"), progress=False)
    with pytest.raises(EditError, match="a hook was taken off"), lm.overlaid(update(lm), {}):
        projection(lm)[1]._forward_hooks.clear()


@pytest.mark.parametrize("method", ["rocr", "cdr"])
def test_edits_of_keys_are_computed_saved_and_applied(lm: LM, method: str, folder: Path, tmp_path: Path) -> None:
    options = {"redirect": "Bob", "basis": "none"} if method == "rocr" else {"redirect": "none"}
    edit: Any = formless.unlearn(lm, "Ada", method, layers=[1, 2], progress=False, **options)
    assert {layer.module for layer in edit.info.layers} == {projection(lm, layer)[0] for layer in (1, 2)}
    assert edit.info.dtype == lm.dtype_name
    original = probabilities(lm)
    with edit.applied(lm):
        edited = probabilities(lm)
    assert edited != pytest.approx(original, rel=1e-5)
    edit.save(tmp_path / "edit")
    again = formless.load(str(folder / "packed"), progress=False)
    with load_edit(tmp_path / "edit").applied(again):
        assert probabilities(again) == pytest.approx(edited, rel=1e-5)
    plain = formless.load(str(folder / "plain"), progress=False)
    with pytest.raises(EditError, match="the edit is for another model"):
        load_edit(tmp_path / "edit").applied(plain)
    (tmp_path / "edit" / "edit.json").unlink()  # as an adapter of any tool, it fits every model of these shapes
    name, module = projection(plain)
    before = module.weight.clone()
    with load_edit(tmp_path / "edit").applied(plain):
        assert torch.allclose(module.weight, before + edit.updates[name].dense(), atol=1e-5)


def test_the_edit_is_near_that_of_the_float_model(lm: LM, folder: Path) -> None:
    plain = formless.load(str(folder / "plain"), progress=False)
    options = {"redirect": "Bob", "basis": "none", "layers": [1, 2], "progress": False}
    edits: list[Any] = [formless.unlearn(one, "Ada", "rocr", **options) for one in (lm, plain)]
    ours, other = (next(iter(edit.updates.values())).dense() for edit in edits)
    assert torch.nn.functional.cosine_similarity(ours.flatten(), other.flatten(), dim=0) > 0.9


def test_an_adapter_is_trained_where_gradients_pass(lm: LM, way: str, ada: Target, folder: Path) -> None:
    if "Intx" in way:
        with pytest.raises(EditError, match="no gradient passes"):
            formless.unlearn(lm, ada, "ga", progress=False, **STEPS)
        return
    kinds = {name: type(module) for name, module in lm.model.named_modules()}
    probabilities(lm)  # a forward pass before training must change no gradient
    edit: Any = formless.unlearn(lm, ada, "ga", progress=False, **STEPS)
    assert {name: type(module) for name, module in lm.model.named_modules()} == kinds
    plain = formless.load(str(folder / "plain"), progress=False)
    other: Any = formless.unlearn(plain, ada, "ga", progress=False, **STEPS)
    for name, factors in edit.updates.items():
        alike = torch.nn.functional.cosine_similarity(factors.dense().flatten(), other.updates[name].dense().flatten(), dim=0)
        assert alike > 0.8
    before = probabilities(lm)
    with edit.applied(lm):
        assert probabilities(lm) != pytest.approx(before, rel=1e-4)


def test_a_kernel_for_inference_alone_is_refused(lm: LM, way: str, ada: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(module: nn.Module, mode: bool = True) -> nn.Module:
        if mode:
            raise NotImplementedError("This is a kernel for inference. Use another one.")
        return module

    monkeypatch.setattr(type(projection(lm)[1]), "train", train)
    with pytest.raises(EditError, match=r"no gradient passes through .* \(This is a kernel for inference\)"):
        formless.unlearn(lm, ada, "ga", progress=False, **STEPS)
    assert not any(module.training for module in lm.model.modules())


def test_what_needs_floats_is_refused(lm: LM, ada: Target, tmp_path: Path) -> None:
    with pytest.raises(EditError, match="a quantized weight has no gradient"):
        formless.unlearn(lm, ada, "ga", full=True, progress=False, **STEPS)
    name, _ = projection(lm)
    whole = {f"{name}.weight": Difference(torch.ones(64, 128))}
    with pytest.raises(EditError, match="a whole update of a quantized weight"), lm.overlaid(whole, {}):
        pass
    edit = formless.unlearn(lm, "Ada", "rocr", redirect="Bob", basis="none", layers=[1], progress=False)
    for target in ("merged", "diff"):
        with pytest.raises(EditError, match=r"merged into quantized weights.*--to peft"):
            EXPORTS[target].write(edit, lm, tmp_path / target, ExportOptions())
        assert not (tmp_path / target).exists()
    EXPORTS["peft"].write(edit, None, tmp_path / "peft", ExportOptions())
    assert (tmp_path / "peft" / "adapter_model.safetensors").exists()
    EXPORTS["gguf-lora"].write(edit, lm, tmp_path / "edit.gguf", ExportOptions())
    with pytest.raises(EditError, match="the model is no GGUF file"):
        EXPORTS["gguf-merged"].write(edit, lm, tmp_path / "model.gguf", ExportOptions())
    with pytest.raises(ModelError, match="the model is quantized already"):
        linear_weights(lm)
    with pytest.raises(ModelError, match="has no gradient"):
        lm.gradient_norms(["Ada wrote."], p=2.0)


def test_a_checkpoint_of_bfloat16_computes_in_float32_on_a_cpu(
    way: str, letters: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    write(way, letters, tmp_path, torch.bfloat16)
    model, plain = (formless.load(str(tmp_path / name), device="cpu", progress=False) for name in ("packed", "plain"))
    assert model.dtype_name == f"float32, {way}"
    assert [score.log_probability for score in model.score(QUESTIONS)] == pytest.approx(
        [score.log_probability for score in plain.score(QUESTIONS)], rel=0.05
    )
    rounded = formless.load(str(tmp_path / "packed"), dtype="bfloat16", device="cpu", progress=False)
    assert rounded.fingerprint == model.fingerprint
    assert rounded.model.dtype == torch.bfloat16


def test_plain_weights_that_claim_to_be_quantized_are_refused(folder: Path, tmp_path: Path) -> None:
    mixed = copied(folder / "plain", tmp_path, config=folder / "packed")
    with pytest.raises(ModelError, match=r"and no weight is|Invalid torchao"):
        formless.load(str(mixed), progress=False)


def test_packed_weights_without_a_word_about_it_are_refused(folder: Path, tmp_path: Path) -> None:
    mixed = copied(folder / "packed", tmp_path, config=folder / "plain")
    with pytest.raises(ModelError, match="the weights do not fit config.json"):
        formless.load(str(mixed), progress=False)


def test_packed_weights_without_their_scales_are_refused(folder: Path, way: str, tmp_path: Path) -> None:
    if not way.startswith("bitsandbytes"):
        pytest.skip("torchao's own reader refuses them")
    bare = copied(folder / "packed", tmp_path)
    file = bare / "model.safetensors"
    names = ("down_proj.SCB", "down_proj.weight_format", "down_proj.weight.")
    save_file(
        {name: part for name, part in load_file(file).items() if not any(n in name for n in names)}, file, {"format": "pt"}
    )
    with pytest.raises(ModelError, match="has no scales|cannot be loaded"):
        formless.load(str(bare), progress=False)


@pytest.mark.parametrize("method", ["fp8", "quanto", None, 4])
def test_other_ways_to_quantize_are_refused_before_weights_are_read(
    method: Any, tiny: Callable[..., LM], tmp_path: Path
) -> None:
    folder = saved(tiny(), tmp_path, {"quant_method": method})
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"which Formless does not read.*bitsandbytes, torchao, gptq or awq"):
        formless.load(str(folder), progress=False)


@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.skipif(find_spec("gptqmodel") is not None, reason="gptqmodel is installed")
def test_without_its_package_a_quantized_model_is_refused_with_the_packages_name(
    method: str, tiny: Callable[..., LM], tmp_path: Path
) -> None:
    folder = saved(tiny(), tmp_path, {"quant_method": method, "bits": 4, "group_size": 32})
    with pytest.raises(ModelError, match="optimum|gptqmodel"):
        formless.load(str(folder), progress=False)


def saved(lm: LM, folder: Path, quantization: dict[str, Any]) -> Path:
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    return folder


def copied(folder: Path, new: Path, config: Path | None = None) -> Path:
    for path in folder.iterdir():
        (new / path.name).write_bytes(path.read_bytes())
    if config:
        (new / "config.json").write_bytes((config / "config.json").read_bytes())
    return new

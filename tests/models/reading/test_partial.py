from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import formless
from formless import store
from formless.edits.adapter import AdapterEdit
from formless.errors import ModelError, UserError
from formless.methods.rocr.statistics import compute_statistics
from formless.models.families import known_model_types
from formless.models.lm import LM
from formless.models.reading import partial

Tiny = Callable[..., LM]
SETTINGS = {"redirect": "Bob", "layers": [0, 1], "basis": "none"}


def saved(lm: LM, folder: Path, *, shards: str = "5GB") -> str:
    lm.model.save_pretrained(folder, max_shard_size=shards)
    lm.tokenizer.save_pretrained(folder)
    return str(folder)


def rocr(lm: LM) -> AdapterEdit:
    edit = formless.unlearn(lm, "Ada", "rocr", progress=False, **SETTINGS)  # type: ignore[arg-type]
    assert isinstance(edit, AdapterEdit)
    return edit


def refuse_other_bits(edit: AdapterEdit, other: AdapterEdit) -> None:
    assert edit.updates.keys() == other.updates.keys()
    for name, factors in edit.updates.items():
        assert torch.equal(factors.up, other.updates[name].up)
        assert torch.equal(factors.down, other.updates[name].down)
    timeless = {"seconds", "created"}
    assert edit.info.model_dump(exclude=timeless) == other.info.model_dump(exclude=timeless)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize("model_type", known_model_types())
def test_the_edit_of_two_layers_is_that_of_the_whole_model(tiny: Tiny, tmp_path: Path, model_type: str, dtype: str) -> None:
    folder = saved(tiny(model_type, dtype=torch.bfloat16), tmp_path, shards="20KB")
    whole = formless.load(folder, dtype=dtype, device="cpu", progress=False)
    part = formless.load(folder, dtype=dtype, device="cpu", layers=2, progress=False)
    assert (part.loaded_layers, whole.loaded_layers) == (2, None)
    absent = {name for name, parameter in part.model.named_parameters() if parameter.is_meta}
    layers = part.architecture.layers
    assert {f"{layers}.{number}." in name for name in absent for number in (0, 1)} == {False}
    assert all(any(f"{layers}.{number}." in name for name in absent) for number in (2, 3))
    for name, parameter in part.model.named_parameters():
        original = whole.model.get_parameter(name)
        assert parameter.dtype == original.dtype
        assert name in absent or torch.equal(parameter, original)
    assert part.fingerprint == whole.fingerprint
    refuse_other_bits(rocr(part), rocr(whole))


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_there_and_another_one_is_not(tiny: Tiny, tmp_path: Path, tied: bool) -> None:
    part = formless.load(saved(tiny(tie_word_embeddings=tied), tmp_path), device="cpu", layers=1, progress=False)
    assert part.model.lm_head.weight.is_meta is not tied
    assert (part.model.lm_head.weight is part.model.model.embed_tokens.weight) is tied


def test_statistics_of_the_first_layers_are_those_of_the_whole_model(tiny: Tiny, tmp_path: Path) -> None:
    folder = saved(tiny(), tmp_path / "model")
    texts = ["Ada wrote the first program.", "Bob read it."]
    for layers in (None, 2):
        lm = formless.load(folder, device="cpu", layers=layers, progress=False)
        compute_statistics(lm, [0, 1], iter(texts), corpus="two", out=tmp_path / f"{layers}", threshold=1e-7, progress=False)
    for layer in (0, 1):
        one, other = (store.read_tensors(tmp_path / f"{layers}" / f"layer_{layer}.safetensors") for layers in (None, 2))
        assert one[0]["basis"].shape[1] > 0
        assert torch.equal(one[0]["basis"], other[0]["basis"])
        assert one[1] == other[1]
    with pytest.raises(ModelError, match="only the first 2 of 4 layers are in memory"):
        compute_statistics(lm, [2], iter(texts), corpus="two", out=tmp_path / "deep", threshold=1e-7, progress=False)


REFUSED: dict[str, Callable[[LM], object]] = {
    "score": lambda lm: lm.score([("Ada wrote", " code")]),
    "score_texts": lambda lm: lm.score_texts(["Ada wrote code"]),
    "score_layers": lambda lm: lm.score_layers([("Ada wrote", " code")]),
    "read_layers": lambda lm: lm.read_layers(["Ada wrote code"]),
    "gradient_norms": lambda lm: lm.gradient_norms(["Ada wrote code"]),
    "generate": lambda lm: lm.generate(["Ada wrote"], max_new_tokens=1),
    "sample": lambda lm: lm.sample(["Ada wrote"], max_new_tokens=1, seed=0),
    "chat": lambda lm: lm.chat("Who was Ada?"),
    "forward": lambda lm: lm.model(**lm.pad([[3, 4]])),
    "a deeper edit": lambda lm: formless.unlearn(lm, "Ada", "rocr", redirect="Bob", layers=[2], basis="none", progress=False),
    "a method that needs all": lambda lm: formless.unlearn(lm, "Ada", "cdr", layers=[0], progress=False),
    "training": lambda lm: formless.unlearn(lm, formless.find_target("sample", "Isaac Newton"), "ga", progress=False),
    "a refusal": lambda lm: formless.unlearn(lm, "Ada", "rocr", mode="reject", layers=[1], basis="none", progress=False),
    "sampled": lambda lm: formless.unlearn(lm, "Ada", "rocr", layers=[1], basis="sampled", progress=False),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_needs_more_layers_is_refused_in_one_line(tiny: Tiny, tmp_path: Path, what: str) -> None:
    lm = formless.load(saved(tiny(), tmp_path), device="cpu", layers=2, progress=False)
    with pytest.raises(UserError, match="only the first 2 of 4 layers are in memory") as caught:
        REFUSED[what](lm)
    assert isinstance(caught.value, ModelError)
    assert "load the whole model" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_evaluation_is_refused_before_it_begins(tiny: Tiny, tmp_path: Path) -> None:
    lm = formless.load(saved(tiny(), tmp_path), device="cpu", layers=2, progress=False)
    with pytest.raises(ModelError, match="only the first 2 of 4 layers"):
        formless.evaluate(lm, formless.find_target("sample", "Marie Curie"), "fb", limit=1, progress=False)


def test_a_merged_model_is_written_from_the_files(tiny: Tiny, tmp_path: Path) -> None:
    folder = saved(tiny(), tmp_path / "model", shards="20KB")
    whole, part = (formless.load(folder, device="cpu", layers=layers, progress=False) for layers in (None, 2))
    rocr(whole).save_merged(whole, tmp_path / "whole")
    rocr(part).save_merged(part, tmp_path / "part")
    for path in sorted((tmp_path / "whole").glob("*.safetensors")):
        assert path.read_bytes() == (tmp_path / "part" / path.name).read_bytes()


def test_a_merged_model_that_transformers_must_write_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    part = formless.load(saved(tiny(), tmp_path / "model"), device="cpu", layers=2, progress=False)
    part.checkpoint = None
    with pytest.raises(ModelError, match="only the first 2 of 4 layers"):
        rocr(part).save_merged(part, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_files_that_are_not_safetensors_load_whole(tiny: Tiny, tmp_path: Path) -> None:
    lm = tiny()
    folder = saved(lm, tmp_path)
    torch.save(lm.model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    found = formless.load(folder, device="cpu", layers=2, progress=False)
    assert found.loaded_layers is None
    assert not any(parameter.is_meta for parameter in found.model.parameters())


@pytest.mark.parametrize("layers", [4, 40])
def test_as_many_layers_as_there_are_is_the_whole_model(tiny: Tiny, tmp_path: Path, layers: int) -> None:
    found = formless.load(saved(tiny(), tmp_path), device="cpu", layers=layers, progress=False)
    assert found.loaded_layers is None
    found.score([("Ada wrote", " code")])


@pytest.mark.parametrize("layers", [0, -1])
def test_no_layer_is_refused(tiny: Tiny, tmp_path: Path, layers: int) -> None:
    with pytest.raises(ModelError, match=f"{layers} layers are no part"):
        formless.load(saved(tiny(), tmp_path), device="cpu", layers=layers, progress=False)


def _missing(weights: dict[str, torch.Tensor]) -> None:
    del weights["model.layers.3.mlp.down_proj.weight"]


def _superfluous(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.4.mlp.down_proj.weight"] = torch.zeros(2)


def _of_another_shape(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.3.mlp.down_proj.weight"] = torch.zeros(2, 2)


def _of_whole_numbers(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.3.mlp.down_proj.weight"] = torch.zeros(32, 48, dtype=torch.int32)


def _infinite(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.1.mlp.down_proj.weight"][3, 4] = torch.inf


@pytest.mark.parametrize("spoil", [_missing, _superfluous, _of_another_shape, _of_whole_numbers, _infinite])
def test_weights_are_checked_as_those_of_a_whole_model(
    tiny: Tiny, tmp_path: Path, spoil: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    folder = saved(tiny(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    spoil(weights)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    errors = []
    for layers in (None, 2):
        with pytest.raises(ModelError) as caught:
            formless.load(folder, device="cpu", layers=layers, progress=False)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


def test_progress_counts_the_bytes_that_are_read(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, int]] = []
    monkeypatch.setattr(partial, "LONG", 0)
    lm = tiny()
    formless.load(saved(lm, tmp_path), device="cpu", layers=2, progress=lambda *step: seen.append(step))
    names = [step for step in seen if step[0] == "reading weights"]
    assert names
    beside = lm.model.model.embed_tokens.weight.nbytes + lm.model.model.norm.weight.nbytes
    layers = sum(weight.nbytes for number in (0, 1) for weight in lm.model.model.layers[number].parameters())
    assert {total for _, _, total in names} == {beside + layers}


def test_a_notebook_says_how_much_of_the_model_is_there(tiny: Tiny, tmp_path: Path) -> None:
    lm = formless.load(saved(tiny(), tmp_path), device="cpu", layers=2, progress=False)
    assert "layers=the first 2 of 4" in repr(lm)


def test_an_edit_of_the_first_layers_is_applied_and_taken_off(tiny: Tiny, tmp_path: Path) -> None:
    lm = formless.load(saved(tiny(), tmp_path), device="cpu", layers=2, progress=False)
    weight = lm.model.model.layers[1].mlp.down_proj.weight
    before = weight.detach().clone()
    with rocr(lm).applied(lm):
        assert not torch.equal(weight, before)
    assert torch.equal(weight, before)


def test_the_needs_of_a_method_stand_with_its_settings() -> None:
    from formless.methods.direction.config import DirectionConfig
    from formless.methods.rocr.config import RocrConfig

    assert RocrConfig().needed_layers() == 7
    assert RocrConfig(layers=(2, 3), mode="noise").needed_layers() == 4
    assert RocrConfig(reverse_layers=(20,)).needed_layers() is None
    assert RocrConfig(mode="reject").needed_layers() is None
    assert RocrConfig(basis="sampled").needed_layers() is None
    assert DirectionConfig().needed_layers() is None


@pytest.mark.slow
def test_the_edit_of_the_bundled_model_is_that_of_the_whole(lm: LM, tmp_path: Path) -> None:
    part = formless.load("smollm2", device="cpu", layers=7, progress=False)
    assert part.fingerprint == lm.fingerprint
    edits = [formless.unlearn(one, "Albert Einstein", "rocr", redirect="Charles Dickens", progress=False) for one in (part, lm)]
    for edit, name in zip(edits, ("part", "whole"), strict=True):
        edit.save(tmp_path / name)
    one, other = (tmp_path / name / "adapter_model.safetensors" for name in ("part", "whole"))
    assert one.read_bytes() == other.read_bytes()
    refuse_other_bits(*edits)  # type: ignore[arg-type]

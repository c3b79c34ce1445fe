import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from transformers import AutoModelForCausalLM

import formless
import formless.models.overlay
from formless.edits.adapter import AdapterEdit
from formless.edits.export.merged import save_merged
from formless.edits.foreign import WholeModel
from formless.errors import EditError, ModelError
from formless.methods.rocr.statistics import SecondMoments
from formless.models.capture import ResumableForward, capture
from formless.models.lm import LM
from formless.models.overlay import Difference, Factors, Updates
from formless.models.scores import Score, SuffixBudget

Tiny = Callable[..., LM]
Offload = Callable[..., LM]

PROMPTS = ["Ada wrote", "Eve wrote a long letter to Bob about"]
QUERIES = [(prompt, answer) for prompt in PROMPTS for answer in (" code", " a", " books")]
LAYERS = {f"model.layers.{i}": "cpu" if i < 2 else "disk" for i in range(4)}
WAYS = {
    "layers on disk": {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu", **LAYERS},
    "all on disk": {"": "disk"},
    "all on disk, pickled": {"": "disk"},
    "in memory by accelerate": None,
    "on disk by accelerate": None,
}


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def plain(request: pytest.FixtureRequest, tiny: Tiny, tmp_path: Path) -> LM:
    """A model in a folder, from which it is loaded again."""
    lm = tiny(tie_word_embeddings=request.param)
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    return formless.load(str(tmp_path / "model"), device="cpu")


def offloaded(plain: LM, way: str, folder: Path, dtype: torch.dtype = torch.float32) -> LM:
    """Return the same model, offloaded in a way."""
    source = Path(plain.settings.source)
    places: Any = WAYS[way]
    if way.endswith("pickled"):
        torch.save(plain.model.state_dict(), source / "pytorch_model.bin")
        (source / "model.safetensors").rename(folder / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, device_map=places, offload_folder=str(folder / "offload"))
    if way == "in memory by accelerate":
        model = cpu_offload(model, execution_device=torch.device("cpu"))
    if way == "on disk by accelerate":
        model = disk_offload(model, folder / "offload", execution_device=torch.device("cpu"))
    return LM(model, plain.tokenizer, plain.name, settings=plain.settings, fingerprint=plain.fingerprint)


def updates(lm: LM, seed: int) -> Updates:
    """Low-rank updates of a layer that is in memory and one that may be on disk, and a difference to the embedding."""
    generator = torch.Generator().manual_seed(seed)
    names = [lm.architecture.down_projection_name(layer) for layer in (0, 3)]
    shape = lm.model.get_input_embeddings().weight.shape
    found: dict[str, Factors | Difference] = {
        name: Factors(torch.randn(32, 2, generator=generator), torch.randn(2, 48, generator=generator)) for name in names
    }
    return found | {"model.embed_tokens.weight": Difference(torch.randn(shape, generator=generator))}


def bits(lm: LM) -> dict[str, torch.Tensor]:
    return {name: lm.overlay.current(name).clone() for name in lm.model.state_dict()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def answers(lm: LM) -> list[float]:
    scores = lm.score(QUERIES)
    return [value for one in scores if isinstance(one, Score) for value in one.log_probabilities]


@pytest.mark.parametrize("way", WAYS)
def test_everything_that_reads_a_model_gives_the_same_for_offloaded_weights(plain: LM, tmp_path: Path, way: str) -> None:
    lm = offloaded(plain, way, tmp_path)
    assert any(parameter.is_meta for parameter in lm.model.parameters())
    assert lm.device == torch.device("cpu")
    assert answers(lm) == pytest.approx(answers(plain), abs=1e-5)
    assert lm.generate(PROMPTS, max_new_tokens=5) == plain.generate(PROMPTS, max_new_tokens=5)
    for one, other in zip(lm.score_texts(PROMPTS), plain.score_texts(PROMPTS), strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-5)  # type: ignore[union-attr]
    for own, others in zip(lm.score_layers(QUERIES), plain.score_layers(QUERIES), strict=True):
        expected = [each.log_probability for each in others]  # type: ignore[union-attr]
        assert [each.log_probability for each in own] == pytest.approx(expected, abs=1e-5)  # type: ignore[union-attr]
    budget = SuffixBudget(steps=2, candidates=8, top=4)
    found, like = (each.search_suffix("Say !!!! now", "!!!!", " yes", budget) for each in (lm, plain))
    assert (found.text, found.loss) == (like.text, pytest.approx(like.loss, abs=1e-5))  # type: ignore[union-attr]


@pytest.mark.parametrize("way", WAYS)
def test_layers_are_captured_and_passes_resumed(plain: LM, tmp_path: Path, way: str) -> None:
    lm = offloaded(plain, way, tmp_path)
    found: list[torch.Tensor] = []
    expected: list[torch.Tensor] = []
    for each, results in ((lm, found), (plain, expected)):
        batch = each.pad([each.encode(prompt).ids for prompt in PROMPTS])
        activations = capture(each, batch, keys=[1, 3], residuals=[2])
        forward = ResumableForward(each, batch, first=1, last=3)
        first = forward.run(1, key=1)
        with each.overlaid({each.architecture.down_projection_name(2): Factors(torch.ones(32, 1), torch.ones(1, 48))}, {}):
            second = forward.run(2, key=2)
        results += [*activations.keys.values(), *activations.residuals.values()]
        results += [first.residuals[3], first.keys[1], second.residuals[3], second.keys[2]]
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", WAYS)
def test_updates_of_offloaded_weights_come_off_in_any_order_bit_for_bit(
    plain: LM, tmp_path: Path, way: str, dtype: torch.dtype
) -> None:
    like = formless.load(plain.settings.source, device="cpu", dtype=str(dtype).removeprefix("torch."))
    lm = offloaded(plain, way, tmp_path, dtype)
    before, untouched = bits(lm), answers(lm)
    assert same(before, bits(like))
    for order in ((0, 1, 2), (1, 2, 0)):
        added = [updates(lm, seed) for seed in range(3)]
        for one in added:
            lm.overlay.add(one)
            like.overlay.add(one)
        for index in order:
            assert same(bits(lm), bits(like))
            assert answers(lm) == pytest.approx(answers(like), abs=1e-5)  # the passes take the edited weights
            assert answers(lm) != untouched
            lm.overlay.remove(added[index])
            like.overlay.remove(added[index])
        assert same(bits(lm), before)
        assert answers(lm) == untouched


def test_memory_holds_only_the_edited_weights_of_those_on_disk(plain: LM, tmp_path: Path) -> None:
    lm = offloaded(plain, "all on disk", tmp_path)
    memory = lm.model.model.layers[3].mlp.down_proj._hf_hook.weights_map.dataset.state_dict
    name = lm.architecture.down_projection_name(3)
    assert memory == {}
    with lm.overlaid({name: Factors(torch.ones(32, 1), torch.ones(1, 48))}, {}):
        assert list(memory) == [f"{name}.weight"]
        assert torch.equal(lm.overlay.original(f"{name}.weight"), plain.overlay.original(f"{name}.weight"))
    assert memory == {}


def test_an_edit_holds_after_a_pass_that_failed_inside_an_offloaded_module(plain: LM, tmp_path: Path) -> None:
    lm = offloaded(plain, "all on disk", tmp_path)
    module = lm.model.model.layers[3].mlp.down_proj
    inner, module._old_forward = module._old_forward, lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        lm.score(QUERIES)
    module._old_forward = inner
    assert not module.weight.is_meta  # accelerate leaves it in the module
    before = answers(lm)
    with lm.overlaid(updates(lm, 0), {}), plain.overlaid(updates(plain, 0), {}):
        assert answers(lm) == pytest.approx(answers(plain), abs=1e-5)
        assert answers(lm) != before
    assert answers(lm) == before


def test_an_update_for_which_memory_runs_out_leaves_the_weights_as_they_were(
    plain: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = offloaded(plain, "layers on disk", tmp_path)
    before, rest = bits(lm), iter([False, False, True])

    def few(*arguments: Any) -> torch.Tensor:
        if next(rest):
            raise MemoryError
        return dense(*arguments)

    dense = formless.models.overlay.dense_update
    monkeypatch.setattr("formless.models.overlay.dense_update", few)
    with pytest.raises(MemoryError):
        lm.overlay.add(updates(lm, 0))
    assert same(bits(lm), before)
    assert lm.overlay.is_empty


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("settings", [{"redirect": "Bob"}, {"mode": "reject", "steps": 3}])
def test_rocr_makes_the_same_edit_and_report_of_offloaded_layers(
    plain: LM, tmp_path: Path, way: str, settings: dict[str, Any]
) -> None:
    lm = offloaded(plain, way, tmp_path)
    # Not the last layer: nothing reads what is added there, and a refusing vector would follow rounding errors.
    options: dict[str, Any] = settings | {"layers": [0, 1, 2], "basis": "none", "progress": False}
    found, expected = (formless.unlearn(each, "Ada", "rocr", **options) for each in (lm, plain))
    assert isinstance(found, AdapterEdit)
    assert isinstance(expected, AdapterEdit)
    for name, factors in expected.updates.items():
        assert torch.allclose(found.updates[name].dense(), factors.dense(), rtol=1e-4, atol=1e-6)
    assert [one.relative_norm for one in found.info.layers] == pytest.approx(
        [one.relative_norm for one in expected.info.layers], rel=1e-4
    )


@pytest.mark.parametrize("way", WAYS)
def test_statistics_of_offloaded_layers_are_the_same_and_resumed(plain: LM, tmp_path: Path, way: str) -> None:
    lm = offloaded(plain, way, tmp_path)
    sums = []
    for each in (lm, plain):
        begun, resumed = (SecondMoments(each, [1, 3], {}) for _ in range(2))
        begun.add(PROMPTS[:1], 64)
        begun.save(tmp_path / "sums.safetensors")
        resumed.resume(tmp_path / "sums.safetensors", iter(PROMPTS[:1]))
        resumed.add(PROMPTS[1:], 64)
        sums.append(resumed.sums)
    assert all(torch.allclose(sums[0][layer], sums[1][layer], rtol=1e-5) for layer in (1, 3))


@pytest.mark.parametrize("way", WAYS)
def test_a_merged_model_and_a_whole_model_are_read_beside_offloaded_weights(plain: LM, tmp_path: Path, way: str) -> None:
    edit = formless.unlearn(plain, "Ada", "rocr", redirect="Bob", layers=[1, 2, 3], basis="none", progress=False)
    lm = offloaded(plain, way, tmp_path)
    answers(lm)  # accelerate forgets which weights are tied
    save_merged(edit, lm, tmp_path / "merged")
    save_merged(edit, plain, tmp_path / "like")
    whole, other = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("merged", "like"))
    assert same(whole.state_dict(), other.state_dict())
    with WholeModel(edit.info, tmp_path / "merged").on(lm).applied(lm), edit.applied(plain):
        assert same(bits(lm), bits(plain))


def test_what_needs_gradients_of_offloaded_weights_is_refused(plain: LM, tmp_path: Path) -> None:
    lm = offloaded(plain, "layers on disk", tmp_path)
    with pytest.raises(ModelError, match="a quantized or offloaded weight has no gradient"):
        lm.gradient_norms(["Ada wrote"])
    with pytest.raises(EditError, match="cannot train beside"):
        formless.unlearn(lm, formless.find_target("sample", "Albert Einstein"), "ga", progress=False)


def test_a_model_without_any_weights_is_not_edited(plain: LM) -> None:
    lm = LM(copy.deepcopy(plain.model).to("meta"), plain.tokenizer, "none", settings=plain.settings, fingerprint="none")
    with pytest.raises(EditError, match="cannot edit a weight .* on meta"):
        lm.overlay.add(updates(lm, 0))

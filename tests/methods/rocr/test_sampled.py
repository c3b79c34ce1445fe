"""Null spaces of texts that the model samples: made once, with their cost said first, and kept."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import formless
from formless import store
from formless.edits.adapter import AdapterEdit
from formless.errors import EditError
from formless.methods.rocr import sampled
from formless.methods.rocr.config import RocrConfig
from formless.methods.rocr.nullspace import load_projection
from formless.methods.rocr.redirect import load_projections
from formless.models.capture import capture
from formless.models.lm import LM
from formless.models.sampled_texts import SampledTexts

Tiny = Callable[..., LM]
LAYERS, THRESHOLD = (1, 2), 1e-5


class Steps(list[tuple[str, int, int]]):
    """Every progress report; the one with the given number of texts done is answered with Ctrl-C."""

    stop_at: int | None = None

    def __call__(self, step: str, done: int, total: int) -> None:
        self.append((step, done, total))
        if done == self.stop_at:
            raise KeyboardInterrupt


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; 192 texts of 16 tokens are sampled."""
    monkeypatch.setenv("FORMLESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sampled, "SAMPLES", 192)
    monkeypatch.setattr(sampled, "CHECKPOINT_EVERY", 64)
    monkeypatch.setattr("formless.models.sampled_texts.LENGTH", 16)
    return tmp_path / "cache" / "null_spaces"


def project(lm: LM, report: Steps, layers: tuple[int, ...] = LAYERS, threshold: float = THRESHOLD) -> torch.Tensor:
    """Return what the projections leave of some keys."""
    found = sampled.sampled_projections(lm, layers, threshold, report)
    keys = torch.linspace(-1, 1, 96).reshape(2, 48)
    return torch.stack([found[layer].apply(keys) for layer in layers])


def names(cache: Path) -> list[str]:
    """Return what lies in the cache, but for locks."""
    return [path.name for path in cache.iterdir() if path.suffix != ".lock"]


def test_the_first_use_says_what_it_costs_and_the_next_takes_what_is_kept(
    tiny: Tiny, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, steps, again = tiny(), Steps(), Steps()
    made = project(lm, steps)
    said, done, total = steps[0]
    assert said.startswith("null spaces of 192 texts that the model samples, at most 3,072 tokens: about ")
    assert said.endswith(f" s, once; kept in {cache} (at most 0 MB)")
    assert (done, total) == (0, 0)
    assert [(done, total) for _, done, total in steps[1:]] == [(64, 192), (128, 192), (192, 192)]

    monkeypatch.setattr(SampledTexts, "__next__", lambda _: pytest.fail("the model is asked for texts again"))
    assert torch.equal(project(tiny(), again), made)
    assert again == []
    (folder,) = names(cache)
    fingerprint = load_projection(lm, cache / folder, 1, THRESHOLD).describe()
    assert (fingerprint["corpus"], fingerprint["samples"]) == ("sampled:0", 192)
    assert 192 < fingerprint["tokens"] <= 192 * 3 * 24


def test_another_model_layer_threshold_or_dtype_has_its_own(tiny: Tiny, cache: Path) -> None:
    folders = {
        sampled.kept_folder(lm, layers, threshold)
        for lm, layers, threshold in (
            (tiny(), [1], 0.02), (tiny(seed=1), [1], 0.02), (tiny(), [2], 0.02), (tiny(), [1, 2], 0.02), (tiny(), [1], 0.01),
            (tiny(dtype=torch.bfloat16), [1], 0.02),
        )
    }  # fmt: skip
    assert len(folders) == 6
    assert sampled.kept_folder(tiny(), [1], 0.02) in folders


def test_a_stopped_computation_leaves_nothing_to_load_and_goes_on(tiny: Tiny, cache: Path) -> None:
    lm, stopped, steps = tiny(), Steps(), Steps()
    stopped.stop_at = 192
    with pytest.raises(KeyboardInterrupt):
        project(lm, stopped)
    folder = sampled.kept_folder(lm, LAYERS, THRESHOLD)
    assert names(cache) == [store.StatisticsFolder(folder).unfinished.name]
    resumed = project(lm, steps)
    assert [done for _, done, _ in steps] == [0, 192]  # the first 128 texts are not sampled again
    assert names(cache) == [folder.name]
    store.remove_folder(folder)
    assert torch.equal(project(lm, Steps()), resumed)


def test_kept_files_that_cannot_be_read_are_made_again(tiny: Tiny, cache: Path) -> None:
    lm = tiny()
    made = project(lm, Steps())
    file = store.StatisticsFolder(sampled.kept_folder(lm, LAYERS, THRESHOLD)).basis(2)
    for damage in (lambda: file.write_bytes(b"half"), file.unlink):
        damage()
        with pytest.warns(UserWarning, match="the kept null spaces are made again: "):
            assert torch.equal(project(lm, Steps()), made)


def test_a_cache_that_cannot_be_written_is_said_before_anything_is_sampled(
    tiny: Tiny, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.write_text("a file")
    monkeypatch.setattr(SampledTexts, "__next__", lambda _: pytest.fail("texts are sampled for nothing"))
    with pytest.raises(EditError, match="the null spaces cannot be kept: .*set FORMLESS_CACHE to another folder"):
        project(tiny(), Steps())


def test_unlearn_makes_what_is_missing(tiny: Tiny, cache: Path) -> None:
    lm, steps = tiny(), Steps()
    options = {"basis": "sampled", "layers": LAYERS, "threshold": THRESHOLD, "redirect": "Bob", "l2": 1e-6}
    edit = formless.unlearn(lm, "Ada", method="rocr", progress=steps, **options)
    assert steps[0][0].startswith("null spaces of 192 texts")
    assert isinstance(edit, AdapterEdit)
    spaces = edit.info.facts["null_spaces"]
    assert {layer: found["corpus"] for layer, found in spaces.items()} == {"1": "sampled:0", "2": "sampled:0"}
    kept = load_projections(lm, RocrConfig(basis="sampled", layers=LAYERS, threshold=THRESHOLD))
    name = lm.architecture.down_projection_name(1)
    down = edit.updates[name].down  # an update lies in the null space
    assert torch.allclose(kept[1].apply(down), down, atol=1e-4 * float(down.abs().max()))
    del steps[:]
    formless.unlearn(lm, "Cyd", method="rocr", progress=steps, **options)
    assert steps == []


def test_a_null_space_that_holds_nothing_is_an_error_and_is_not_kept(tiny: Tiny, cache: Path) -> None:
    with pytest.raises(EditError, match="no eigenvalue of layer 1 is under 1e-12"):
        project(tiny(), Steps(), threshold=1e-12)
    assert not [name for name in names(cache) if not name.endswith(".partial.safetensors")]


@pytest.mark.slow
def test_texts_of_the_real_model_preserve_more_of_ordinary_text_than_a_random_subspace(
    lm: LM, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampled, "SAMPLES", 64)
    (projection,) = sampled.sampled_projections(lm, [4], 0.02, Steps()).values()
    sentence = "The museum opened in 1921 and was moved to a larger building by the river after the flood of the year before."
    keys = capture(lm, lm.pad([lm.encode(sentence).ids]), keys=[4]).keys[4][0, 1:]  # the first token's key is far larger
    fingerprint = projection.describe()
    leak = float(projection.apply(keys).square().sum() / keys.square().sum())
    assert 0 < leak < 0.9 * fingerprint["rank"] / fingerprint["dimension"]

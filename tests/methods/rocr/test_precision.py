"""The edit is computed in float32 whatever the model's format: only the model's own rounding is left."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import formless
from formless import store
from formless.errors import EditError
from formless.methods.keys.closed_form import Identity, closed_form
from formless.methods.rocr.nullspace import BasisProjection, Fingerprint, from_second_moment, load_projection
from formless.methods.rocr.statistics import SecondMoments
from formless.models.lm import LM

Tiny = Callable[..., LM]


def _updates(lm: LM, subject: str, *method: str, **options: Any) -> dict[str, Any]:
    edit: Any = formless.unlearn(lm, subject, *method, **options)
    return dict(edit.updates)


BFLOAT16 = torch.finfo(torch.bfloat16).eps  # 0.8 %
HALVES = [torch.bfloat16, torch.float16]
FINGERPRINT = Fingerprint(
    model="m", model_fingerprint="f", layer=1, corpus="c", samples=1, tokens=1,
    threshold=2e-2, rank=9, dimension=300, spectrum=(),
)  # fmt: skip


def in_float32(lm: LM) -> LM:
    """The very same weights, computed with in float32."""
    return replace(lm, model=copy.deepcopy(lm.model).float())


def difference(found: Tensor, expected: Tensor) -> float:
    return float(torch.linalg.norm(found - expected) / torch.linalg.norm(expected))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen3", "gpt2", "gpt_neox", "gemma2", "phi3"])
def test_a_model_in_half_precision_gets_the_edit_of_its_float32_copy(tiny: Tiny, model_type: str, dtype: torch.dtype) -> None:
    lm = tiny(model_type, dtype=dtype)
    rounded, exact = (
        _updates(model, "Ada", "rocr", layers=(1, 2), basis="none", redirect="Bob") for model in (lm, in_float32(lm))
    )
    for name, factors in exact.items():
        assert rounded[name].up.dtype == rounded[name].down.dtype == torch.float32
        error = difference(rounded[name].dense(), factors.dense())
        assert 0 < error < 3 * torch.finfo(dtype).eps


def test_the_real_model_in_bfloat16_gets_the_edit_of_its_float32_copy() -> None:
    lm = formless.load("smollm2", dtype="bfloat16", device="cpu")
    rounded, exact = (_updates(model, "Albert Einstein", "rocr") for model in (lm, in_float32(lm)))
    for name, factors in exact.items():
        assert 0 < difference(rounded[name].dense(), factors.dense()) < 4 * BFLOAT16


@pytest.mark.parametrize("dtype", HALVES)
def test_the_solve_loses_nothing_of_keys_in_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    keys, residuals = torch.randn(2, 40).to(dtype), torch.randn(2, 12).to(dtype)
    keys[1] = keys[0] + keys[1] / 64  # nearly the same key: a solve in half precision would lose it
    found = closed_form(keys, residuals, Identity(), 1e-3).dense()
    exact_keys, exact_residuals = keys.double(), residuals.double()
    gram = exact_keys @ exact_keys.T + 1e-3 * torch.eye(2, dtype=torch.double)
    assert difference(found.double(), exact_residuals.T @ torch.linalg.solve(gram, exact_keys)) < 1e-5


def test_second_moments_of_a_bfloat16_model_are_those_of_its_float32_copy(tiny: Tiny) -> None:
    lm = tiny(dtype=torch.bfloat16)
    texts = [f"Ada wrote {n} programs." for n in range(70)]
    means = []
    for model in (lm, in_float32(lm)):
        moments = SecondMoments(model, [1], {})
        moments.add(texts, max_tokens=64)
        means.append(moments.mean(1))
    assert means[0].dtype == torch.double
    assert 0 < difference(*means) < BFLOAT16


@pytest.mark.parametrize("largest", [1.0, 1e6])
def test_a_large_eigenvalue_does_not_blur_the_null_space(largest: float) -> None:
    """Beside 1e6, float32 would round eigenvalues by more than the threshold."""
    torch.manual_seed(0)
    vectors, _ = torch.linalg.qr(torch.randn(60, 60, dtype=torch.double))
    values = torch.cat([torch.full((20,), 1e-2), torch.full((39,), 4e-2), torch.tensor([largest])]).double()
    basis, spans_null_space, found = from_second_moment(vectors * values @ vectors.T, 2e-2)
    assert spans_null_space
    assert torch.allclose(found, values, rtol=1e-4)
    expected = vectors[:, :20] @ vectors[:, :20].T
    assert torch.allclose((basis @ basis.T).double(), expected, atol=1e-4)


@pytest.mark.parametrize("largest", [1.0, 1e6], ids=["float32", "float64"])
@pytest.mark.parametrize(("size", "rank"), [(1, 0), (1, 1), (2, 1), (3, 2), (60, 0), (60, 7), (60, 30), (60, 55), (60, 60)])
def test_the_smaller_side_is_orthonormal_and_spans_what_it_should(size: int, rank: int, largest: float) -> None:
    torch.manual_seed(0)
    vectors, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.double))
    values = torch.cat([torch.linspace(1e-3, 1e-2, rank), torch.logspace(-1, 0, size - rank) * largest]).double()
    moment = torch.zeros(2 * size, 2 * size, dtype=torch.double)
    moment[::2, ::2] = vectors * values @ vectors.T
    basis, spans_null_space, found = from_second_moment(moment[::2, ::2], 2e-2)
    kept = vectors[:, :rank] if spans_null_space else vectors[:, rank:]
    assert (basis.shape, basis.dtype, basis.is_contiguous()) == (kept.shape, torch.float32, True)
    assert kept.shape[1] <= size / 2
    assert torch.allclose(basis.T @ basis, torch.eye(kept.shape[1]), atol=2e-6)
    assert torch.allclose((basis @ basis.T).double(), kept @ kept.T, atol=1e-4)
    assert torch.allclose(found, values, rtol=1e-4)
    assert float(moment.diagonal().sum()) == pytest.approx(float(values.sum()))  # it is as it was


@pytest.mark.parametrize("dtype", HALVES)
def test_a_basis_rounded_when_stored_projects_as_exactly_as_its_span(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    stored = torch.linalg.qr(torch.randn(300, 90))[0].to(dtype)
    keys = torch.randn(3, 300)
    span, _ = torch.linalg.qr(stored.double())
    expected = (keys.double() @ span) @ span.T
    projection = BasisProjection(stored.float(), True, FINGERPRINT, is_rounded=True)
    assert difference(projection.apply(keys).double(), expected) < 1e-6
    assert difference(replace(projection, is_rounded=False).apply(keys).double(), expected) > 1e-4


def test_a_rounded_basis_is_known_as_one_however_it_is_stored_again(tiny: Tiny, tmp_path: Path) -> None:
    lm = tiny()
    print_ = FINGERPRINT.model_copy(update={"model_fingerprint": lm.fingerprint, "dimension": 48})
    exact = BasisProjection(torch.linalg.qr(torch.randn(48, 9))[0], True, print_)
    exact.save(tmp_path / "exact")
    exact.save(tmp_path / "half", dtype=torch.bfloat16)
    found: list[Any] = [load_projection(lm, tmp_path / name, 1, 2e-2) for name in ("exact", "half")]
    assert [projection.is_rounded for projection in found] == [False, True]
    found[1].save(tmp_path / "again")
    again: Any = load_projection(lm, tmp_path / "again", 1, 2e-2)
    assert again.is_rounded


def test_a_basis_of_a_newer_version_is_refused_with_that_reason(tiny: Tiny, tmp_path: Path) -> None:
    metadata = {"fingerprint": FINGERPRINT.model_dump_json(), "schema_version": str(store.STATISTICS_SCHEMA + 1)}
    save_file({"basis": torch.eye(48, 3)}, store.StatisticsFolder(tmp_path).basis(1), metadata=metadata)
    with pytest.raises(EditError, match=r"the basis was written by a newer formless .*: upgrade formless"):
        load_projection(tiny(), tmp_path, 1, 2e-2)

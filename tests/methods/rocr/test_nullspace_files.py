"""What lies in a null space's file is verified before an edit is made with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from formless import store
from formless.errors import EditError
from formless.methods.rocr import nullspace
from formless.methods.rocr.nullspace import BasisProjection, DenseProjection, Fingerprint, _load_basis, load_projection
from formless.models.lm import LM

Tiny = Callable[..., LM]
WIDTH, RANK = 48, 9
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHIPPED = sorted((Path(nullspace.__file__).parent / "bases").rglob("layer_*.safetensors"))


def orthonormal(width: int = WIDTH, rank: int = RANK) -> Tensor:
    torch.manual_seed(0)
    return torch.linalg.qr(torch.randn(width, rank))[0]


@pytest.fixture
def model(tiny: Tiny) -> LM:
    return tiny()


@pytest.fixture
def path(model: LM, tmp_path: Path) -> Path:
    """A valid file of layer 1, whose basis spans the complement; as an older one, without a hash."""
    fingerprint = Fingerprint(
        model="m", model_fingerprint=model.fingerprint, layer=1, corpus="c", samples=1, tokens=1,
        threshold=2e-2, rank=WIDTH - RANK, dimension=WIDTH, spectrum=(1.0,),
    )  # fmt: skip
    BasisProjection(orthonormal(), False, fingerprint).save(tmp_path)
    path = store.StatisticsFolder(tmp_path).basis(1)
    rewrite(path, content_sha256=None)
    return path


def rewrite(path: Path, change: Callable[[Tensor], Tensor] = lambda basis: basis, **metadata: str | None) -> None:
    with safe_open(path, framework="pt") as file:
        fields: dict[str, Any] = (file.metadata() or {}) | metadata
    basis = load_file(path)["basis"]
    kept = {name: value for name, value in fields.items() if value is not None}
    save_file({"basis": change(basis).contiguous()}, path, metadata=kept)


def refusal(model: LM, path: Path) -> str:
    with pytest.raises(EditError) as caught:
        load_projection(model, path.parent, 1, 2e-2)
    assert caught.value.where == path
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_bases_pass(shipped: Path) -> None:
    projection = _load_basis(shipped)
    assert projection.is_rounded
    assert not projection.spans_null_space
    assert projection.basis.shape == (1536, 1536 - projection.fingerprint.rank)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "rank"), [(48, 0), (48, 1), (48, 24), (2000, 400)])
def test_a_rounded_basis_passes_in_each_dtype(path: Path, dtype: torch.dtype, width: int, rank: int) -> None:
    fields = json.loads(_load_basis(path).fingerprint.model_dump_json()) | {"rank": width - rank, "dimension": width}
    fingerprint, basis = json.dumps(fields), orthonormal(width, rank).to(dtype)
    rewrite(path, lambda _: basis, fingerprint=fingerprint, is_rounded=str(dtype != torch.float32))
    assert torch.equal(_load_basis(path).basis, basis.float())
    rewrite(path, lambda _: basis.float(), is_rounded="True")  # as one that was rounded and saved again
    assert _load_basis(path).is_rounded


def with_column(basis: Tensor, column: Tensor | float) -> Tensor:
    changed = basis.clone()
    changed[:, 4] = column
    return changed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (torch.zeros_like, "not orthonormal"),
        (lambda basis: basis * 1.1, "not orthonormal"),
        (lambda basis: with_column(basis, 0.0), "not orthonormal (column 4 is off by 1 in its squared norm)"),
        (lambda basis: with_column(basis, basis[:, 3]), "not orthonormal"),
        (lambda basis: with_column(basis, basis[:, 4] * 1.1), "not orthonormal (column 4"),
        (lambda basis: with_column(basis, float("nan")), "not finite"),
        (lambda basis: with_column(basis, float("inf")), "not finite"),
        (lambda basis: basis.T, "the basis is [9, 48], but its fingerprint says [48, 9]"),
        (lambda basis: basis[:, :8], "the basis is [48, 8], but"),
        (lambda basis: basis[0], "the basis is [9], but"),
        (lambda basis: (basis * 100).int(), "the dtype int32, which is no float"),
        (lambda basis: basis.to(torch.float8_e4m3fn), "the dtype float8_e4m3fn, which is no float"),
    ],
)  # fmt: skip
def test_a_basis_that_is_none_is_refused(
    model: LM, path: Path, dtype: torch.dtype, change: Callable[[Tensor], Tensor], said: str
) -> None:
    rewrite(path, lambda basis: basis.to(dtype), is_rounded=str(dtype != torch.float32))
    load_projection(model, path.parent, 1, 2e-2)
    rewrite(path, change)
    assert said in refusal(model, path)


@pytest.mark.parametrize("dtype", DTYPES)
def test_another_orthonormal_basis_is_refused_by_its_hash(model: LM, path: Path, dtype: torch.dtype) -> None:
    before = _load_basis(path)
    before.save(path.parent, dtype=dtype)
    assert torch.equal(_load_basis(path).basis, before.basis.to(dtype).float())
    rewrite(path, lambda basis: basis.flip(0))
    assert "its content is not what was written: the hash (content_sha256) differs" in refusal(model, path)


def test_an_empty_basis_is_saved_and_read(path: Path) -> None:
    before = _load_basis(path)
    fingerprint = before.fingerprint.model_copy(update={"rank": WIDTH})
    BasisProjection(torch.zeros(WIDTH, 0), False, fingerprint).save(path.parent)
    assert _load_basis(path).basis.shape == (WIDTH, 0)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"spans_null_space": "True"}, "the basis is [48, 9], but its fingerprint says [48, 39]"),
        ({"spans_null_space": "true"}, "spans_null_space is 'true', neither 'True' nor 'False'"),
        ({"spans_null_space": None}, "spans_null_space is None, neither"),
        ({"is_rounded": "1"}, "is_rounded is '1', neither"),
        ({"schema_version": "0"}, "the schema version is 0, not 1 or later"),
        ({"schema_version": "x"}, "the basis cannot be read: invalid literal"),
        ({"fingerprint": None}, "the basis cannot be read: 'fingerprint'"),
        ({"fingerprint": "{"}, "the field fingerprint of the basis is wrong: Invalid JSON"),
    ],
)
def test_wrong_metadata_is_refused(model: LM, path: Path, metadata: dict[str, str | None], said: str) -> None:
    rewrite(path, **metadata)
    assert said in refusal(model, path)


def test_a_half_precision_basis_that_says_it_is_exact_is_refused(model: LM, path: Path) -> None:
    rewrite(path, lambda basis: basis.half(), is_rounded="False")
    assert "is_rounded is 'False', but the basis is stored in float16" in refusal(model, path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("rank", -1), ("rank", 38), ("rank", "x"), ("rank", None), ("dimension", 0), ("dimension", 49), ("layer", 2),
     ("threshold", 0.5), ("threshold", "nan"), ("model_fingerprint", "other"), ("spectrum", [float("inf")])],
)  # fmt: skip
def test_each_field_of_the_fingerprint_is_checked(model: LM, path: Path, field: str, value: object) -> None:
    fields = json.loads(_load_basis(path).fingerprint.model_dump_json())
    rewrite(path, fingerprint=json.dumps(fields | {field: value}))
    assert any(word in refusal(model, path) for word in (field, field.replace("_", " "), "its fingerprint says"))
    del fields[field]
    rewrite(path, fingerprint=json.dumps(fields))
    assert f"the field fingerprint.{field} of the basis is wrong: Field required" in refusal(model, path)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return store.StatisticsFolder(tmp_path).published(1)


def matrix() -> Tensor:
    basis = orthonormal()
    return torch.eye(WIDTH) - basis @ basis.T


@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES])
def test_a_published_projection_passes_in_each_dtype(model: LM, published: Path, dtype: torch.dtype) -> None:
    torch.save(matrix().to(dtype), published)
    projection = load_projection(model, published.parent, 1, 2e-2)
    assert isinstance(projection, DenseProjection)
    assert torch.equal(projection.matrix, matrix().to(dtype).float())


def with_element(value: float) -> Tensor:
    changed = matrix()
    changed[7, 3] = value
    return changed


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda: matrix() * 1.1, "the matrix is not idempotent (P P = P): no projection"),
        (lambda: torch.randn(WIDTH, WIDTH), "the matrix is not symmetric"),
        (lambda: with_element(1.0), "the matrix is not symmetric"),
        (lambda: with_element(float("nan")), "not finite"),
        (lambda: with_element(float("-inf")), "not finite"),
        (lambda: torch.zeros(WIDTH, WIDTH), "the projection is zero"),
        (lambda: matrix().round().int(), "no matrix of floats (int32, strided, cpu)"),
        (lambda: matrix().to(torch.complex64), "no matrix of floats (complex64"),
        (lambda: matrix().to_sparse(), "no matrix of floats (float32, sparse_coo"),
        (lambda: matrix()[:5], "the projection is (5, 48), not (48, 48)"),
        (lambda: {"P": matrix()}, "the projection is dict, not (48, 48)"),
    ],
)
def test_a_published_matrix_that_is_no_projection_is_refused(
    model: LM, published: Path, changed: Callable[[], object], said: str
) -> None:
    torch.save(changed(), published)
    assert said in refusal(model, published)


def test_files_cut_short_are_refused(model: LM, path: Path, published: Path) -> None:
    torch.save(matrix(), published)
    for file in (path, published):
        content = file.read_bytes()
        for share in (0, 1, 2, 3):
            file.write_bytes(content[: len(content) * share // 4])
            assert "cannot be read" in refusal(model, file)
        file.unlink()

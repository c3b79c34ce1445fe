"""The preserved knowledge of a layer: the projection onto the null space of its keys."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from scipy.linalg import eigh_tridiagonal, eigvalsh_tridiagonal, get_lapack_funcs
from torch import Tensor

from formless import store
from formless.errors import EditError
from formless.methods.keys.closed_form import Projection
from formless.methods.rocr.nullspace_checks import REMEDY, check_basis, check_matrix, read_flag
from formless.models.families import projection_shape
from formless.models.lm import LM

Array = npt.NDArray[np.floating[Any]]

PUBLISHED_THRESHOLD = 2e-2

# Eigenvalues are computed in float32 if its rounding error is under this share of the threshold, else in float64.
NEGLIGIBLE = 1e-3

# Rounds after which a basis stored in half precision projects as exactly as one in float32.
ROUNDS = 3


class Fingerprint(BaseModel):
    """The provenance of a basis.

    Args:
        model: Name of the model.
        model_fingerprint: `LM.fingerprint`.
        layer: The layer.
        corpus: Name of the corpus.
        samples: Number of texts.
        tokens: Number of tokens.
        threshold: Eigenvalues under it span the null space.
        rank: Dimension of the null space.
        dimension: Dimension of the keys.
        spectrum: Trace, and quantiles 0, 0.25, 0.5, 0.75, 0.95, 1 of the eigenvalues.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    model: str
    model_fingerprint: str
    layer: int
    corpus: str
    samples: int
    tokens: int
    threshold: float
    rank: int = Field(ge=0)
    dimension: int = Field(ge=1)
    spectrum: tuple[float, ...]


@dataclass(frozen=True)
class DenseProjection:
    """A published matrix P `[d, d]`."""

    matrix: Tensor
    path: Path

    def apply(self, keys: Tensor) -> Tensor:
        """Compute P k for keys `[n, d]` (P is symmetric)."""
        return keys @ self.matrix.to(keys)

    def describe(self) -> dict[str, Any]:
        """Return the name of the file."""
        return {"kind": "published", "file": self.path.name}


@dataclass(frozen=True)
class BasisProjection:
    """P as an orthonormal basis of the smaller of the two subspaces.

    Args:
        basis: `[d, rank]`.
        spans_null_space: Whether the basis spans the null space (P = U U^T) or its complement (P = I - U U^T).
        fingerprint: Its provenance.
        is_rounded: Whether it was stored in half precision, so that it is orthonormal to three digits only. Further rounds of
            projection correct for that, since only the span matters.
    """

    basis: Tensor
    spans_null_space: bool
    fingerprint: Fingerprint
    is_rounded: bool = False

    def apply(self, keys: Tensor) -> Tensor:
        """Compute P k for keys `[n, d]`."""
        basis = self.basis.to(keys.dtype)
        own = keys.to(basis.device)  # few keys go where the basis is, which may be a GPU
        inside = (own @ basis) @ basis.T
        for _ in range(ROUNDS - 1 if self.is_rounded else 0):
            inside = inside + ((own - inside) @ basis) @ basis.T
        return (inside if self.spans_null_space else own - inside).to(keys.device)

    def describe(self) -> dict[str, Any]:
        """Return the fingerprint."""
        return {"kind": "basis"} | self.fingerprint.model_dump()

    def save(self, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write `layer_<l>.safetensors` with the fingerprint in its metadata."""
        stored = self.basis.to("cpu", dtype)
        metadata = {
            "fingerprint": self.fingerprint.model_dump_json(),
            "spans_null_space": str(self.spans_null_space),
            "is_rounded": str(self.is_rounded or dtype != torch.float32),
            "schema_version": str(store.STATISTICS_SCHEMA),
        }
        store.write_tensors(store.StatisticsFolder(folder).basis(self.fingerprint.layer), {"basis": stored}, metadata)


def from_second_moment(moment: Tensor, threshold: float) -> tuple[Tensor, bool, Tensor]:
    """Split the eigenvectors of a second moment at a threshold (paper, section "preserved knowledge").

    Differs from the paper: the moment is symmetric, so that eigenvectors are computed instead of singular vectors. Its
    tridiagonal form gives all eigenvalues, and only the eigenvectors of the smaller side are computed.

    LAPACK's steps are called one by one because no ready-made solver returns all eigenvalues and a part of the eigenvectors
    from one reduction to tridiagonal form. Measured at d = 4,096 with a fifth of the eigenvalues above the threshold, in CPU
    seconds on one thread (`python -m benchmarks.nullspace`, docs/results/nullspace.json): `torch.linalg.eigh` takes 2.1 times
    as long, `scipy.linalg.eigvalsh` followed by `scipy.linalg.eigh(subset_by_index=...)` 1.5 times (drivers evr and evx
    alike); at d = 1,536 the ratios are 1.4 and 1.3. The subset by itself, without the eigenvalues that select it, takes 0.9
    (d = 4,096) and 0.8 times as long.

    Args:
        moment: `[d, d]`, symmetric, uncentred: the mean of k k^T, in float64.
        threshold: Eigenvalues under it belong to the null space.

    Returns:
        A basis of the smaller side `[d, rank]` in float32, whether that side is the null space, and the eigenvalues `[d]`,
        float64; on the CPU.
    """
    rounding = torch.finfo(torch.float32).eps * float(torch.linalg.norm(moment))
    dtype = torch.float32 if rounding < NEGLIGIBLE * threshold else torch.float64
    # LAPACK overwrites this copy. It needs Fortran order, which the transpose of a symmetric matrix has.
    reflectors, diagonal, subdiagonal, scales = _tridiagonal(moment.to("cpu", dtype, copy=True).numpy().T)
    values = eigvalsh_tridiagonal(diagonal, subdiagonal)  # ascending
    rank = int((values < threshold).sum())
    spans_null_space = rank <= len(values) - rank
    first, last = (0, rank - 1) if spans_null_space else (rank, len(values) - 1)
    vectors: Array = np.zeros((len(values), 0))
    if first <= last:
        chosen = {"select": "i", "select_range": (first, last)}
        _, inner = eigh_tridiagonal(diagonal, subdiagonal, lapack_driver="stemr", **chosen)  # orthogonal also within clusters
        vectors = _rotated_back(reflectors, scales, inner)
    return torch.from_numpy(np.ascontiguousarray(vectors, np.float32)), spans_null_space, torch.from_numpy(values)


def _tridiagonal(matrix: Array) -> tuple[Array, Array, Array, Array]:
    """Compute the tridiagonal form T = Q^T M Q of a symmetric M, which is overwritten.

    Returns:
        Q's Householder vectors, T's diagonal and subdiagonal, in float64, and the scales of the vectors.
    """
    sytrd, workspace = get_lapack_funcs(("sytrd", "sytrd_lwork"), (matrix,))
    lwork = int(workspace(len(matrix), lower=1)[0])
    reflectors, diagonal, subdiagonal, scales, _ = sytrd(matrix, lower=1, lwork=lwork, overwrite_a=1)
    return reflectors, diagonal.astype(np.float64), subdiagonal.astype(np.float64), scales


def _rotated_back(reflectors: Array, scales: Array, vectors: Array) -> Array:
    """Compute Q V `[d, rank]` for eigenvectors V of the tridiagonal form.

    Q does not change the first row. Its Householder vectors begin under the diagonal, one row lower in every column. Seen from
    the second element on, the same memory holds them from the diagonal on, which is the layout of a QR decomposition.
    """
    size = len(reflectors)
    shifted = reflectors.ravel("K")[1 : 1 + size * (size - 1)].reshape(size, size - 1, order="F")
    below = np.array(vectors[1:], reflectors.dtype, order="F")
    (ormqr,) = get_lapack_funcs(("ormqr",), (reflectors,))
    lwork = int(ormqr("L", "N", shifted, scales, below, -1)[1][0])
    rotated, _, _ = ormqr("L", "N", shifted, scales, below, lwork, overwrite_c=1)
    return np.concatenate([vectors[:1], rotated])


def find_projection(folder: Path, layer: int, threshold: float, *, dimension: int, model: str) -> Path:
    """Return the file of a layer's projection, our basis or else the published matrix; no matrix is read.

    Args:
        folder: The folder of null spaces.
        layer: The layer.
        threshold: Eigenvalues under it span the null space.
        dimension: Of the layer's keys.
        model: The model's name, for errors.

    Raises:
        EditError: Neither exists, the basis cannot be read, or it is for another layer, threshold or dimension.
    """
    ours, published = store.StatisticsFolder(folder).basis(layer), store.StatisticsFolder(folder).published(layer)
    if os.path.lexists(ours):
        if not ours.is_file():
            raise EditError("the basis cannot be read: it is no plain file", where=ours, remedy=REMEDY)
        with _reading(ours), safe_open(ours, framework="pt") as file:
            metadata = file.metadata() or {}
            fingerprint = Fingerprint.model_validate_json(metadata["fingerprint"])
            version = int(metadata.get("schema_version", "1"))
        _check_version(version, ours)
        _compare(fingerprint, {"layer": layer, "threshold": threshold, "dimension": dimension}, ours)
        return ours
    if os.path.lexists(published):
        if threshold != PUBLISHED_THRESHOLD:
            what = f"the published projections have the threshold {PUBLISHED_THRESHOLD}, not {threshold}"
            raise EditError(what, where=published, remedy=REMEDY)
        return published
    raise EditError(f"no null space for layer {layer} of {model}", where=folder, remedy=REMEDY)


def load_projection(lm: LM, folder: Path, layer: int, threshold: float) -> Projection:
    """Read the projection of one layer: our basis, or else the published matrix.

    Args:
        lm: The model.
        folder: The folder of null spaces.
        layer: The layer.
        threshold: Eigenvalues under it span the null space.

    Raises:
        EditError: Neither exists, it cannot be read, is no projection, or was made for another model, layer or threshold.
    """
    width = projection_shape(lm.architecture.down_projection(lm.model, layer))[1]
    path = find_projection(folder, layer, threshold, dimension=width, model=lm.settings.name)
    if path.suffix == ".safetensors":
        projection = _load_basis(path)
        _compare(projection.fingerprint, {"model_fingerprint": lm.fingerprint}, path)
        return projection
    try:
        _refuse_changed_archive(path)
        matrix = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises whatever the archive's reader does
        raise EditError("the published projection cannot be read", where=path, remedy=_first_line(error)) from error
    return DenseProjection(check_matrix(matrix, width, path), path)


def _check_version(version: int, path: Path) -> None:
    if version > store.STATISTICS_SCHEMA:
        raise EditError("the basis was written by a newer formless", where=path, remedy="upgrade formless")
    if version < 1:
        raise EditError(f"the schema version is {version}, not 1 or later", where=path, remedy=REMEDY)


def _compare(found: Fingerprint, expected: Mapping[str, object], path: Path) -> None:
    for name, value in expected.items():
        if getattr(found, name) != value:
            what = f"the basis is for another {name.replace('_', ' ')}: {getattr(found, name)}, not {value}"
            raise EditError(what, where=path, remedy=REMEDY)


def _load_basis(path: Path) -> BasisProjection:
    with _reading(path):
        tensors, metadata = store.read_tensors(path)
        basis = tensors["basis"]
        fingerprint = Fingerprint.model_validate_json(metadata["fingerprint"])
        version = int(metadata.get("schema_version", "1"))
    _check_version(version, path)
    spans_null_space = read_flag(metadata, "spans_null_space", path)
    is_rounded = read_flag({"is_rounded": str(basis.dtype != torch.float32)} | metadata, "is_rounded", path)
    rank = fingerprint.rank if spans_null_space else fingerprint.dimension - fingerprint.rank
    check_basis(basis, fingerprint.dimension, rank, is_rounded=is_rounded, path=path)
    return BasisProjection(basis.float(), spans_null_space, fingerprint, is_rounded)


def _refuse_changed_archive(path: Path) -> None:
    """Compare the checksums in a file of `torch.save`, which torch does not.

    Raises:
        ValueError: A part of the archive has changed, or the file is no plain file.
        OSError: It cannot be read.
    """
    if not path.is_file():
        raise ValueError("it is no plain file")
    if zipfile.is_zipfile(path):  # files of the time before torch 1.6 are no archives
        with zipfile.ZipFile(path) as archive:
            if changed := archive.testzip():
                raise ValueError(f"{changed} in it has changed (CRC-32)")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the errors of a basis's readers into an EditError."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, ("fingerprint", *first["loc"])))
        raise EditError(f"the field {field} of the basis is wrong: {first['msg']}", where=path, remedy=REMEDY) from error
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise EditError(f"the basis cannot be read: {_first_line(error)}", where=path, remedy=REMEDY) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

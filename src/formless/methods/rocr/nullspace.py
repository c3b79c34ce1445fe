"""The preserved knowledge of a layer, as the projection onto the directions that it hardly uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from scipy.linalg import eigh_tridiagonal, eigvalsh_tridiagonal, get_lapack_funcs
from torch import Tensor

from formless import store
from formless.errors import EditError
from formless.models.families import projection_shape
from formless.models.lm import LM

Array = npt.NDArray[np.floating[Any]]

PUBLISHED = "null_space_project_layer_{}.pt"
PUBLISHED_THRESHOLD = 2e-2
OURS = "layer_{}.safetensors"

# Eigenvalues are found in float32 where its rounding is under this share of the threshold, else in float64.
NEGLIGIBLE = 1e-3

# Rounds after which a basis stored in half precision projects as exactly as one in float32.
ROUNDS = 3
HOW = "make one with `formless stats`"


class Fingerprint(BaseModel):
    """What a basis was computed from.

    Args:
        model: Name of the model.
        model_fingerprint: `LM.fingerprint`.
        layer: The layer.
        corpus: Where the texts came from.
        samples: Texts.
        tokens: Tokens.
        threshold: Eigenvalues under it span the null space.
        rank: Dimension of the null space.
        dimension: Dimension of the keys.
        spectrum: Trace, and quantiles 0, 0.25, 0.5, 0.75, 0.95, 1 of the eigenvalues.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    model_fingerprint: str
    layer: int
    corpus: str
    samples: int
    tokens: int
    threshold: float
    rank: int
    dimension: int
    spectrum: tuple[float, ...]


class Projection(Protocol):
    """P, the projection onto the null space of the preserved keys."""

    def apply(self, keys: Tensor) -> Tensor:
        """P k for keys `[n, d]`."""
        ...

    def describe(self) -> dict[str, Any]:
        """What edit.json says of it."""
        ...


@dataclass(frozen=True)
class Identity:
    """P = I: nothing is preserved."""

    def apply(self, keys: Tensor) -> Tensor:
        """The keys themselves."""
        return keys

    def describe(self) -> dict[str, Any]:
        """No null space."""
        return {"kind": "identity"}


@dataclass(frozen=True)
class DenseProjection:
    """A published matrix P `[d, d]`."""

    matrix: Tensor
    path: Path

    def apply(self, keys: Tensor) -> Tensor:
        """P k for keys `[n, d]` (P is symmetric)."""
        return keys @ self.matrix.to(keys)

    def describe(self) -> dict[str, Any]:
        """The file."""
        return {"kind": "published", "file": self.path.name}


@dataclass(frozen=True)
class BasisProjection:
    """P held by an orthonormal basis of its smaller side.

    Args:
        basis: `[d, rank]`.
        spans_null_space: Whether the basis spans the null space (P = U U^T) or what is removed (P = I - U U^T).
        fingerprint: What it was computed from.
        is_rounded: Whether it was stored in half precision, so that it is orthonormal to three digits only. Its span is what
            counts, and what the first round leaves of a key inside it is added in further rounds.
    """

    basis: Tensor
    spans_null_space: bool
    fingerprint: Fingerprint
    is_rounded: bool = False

    def apply(self, keys: Tensor) -> Tensor:
        """P k for keys `[n, d]`."""
        basis = self.basis.to(keys)
        inside = (keys @ basis) @ basis.T
        for _ in range(ROUNDS - 1 if self.is_rounded else 0):
            inside = inside + ((keys - inside) @ basis) @ basis.T
        return inside if self.spans_null_space else keys - inside

    def describe(self) -> dict[str, Any]:
        """The fingerprint."""
        return {"kind": "basis"} | self.fingerprint.model_dump()

    def save(self, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write `layer_<l>.safetensors` with the fingerprint in its metadata."""
        metadata = {
            "fingerprint": self.fingerprint.model_dump_json(),
            "spans_null_space": str(self.spans_null_space),
            "is_rounded": str(self.is_rounded or dtype != torch.float32),
        }
        store.write_tensors(folder / OURS.format(self.fingerprint.layer), {"basis": self.basis.to(dtype)}, metadata)


def from_second_moment(moment: Tensor, threshold: float) -> tuple[Tensor, bool, Tensor]:
    """Split the eigenvectors of a second moment at a threshold (paper, section "preserved knowledge").

    Differs from the paper: the moment is symmetric, so its eigenvectors are found rather than its singular vectors, twice. Its
    tridiagonal form tells all eigenvalues, and only the smaller side's eigenvectors are computed.

    Args:
        moment: `[d, d]`, symmetric, uncentred: the mean of k k^T, in float64.
        threshold: Eigenvalues under it belong to the null space.

    Returns:
        A basis of the smaller side `[d, rank]` in float32, whether that side is the null space, and the eigenvalues `[d]`,
        float64; on the CPU.
    """
    rounding = torch.finfo(torch.float32).eps * float(torch.linalg.norm(moment))
    dtype = torch.float32 if rounding < NEGLIGIBLE * threshold else torch.float64
    # LAPACK overwrites this copy. It wants columns in a row, as the transpose of a symmetric matrix has them.
    reflectors, diagonal, beside, scales = _tridiagonal(moment.to("cpu", dtype, copy=True).numpy().T)
    values = eigvalsh_tridiagonal(diagonal, beside)  # ascending
    rank = int((values < threshold).sum())
    spans_null_space = rank <= len(values) - rank
    first, last = (0, rank - 1) if spans_null_space else (rank, len(values) - 1)
    vectors: Array = np.zeros((len(values), 0))
    if first <= last:
        chosen = {"select": "i", "select_range": (first, last)}
        _, inner = eigh_tridiagonal(diagonal, beside, lapack_driver="stemr", **chosen)  # orthogonal also within clusters
        vectors = _turned_back(reflectors, scales, inner)
    return torch.from_numpy(np.ascontiguousarray(vectors, np.float32)), spans_null_space, torch.from_numpy(values)


def _tridiagonal(matrix: Array) -> tuple[Array, Array, Array, Array]:
    """T = Q^T M Q of a symmetric M, which is overwritten.

    Returns:
        Q's Householder vectors, T's diagonal and the one beside it, in float64, and the vectors' scales.
    """
    sytrd, room = get_lapack_funcs(("sytrd", "sytrd_lwork"), (matrix,))
    lwork = int(room(len(matrix), lower=1)[0])
    reflectors, diagonal, beside, scales, _ = sytrd(matrix, lower=1, lwork=lwork, overwrite_a=1)
    return reflectors, diagonal.astype(np.float64), beside.astype(np.float64), scales


def _turned_back(reflectors: Array, scales: Array, vectors: Array) -> Array:
    """Q V `[d, rank]` for eigenvectors V of the tridiagonal form.

    Q leaves the first row alone. Its Householder vectors begin under the diagonal, one row lower in every column: counted from
    the second element on, the same memory holds them from the diagonal on, as a QR decomposition does.
    """
    size = len(reflectors)
    shifted = reflectors.ravel("K")[1 : 1 + size * (size - 1)].reshape(size, size - 1, order="F")
    below = np.array(vectors[1:], reflectors.dtype, order="F")
    (ormqr,) = get_lapack_funcs(("ormqr",), (reflectors,))
    lwork = int(ormqr("L", "N", shifted, scales, below, -1)[1][0])
    turned, _, _ = ormqr("L", "N", shifted, scales, below, lwork, overwrite_c=1)
    return np.concatenate([vectors[:1], turned])


def load_projection(lm: LM, folder: Path, layer: int, threshold: float) -> Projection:
    """Read the projection of one layer: our basis, or else the published matrix.

    Raises:
        EditError: There is none, it cannot be read, or it was made for another model, layer or threshold.
    """
    ours, published = folder / OURS.format(layer), folder / PUBLISHED.format(layer)
    width = projection_shape(lm.architecture.down_projection(lm.model, layer))[1]
    if ours.is_file():
        projection = _load_basis(ours)
        found = projection.fingerprint
        expected = {"model_fingerprint": lm.fingerprint, "layer": layer, "threshold": threshold, "dimension": width}
        for name, value in expected.items():
            if getattr(found, name) != value:
                what = f"the basis is for another {name.replace('_', ' ')}: {getattr(found, name)}, not {value}"
                raise EditError(what, where=ours, remedy=HOW)
        return projection
    if published.is_file():
        if threshold != PUBLISHED_THRESHOLD:
            what = f"the published projections have the threshold {PUBLISHED_THRESHOLD}, not {threshold}"
            raise EditError(what, where=published, remedy=HOW)
        try:
            matrix = torch.load(published, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # torch raises whatever the archive's reader does
            raise EditError(
                "the published projection cannot be read", where=published, remedy=str(error).splitlines()[0]
            ) from error
        if not isinstance(matrix, Tensor) or matrix.shape != (width, width):
            shape = tuple(matrix.shape) if isinstance(matrix, Tensor) else type(matrix).__name__
            raise EditError(
                f"the projection is {shape}, not {(width, width)}", where=published, remedy="use this model's own file"
            )
        return DenseProjection(matrix.float(), published)
    raise EditError(f"no null space for layer {layer} of {lm.name}", where=folder, remedy=HOW)


def _load_basis(path: Path) -> BasisProjection:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            basis = file.get_tensor("basis")
        fingerprint = Fingerprint.model_validate_json(metadata["fingerprint"])
    except (SafetensorError, KeyError, ValidationError, OSError) as error:
        raise EditError(f"the basis cannot be read: {str(error).splitlines()[0]}", where=path, remedy=HOW) from error
    is_rounded = metadata.get("is_rounded", str(basis.dtype != torch.float32)) == "True"
    return BasisProjection(basis.float(), metadata.get("spans_null_space") == "True", fingerprint, is_rounded)

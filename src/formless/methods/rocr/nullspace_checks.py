"""Verify that a stored null space is one: an orthonormal basis of the stated size, or a projection matrix."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from formless.errors import EditError

REMEDY = "make one with `formless stats`"
PUBLISHED_REMEDY = "get the published file again"

# How far from orthonormal a basis may be that is stored with a dtype. Rounding moves a column's squared norm by at most twice
# the dtype's relative error (float16 5e-4, bfloat16 4e-3); LAPACK's own error in float32 is under 2e-5 at d = 14,336.
BASIS_TOLERANCES = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}

# How far P^2 x and P^T x may be from P x, in standard deviations of x's elements. Published matrices are products U U^T in
# float32, whose singular vectors are orthonormal to 1e-4.
MATRIX_TOLERANCES = {torch.float64: 5e-3, torch.float32: 5e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}

# A product with 8 random vectors shows what the whole product of two matrices would, in a hundredth of its time at d = 14,336.
PROBES = 8


def read_flag(metadata: Mapping[str, str], name: str, path: Path) -> bool:
    """Return a flag of the metadata.

    Raises:
        EditError: It is neither "True" nor "False".
    """
    value = metadata.get(name)
    if value not in ("True", "False"):
        raise EditError(f"{name} is {value!r}, neither 'True' nor 'False'", where=path, remedy=REMEDY)
    return value == "True"


def check_basis(basis: Tensor, dimension: int, rank: int, *, is_rounded: bool, path: Path) -> None:
    """Refuse a basis that is not `[dimension, rank]`, of a floating dtype, finite and orthonormal.

    Args:
        basis: As stored.
        dimension: Dimension of the keys.
        rank: Dimension of the stored subspace.
        is_rounded: Whether it was once stored in half precision.
        path: The file, for the message.

    Raises:
        EditError: It is something else.
    """
    tolerance = BASIS_TOLERANCES.get(basis.dtype)
    if tolerance is None:
        raise EditError(f"the basis has the dtype {_name(basis.dtype)}, which is no float", where=path, remedy=REMEDY)
    if basis.shape != (dimension, rank):
        what = f"the basis is {list(basis.shape)}, but its fingerprint says {[dimension, rank]}"
        raise EditError(what, where=path, remedy=REMEDY)
    if basis.dtype in (torch.float16, torch.bfloat16) and not is_rounded:
        what = f"is_rounded is 'False', but the basis is stored in {_name(basis.dtype)}"
        raise EditError(what, where=path, remedy=REMEDY)
    columns = basis.float()
    if not columns.isfinite().all():
        raise EditError("the basis has elements that are not finite", where=path, remedy=REMEDY)
    if is_rounded:
        tolerance = max(tolerance, BASIS_TOLERANCES[torch.bfloat16 if basis.dtype == torch.float32 else basis.dtype])
    norms = (columns.square().sum(0) - 1).abs()
    probes = _probes(rank)
    products = (columns.T @ (columns @ probes) - probes).abs()
    # An element of the second error is a sum over a row of U^T U - I with random signs, 5 standard deviations at most.
    if rank and not (float(norms.max()) <= tolerance and float(products.max()) <= 5 * tolerance):
        column = int(torch.maximum(norms, products.amax(1) / 5).argmax())
        what = f"the basis is not orthonormal (column {column} is off by {float(norms[column]):.1g} in its squared norm)"
        raise EditError(what, where=path, remedy=REMEDY)


def check_matrix(matrix: object, width: int, path: Path) -> Tensor:
    """Return a published projection, verified to be `[width, width]`, floating, finite, symmetric, idempotent and not zero.

    Raises:
        EditError: It is something else.
    """
    if not isinstance(matrix, Tensor) or matrix.shape != (width, width):
        shape = tuple(matrix.shape) if isinstance(matrix, Tensor) else type(matrix).__name__
        raise EditError(f"the projection is {shape}, not {(width, width)}", where=path, remedy="use this model's own file")
    tolerance = MATRIX_TOLERANCES.get(matrix.dtype)
    if tolerance is None or matrix.layout != torch.strided or matrix.device.type != "cpu":
        what = f"the projection is no matrix of floats ({_name(matrix.dtype)}, {_name(matrix.layout)}, {matrix.device})"
        raise EditError(what, where=path, remedy=PUBLISHED_REMEDY)
    plain = matrix.detach().float()
    probes = _probes(width)
    once = plain @ probes
    if not once.isfinite().all():  # an element that is not finite makes its row so
        raise EditError("the projection has elements that are not finite", where=path, remedy=PUBLISHED_REMEDY)
    for what, other in (("symmetric", plain.T @ probes), ("idempotent (P P = P)", plain @ once)):
        if not float((other - once).abs().max()) <= tolerance:
            raise EditError(f"the matrix is not {what}: no projection", where=path, remedy=PUBLISHED_REMEDY)
    if float(plain.diagonal().sum()) < 0.5:  # the trace of a projection is its rank
        raise EditError("the projection is zero: nothing could be edited", where=path, remedy=PUBLISHED_REMEDY)
    return plain


def _probes(size: int) -> Tensor:
    """Return the same random vectors `[size, PROBES]` each time."""
    return torch.randn(size, PROBES, generator=torch.Generator().manual_seed(0))


def _name(value: object) -> str:
    return str(value).removeprefix("torch.")

"""The null space of a second moment by eigenvectors, beside the published singular vectors and d x d projection.

python -m benchmarks projection
python -m benchmarks.projection 14336    # that width too: a quarter of an hour, 9 GB
"""

from __future__ import annotations

import sys
import time

import torch
from torch import Tensor

from benchmarks.edit import relative
from benchmarks.timing import Row, alone, check, in_turns, rows_table
from formless.experiment.run import Peak
from formless.methods.rocr.nullspace import from_second_moment

THRESHOLD, NULL, CLOSE = 2e-2, 0.8, 1e-3
WIDTHS = (1536, 4096)
LARGE = 4096
"""The bar is for the widths of large models."""


def second_moment(width: int) -> Tensor:
    """A moment `[d, d]`, float64, four fifths of whose eigenvalues are under the threshold, as in the bundled model.

    It is a diagonal turned by random reflections, so that nothing larger than itself is ever held.
    """
    torch.manual_seed(0)
    under = round(NULL * width)
    values = torch.cat([torch.logspace(-3, -1.7, under), torch.logspace(-1.69, 0.3, width - under)]).double()
    moment = torch.diag(values)
    for _ in range(3):
        axis = torch.nn.functional.normalize(torch.randn(width, dtype=torch.double), dim=0)
        image = moment @ axis
        image -= (axis @ image) * axis
        moment.addr_(axis, image, alpha=-2).addr_(image, axis, alpha=-2)
    return moment


def plain_projection(moment: Tensor) -> Tensor:
    """P `[d, d]` as the published code makes it, in float32."""
    vectors, values, _ = torch.linalg.svd(moment, full_matrices=False)
    kept: Tensor = vectors[:, values < THRESHOLD]
    return kept @ kept.T


def matrices(plain: bool, width: int) -> float:
    """How many d x d float32 matrices a process holds at its peak, beside the moment itself."""
    moment = second_moment(width)
    moment = moment.float() if plain else moment
    peak = Peak()
    before = peak.read().resident
    _ = plain_projection(moment) if plain else from_second_moment(moment, THRESHOLD)
    return (peak.read().resident - before) / (4 * width**2)


def rows(*, quick: bool = False, widths: tuple[int, ...] = WIDTHS) -> list[Row]:
    """CPU seconds, one row a width."""
    if quick:
        return [_row(256, 1, "")]
    return [_row(width, 3 if width <= max(WIDTHS) else 1, _memory(min(width, max(WIDTHS)))) for width in widths]


def _row(width: int, rounds: int, memory: str) -> Row:
    moment = second_moment(width)
    exact = moment.float()
    basis, spans_null_space, _ = from_second_moment(moment, THRESHOLD)
    keys = torch.randn(4, width)
    inside = (keys @ basis) @ basis.T
    error = relative(inside if spans_null_space else keys - inside, keys @ plain_projection(exact))
    check(error < CLOSE, f"the projections differ by {error:.1e}")
    times = in_turns(
        lambda: from_second_moment(moment, THRESHOLD), lambda: plain_projection(exact), rounds=rounds, clock=time.process_time
    )
    bar = 3 if width >= LARGE else None
    note = f"{memory}the reduction to tridiagonal form, bound by memory, is most of it"
    return Row(f"projection from a second moment, d = {width:,}, CPU seconds", *times, bar, f"P k differs by {error:.0e}", note)


def _memory(width: int) -> str:
    ours, plain = (alone(matrices, is_plain, width)[0] for is_plain in (False, True))
    return f"beside the moment {ours:.1f} d x d float32 matrices are held, {plain:.1f} the plain way; "


if __name__ == "__main__":
    print(rows_table(rows(widths=(*WIDTHS, *map(int, sys.argv[1:])))))

"""Time and memory of one ROCR edit of the embedded model, beside the published way in the same process.

    make bench

Both read their null spaces from disk and start from a loaded model. Prints the ratio of the medians, after checking that both
give the same update.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler counts memory below; its own log is noise here

import torch

import formless
from benchmarks.baseline import dense_rocr
from formless.methods.adapter import AdapterEdit
from formless.methods.rocr.nullspace import PUBLISHED
from formless.methods.rocr.redirect import RocrConfig, projections
from formless.models.lm import LM
from formless.models.overlay import Factors

SUBJECT, ROUNDS = "Albert Einstein", 7


def timed(function: Callable[[], object]) -> list[float]:
    """Wall seconds of several calls, after one to warm up."""
    function()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return seconds


def largest_tensors(function: Callable[[], object]) -> int:
    """Bytes of CPU tensors that a call allocates, summed at its peak, by the profiler's account."""
    with torch.profiler.profile(profile_memory=True) as profile:
        function()
    total = peak = 0
    for event in profile.events() or []:
        total += event.self_cpu_memory_usage
        peak = max(peak, total)
    return peak


def main() -> None:
    """Check that both agree, then print the table."""
    lm = formless.load("smollm2", dtype="float32", device="cpu")
    config = RocrConfig()
    with tempfile.TemporaryDirectory() as scratch:
        compare(lm, config, Path(scratch))


def compare(lm: LM, config: RocrConfig, folder: Path) -> None:
    """Write the dense projections to a scratch folder, check that both ways agree, and time them."""
    for layer, projection in projections(lm, config).items():
        torch.save(projection.apply(torch.eye(lm.model.config.intermediate_size)), folder / PUBLISHED.format(layer))

    def ours() -> dict[int, Factors]:
        edit = formless.unlearn(lm, SUBJECT)
        return dict(zip(config.layers, cast(AdapterEdit, edit).updates.values(), strict=True))

    def theirs() -> dict[int, torch.Tensor]:
        matrices = {layer: torch.load(folder / PUBLISHED.format(layer), weights_only=True) for layer in config.layers}
        return dense_rocr(lm, SUBJECT, config, matrices)

    dense = theirs()
    for layer, factors in ours().items():
        error = float(torch.linalg.norm(factors.dense() - dense[layer]) / torch.linalg.norm(dense[layer]))
        print(f"layer {layer}: relative difference of the updates {error:.1e}")
        if error > 1e-3:
            raise SystemExit("the two updates differ: the timings would compare different work")
    report(lm, timed(ours), timed(theirs), largest_tensors(ours), largest_tensors(theirs))


def report(lm: LM, ours: list[float], theirs: list[float], our_peak: int, their_peak: int) -> None:
    """Print the table."""
    rows = [
        ("min seconds", min(ours), min(theirs)),
        ("median seconds", statistics.median(ours), statistics.median(theirs)),
        ("peak MB of new tensors", our_peak / 2**20, their_peak / 2**20),
    ]
    print(f"\n| one ROCR edit, {lm.name}, {torch.get_num_threads()} threads | formless | dense | ratio |\n| - | - | - | - |")
    for name, mine, plain in rows:
        print(f"| {name} | {mine:.3f} | {plain:.3f} | {plain / mine:.1f} |")


if __name__ == "__main__":
    main()

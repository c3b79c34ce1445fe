"""Time and memory of one ROCR edit of the embedded model, beside the published way in the same process.

    make bench

Prints the ratio of the medians, after checking that both give the same update.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler counts memory below; its own log is noise here

import torch

import formless
from benchmarks.baseline import dense_rocr
from formless.methods.rocr.redirect import RocrConfig, projections, redirect
from formless.models.capture import Factors
from formless.models.lm import LM

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
    preserved = projections(lm, config)
    width = lm.model.config.intermediate_size
    matrices = {layer: projection.apply(torch.eye(width)) for layer, projection in preserved.items()}

    def ours() -> dict[int, Factors]:
        return redirect(lm, SUBJECT, config, preserved).factors

    def theirs() -> dict[int, torch.Tensor]:
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

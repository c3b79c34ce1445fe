"""Edit, statistics and scoring of a Llama-3-8B shape with random weights on one GPU; prints a table, asks nothing.

python benchmarks/gpu.py                                  # bfloat16: 20 GB of the card, 20 GB of memory, minutes
python benchmarks/gpu.py --device cpu --shape small       # the same steps where there is no card
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, its folder comes first, and statistics.py there would hide the library's
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

import formless
from benchmarks.shapes import SHAPES, THRESHOLD, random_lm, save_bases
from benchmarks.statistics import LAYERS, MAX_TOKENS, passages
from formless import provenance
from formless.data.target import Target
from formless.evaluation.plan import make_plan
from formless.evaluation.task import ScoreAnswer
from formless.methods.rocr.config import PUBLISHED_REDIRECT, RocrConfig
from formless.methods.rocr.redirect import load_projections, redirect
from formless.methods.rocr.statistics import CHUNK, SecondMoments
from formless.models.batching import batches
from formless.models.capture import capture
from formless.models.lm import LM
from formless.models.scores import Score

SUBJECT, ROUNDS = "Albert Einstein", 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", default="Llama-3-8B", choices=SHAPES)
    parser.add_argument("--texts", type=int, default=512, help="passages of the statistics")
    chosen = parser.parse_args()
    lm = random_lm(chosen.shape, device=chosen.device)
    card = torch.cuda.get_device_name() if chosen.device.startswith("cuda") else "CPU"
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions().items())
    print(f"{card}; {chosen.shape}, {lm.model.dtype}, random weights; CUDA {torch.version.cuda}; {versions}\n")
    print("| what | value |\n| - | - |")
    for measure in (edits, second_moments, scores):
        for what, value in measure(lm, chosen.texts).items():
            print(f"| {what} | {value} |", flush=True)
    if chosen.device.startswith("cuda"):
        print(f"| most memory on the card | {torch.cuda.max_memory_allocated() / 2**30:.1f} GB |")


def edits(lm: LM, _texts: int) -> dict[str, str]:
    """One edit, from null spaces on disk and in memory."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_bases(lm, LAYERS, Path(scratch) / "bases")
        config = RocrConfig(redirect=PUBLISHED_REDIRECT, layers=LAYERS, basis=str(folder), threshold=THRESHOLD)
        preserved = load_projections(lm, config)
        inner = timed(lm, lambda: redirect(lm, SUBJECT, config, preserved))
        settings: dict[str, Any] = config.model_dump(include={"redirect", "layers", "basis", "threshold"})
        whole = timed(lm, lambda: formless.unlearn(lm, SUBJECT, "rocr", **settings))
    return {
        "ROCR edit, null spaces in memory": f"{1000 * inner:.0f} ms",
        "ROCR edit, null spaces read from disk": f"{1000 * whole:.0f} ms",
    }


def second_moments(lm: LM, count: int) -> dict[str, str]:
    """Tokens a second of the sums, and of the same batches through the same layers alone."""
    texts = passages(count)

    def sums() -> None:
        moments = SecondMoments(lm, LAYERS, {})
        for start in range(0, count, CHUNK):
            moments.add(texts[start : start + CHUNK], MAX_TOKENS)

    encoded = [lm.encode(text).ids[:MAX_TOKENS] for text in texts]
    chunks = [encoded[start : start + CHUNK] for start in range(0, count, CHUNK)]
    padded = [
        lm.pad([chunk[row] for row in group]) for chunk in chunks for group in batches([*map(len, chunk)], lm.token_budget)
    ]

    def forward() -> None:
        for batch in padded:
            capture(lm, batch, keys=[LAYERS[-1]])

    tokens = sum(map(len, encoded))
    ours, alone = timed(lm, sums, 3), timed(lm, forward, 3)
    return {
        f"statistics of 3 layers, {tokens:,} tokens": f"{tokens / ours:,.0f} tokens/s",
        "the same batches through the same layers alone": f"{tokens / alone:,.0f} tokens/s",
        "share of the forward pass's own rate": f"{100 * alone / ours:.0f} %",
    }


def scores(lm: LM, _texts: int) -> dict[str, str]:
    """Tokens a second of answers' probabilities, and of a plain loop over the same prompts."""
    queries = probes(lm, formless.find_target("sample", SUBJECT))
    encoded = [lm.encode(*query) for query in queries]
    tokens = sum(len(item.ids) for item in encoded)

    def plain() -> list[float]:
        found = []
        for item in encoded:
            ids = torch.tensor([item.ids], device=lm.device)
            with torch.no_grad():
                likely = torch.log_softmax(lm.model(input_ids=ids).logits[0, :-1].float(), -1)
            answer = likely.gather(1, ids[0, 1:, None])[item.answer_start - 1 :]
            found.append(float(answer.sum()))
        return found

    ours = [sum(found.log_probabilities) for found in lm.score(queries) if isinstance(found, Score)]
    apart = max(abs(a - b) / max(abs(b), 1) for a, b in zip(ours, plain(), strict=True))
    mine, theirs = timed(lm, lambda: lm.score(queries), 3), timed(lm, plain, 3)
    return {
        f"scoring {len(queries)} probes, {tokens:,} tokens": f"{tokens / mine:,.0f} tokens/s",
        "a plain transformers loop": f"{tokens / theirs:,.0f} tokens/s",
        "their log-probabilities differ by at most": f"{100 * apart:.2g} %",
    }


def probes(lm: LM, target: Target) -> list[tuple[str, str]]:
    """Prompts and answers of blanks and questions, about the target and its neighbors."""
    queries = [query for job in make_plan(target, "fb,qa").jobs for query in job.queries(lm)]
    requests = [request for query in queries for request in query.requests]
    return [(request.prompt, request.answer) for request in requests if isinstance(request, ScoreAnswer)]


def timed(lm: LM, work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median seconds of some runs, after one to warm up, each until the card is done."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        work()
        if lm.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    main()

"""Edit, statistics, scoring and writing of a Llama-3-8B shape with random weights on one GPU, and a sweep over several.

python benchmarks/gpu.py                       # bfloat16: 20 GB of the card, 20 GB of memory, minutes; a table
python benchmarks/gpu.py edit writing          # some of the steps
python benchmarks/gpu.py --json gpu.json       # the same rows as JSON too
python benchmarks/gpu.py --dry-run             # every step on the CPU with a small shape in float32: whether it runs

Results that differ end it with exit code 1. A share of the limit is the least time of the needed products over the time taken.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file, its folder comes first, and statistics.py there would hide the library's
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

import formless
from benchmarks.edit import relative
from benchmarks.evaluation import jobs_of
from benchmarks.limit import find_limit, needed, projections, rate, scored
from benchmarks.plain_evaluation import pairs, queries, texts
from benchmarks.shapes import SHAPES, THRESHOLD, random_lm, save_bases
from benchmarks.statistics import LAYERS, MAX_TOKENS, limit, our_moments, passages
from benchmarks.sweep import means_of, sweep
from benchmarks.timing import Clock, Row, Times, UnequalError, check, in_turns, largest_difference, repeated, rows_table
from formless import provenance
from formless.data.target import Target
from formless.evaluation.loading import load_record
from formless.experiment.runs import read_plan
from formless.methods.keys.closed_form import Projection
from formless.methods.rocr.config import PUBLISHED_REDIRECT, RocrConfig
from formless.methods.rocr.nullspace import BasisProjection
from formless.methods.rocr.redirect import load_projections, redirect
from formless.methods.rocr.statistics import CHUNK
from formless.models.batching import batches
from formless.models.capture import capture
from formless.models.lm import LM
from formless.models.scores import Score

SUBJECT, EDIT_SECONDS = "Albert Einstein", 0.05
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Most that a log-probability of a token may differ: batches of other shapes round differently."""


@dataclass(frozen=True)
class Work:
    """How much is measured.

    Args:
        passages: Of the statistics.
        rows: Of each file of probes; None for all.
        new_tokens: Of each text that is written.
        rounds: How often each way is run.
        targets: Of the sweep.
    """

    passages: int = 512
    rows: int | None = None
    new_tokens: int = 64
    rounds: int = 5
    targets: int = 8


DRY = Work(passages=4, rows=1, new_tokens=4, rounds=1, targets=1)


@dataclass(frozen=True)
class Found:
    """A row, with what a GPU is bought for.

    Args:
        row: The row.
        tokens: How many tokens the work has.
        peak: Most memory on the card meanwhile, bytes; None on a CPU.
    """

    row: Row
    tokens: int | None = None
    peak: int | None = None

    @property
    def per_second(self) -> float | None:
        """Tokens a second."""
        return self.tokens and self.tokens / self.row.ours.median

    @property
    def line(self) -> Row:
        """The row with tokens a second and memory in its note."""
        facts = [
            "" if self.per_second is None else f"{self.per_second:,.0f} tokens/s",
            "" if self.peak is None else f"{self.peak / 2**30:.1f} GB at most",
        ]
        return replace(self.row, note="; ".join(fact for fact in (self.row.note, *facts) if fact))

    def as_json(self) -> dict[str, Any]:
        """The row by the names of its columns."""
        row = self.row
        return {
            "what": row.what, "model": row.model, "seconds": row.ours.seconds, "plain": row.plain and row.plain.seconds,
            "ratio": row.ratio, "share": row.share, "goal": row.goal, "checked": row.checked, "note": row.note,
            "tokens": self.tokens, "tokens_per_second": self.per_second, "peak_bytes": self.peak,
        }  # fmt: skip


def main(arguments: list[str]) -> int:
    """Measure and print; 1 where results differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"{', '.join(STEPS)}; all unless given")
    parser.add_argument("--device", help="cuda unless given; cpu for --dry-run")
    parser.add_argument("--shape", choices=SHAPES, help="Llama-3-8B unless given; small for --dry-run")
    parser.add_argument("--passages", type=int, default=Work.passages, help="of the statistics")
    parser.add_argument("--json", type=Path, help="where the rows are written")
    parser.add_argument("--dry-run", action="store_true", help="tiny inputs, one round")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.steps if name not in STEPS]:
        parser.error(f"no step is called {', '.join(unknown)}; there are {', '.join(STEPS)}")
    device = chosen.device or ("cpu" if chosen.dry_run else "cuda")
    shape = chosen.shape or ("small" if chosen.dry_run else "Llama-3-8B")
    work = DRY if chosen.dry_run else Work(passages=chosen.passages)
    if device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("no GPU is here; --dry-run runs every step on the CPU")
    lm = random_lm(shape, device=device, dtype=torch.float32 if chosen.dry_run else torch.bfloat16)
    card = torch.cuda.get_device_name(lm.device) if lm.device.type == "cuda" else lm.device.type
    model = f"{shape}, {str(lm.model.dtype).removeprefix('torch.')}"
    print(f"{card}; {model}, random weights; CUDA {torch.version.cuda}; {provenance.versions()}", file=sys.stderr)
    found: list[Found] = []
    failed = False
    for name in chosen.steps or STEPS:
        try:
            found += [replace(one, row=replace(one.row, model=one.row.model or model)) for one in STEPS[name](lm, work)]
        except UnequalError as error:
            failed = True
            print(f"{name}: results differ: {error}", file=sys.stderr)
    print(rows_table([one.line for one in found]))
    if chosen.json:
        content = {"device": card, "cuda": torch.version.cuda, "versions": provenance.versions()}
        chosen.json.write_text(json.dumps(content | {"rows": [one.as_json() for one in found]}, indent=1) + "\n", "utf-8")
    return int(failed)


def clock_of(lm: LM) -> Clock:
    """Wall time after all that the device has been asked to do."""

    def clock() -> float:
        if lm.device.type == "cuda":
            torch.cuda.synchronize(lm.device)
        return time.perf_counter()

    return clock


@contextmanager
def peak_of(lm: LM) -> Iterator[Callable[[], int | None]]:
    """Watch the memory on the card; what is yielded tells the most of it."""
    on_card = lm.device.type == "cuda"
    if on_card:
        torch.cuda.reset_peak_memory_stats(lm.device)
    yield lambda: torch.cuda.max_memory_allocated(lm.device) if on_card else None


def edits(lm: LM, work: Work) -> list[Found]:
    """One edit, from null spaces on the card, in memory and on disk."""
    rows, clock = [], clock_of(lm)
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_bases(lm, LAYERS, Path(scratch) / "bases")
        config = RocrConfig(redirect=PUBLISHED_REDIRECT, layers=LAYERS, basis=str(folder), threshold=THRESHOLD)
        in_memory = load_projections(lm, config)
        on_card: dict[int, Projection] = {
            layer: replace(found, basis=found.basis.to(lm.device))
            for layer, found in cast(dict[int, BasisProjection], in_memory).items()
        }
        settings: dict[str, Any] = config.model_dump(include={"redirect", "layers", "basis", "threshold"})
        expected = redirect(lm, SUBJECT, config, in_memory).factors
        moved = redirect(lm, SUBJECT, config, on_card).factors
        error = max(relative(moved[layer].dense(), expected[layer].dense()) for layer in LAYERS)
        check(error < 1e-3, f"updates differ by {error:.1e} of their norm")
        ways: dict[str, Callable[[], object]] = {
            "on the card": lambda: redirect(lm, SUBJECT, config, on_card),
            "in memory": lambda: redirect(lm, SUBJECT, config, in_memory),
            "read from disk": lambda: formless.unlearn(lm, SUBJECT, "rocr", progress=False, **settings),
        }
        for place, way in ways.items():
            with peak_of(lm) as peak:
                way()
                ours = repeated(way, rounds=work.rounds, clock=clock)
            note = f"{1000 * ours.median:.0f} ms, goal {1000 * EDIT_SECONDS:.0f} ms" if "disk" not in place else ""
            what = f"ROCR edit, null spaces {place}"
            rows.append(Found(Row(what, ours, None, None, f"updates within {error:.0e}", note, ""), peak=peak()))
    return rows


def second_moments(lm: LM, work: Work) -> list[Found]:
    """The sums, beside the same batches through the same layers alone."""
    found, clock = passages(work.passages), clock_of(lm)
    encoded = [lm.encode(text).ids[:MAX_TOKENS] for text in found]
    chunks = [encoded[start : start + CHUNK] for start in range(0, len(encoded), CHUNK)]
    padded = [
        lm.pad([chunk[row] for row in group])
        for chunk in chunks
        for group in batches([*map(len, chunk)], lm.token_budget, even=True)
    ]

    def forward() -> None:
        for batch in padded:
            capture(lm, batch, keys=[LAYERS[-1]])

    with peak_of(lm) as peak:
        moments = our_moments(lm, found)
        forward()
        times = in_turns(lambda: our_moments(lm, found), forward, rounds=work.rounds, clock=clock)
    tokens = sum(map(len, encoded))
    check(moments.tokens == tokens, f"{moments.tokens} tokens beside {tokens}")
    what, note = f"statistics of {len(LAYERS)} layers, {tokens:,} tokens", "plain: the layers alone"
    row = Row(what, *times, None, "as many tokens", note, "", limit(lm, found, clock), 0.8)
    return [Found(row, tokens, peak())]


def scores(lm: LM, work: Work) -> list[Found]:
    """Probabilities of answers, beside a plain loop over the same prompts."""
    clock = clock_of(lm)
    asked = [pair for job in jobs_of(target(), "fb,qa", work.rows) for query in queries(lm, job) for pair in pairs(query)]
    encoded = [lm.encode(*pair) for pair in asked]

    def ours() -> list[float]:
        return [value for one in lm.score(asked) if isinstance(one, Score) for value in one.log_probabilities]

    def plain() -> list[float]:
        found: list[float] = []
        for item in encoded:
            ids = torch.tensor([item.ids], device=lm.device)
            with torch.no_grad():
                likely = torch.log_softmax(cast(Any, lm.model)(input_ids=ids).logits[0, :-1].float(), -1)
            found += likely.gather(1, ids[0, 1:, None])[item.answer_start - 1 :, 0].tolist()
        return found

    difference = largest_difference(ours(), plain())
    check(difference <= CLOSE[lm.model.dtype], f"log-probabilities differ by {difference:.1e}")
    with peak_of(lm) as peak:
        times = in_turns(ours, plain, rounds=work.rounds, clock=clock)
    least = find_limit(lm, clock=clock).seconds(scored(encoded))
    tokens = sum(len(item.ids) for item in encoded)
    what, checked = f"scoring {len(asked)} probes, {tokens:,} tokens", f"log-probabilities within {difference:.0e}"
    return [Found(Row(what, *times, None, checked, "plain: one prompt at a time", "", least), tokens, peak())]


def written(lm: LM, work: Work) -> list[Found]:
    """Greedy continuations, beside transformers' own loop over batches of eight.

    The limit of a token is what the model's matrices take with one row for each text, which is reading them, if there are few.
    """
    clock = clock_of(lm)
    prompts = [pair[0] for job in jobs_of(target(), "qa", work.rows) for query in queries(lm, job) for pair in pairs(query)]
    lm.model.generation_config.eos_token_id = None  # every text is of one length, also with random weights
    lm.tokenizer.eos_token = None

    def ours() -> list[str]:
        return lm.generate(prompts, max_new_tokens=work.new_tokens)

    def plain() -> list[str]:
        return texts(lm, prompts, max_new_tokens=work.new_tokens)

    alike = sum(mine == theirs for mine, theirs in zip(ours(), plain(), strict=True))
    check(alike == len(prompts) or lm.model.dtype != torch.float32, f"{len(prompts) - alike} of {len(prompts)} texts differ")
    with peak_of(lm) as peak:
        times = in_turns(ours, plain, rounds=work.rounds, clock=clock)
    read = needed((item.ids, len(item.ids)) for item in map(lm.encode, prompts))
    limit_of_all, head = find_limit(lm, clock=clock), cast(nn.Module, lm.model.get_output_embeddings())
    rows = (len(prompts),)
    body = rate([module for index in range(4) for module in projections(lm, index)], clock, rows)
    each = limit_of_all.per_token / body + limit_of_all.per_scored / rate([head], clock, rows)
    least = limit_of_all.seconds(read) + work.new_tokens * len(prompts) * each
    what, checked = f"writing {len(prompts)} texts of {work.new_tokens} tokens", f"{alike} of {len(prompts)} texts alike"
    row = Row(what, *times, None, checked, "plain: transformers, batches of 8", "", least, 0.6)
    return [Found(row, len(prompts) * work.new_tokens, peak())]


def several(lm: LM, work: Work) -> list[Found]:
    """A sweep with one worker for each GPU through Ray, beside the same sweep on one of them."""
    count = torch.cuda.device_count() if lm.device.type == "cuda" else 0
    if count < 2 and work is not DRY:
        print(f"{count} GPU here: a sweep over several through Ray is left out", file=sys.stderr)
        return []
    on_cpu = ["--device", "cpu"]
    one, many = (["--gpu", "0"], ["--executor", "ray"]) if count > 1 else (on_cpu, [*on_cpu, "--executor", "ray"])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        seconds = []
        for name, way in (("many", many), ("one", one)):
            start = time.perf_counter()
            sweep(folder / name, work.targets, work.rows or 20, *way)
            seconds.append(time.perf_counter() - start)
        pairs_of_runs = [
            [means_of(load_record(run.folder(folder / name).record)) for name in ("many", "one")]
            for run in read_plan(folder / "one")
        ]
        difference = max(largest_difference([*a.values()], [*b.values()]) for a, b in pairs_of_runs)
        check(difference <= 1e-4, f"means differ by {difference:.1e}")
    what = f"a sweep over {work.targets} targets, Ray on {f'{count} GPUs' if count else 'the CPU'}"
    many_times, one_times = (Times((value,)) for value in seconds)
    return [
        Found(
            Row(what, many_times, one_times, None, f"means within {difference:.0e}", "plain: one GPU", "smollm2, from nothing")
        )
    ]


def target() -> Target:
    """Whom the probes are about."""
    return formless.find_target("sample", SUBJECT)


STEPS: dict[str, Callable[[LM, Work], list[Found]]] = {
    "edit": edits, "statistics": second_moments, "scoring": scores, "writing": written, "sweep": several,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

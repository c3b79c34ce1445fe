"""Where the time of each kind of work goes, by kind of operation: the shares of a profile.

python -m benchmarks.profile --out docs/results/time_shares.json
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import evaluation, generation, statistics, training
from benchmarks.models import first_model, label, other_models
from formless import provenance
from formless.data.target import Target
from formless.methods.training.config import TrainingConfig
from formless.methods.training.preprocessing import load_training_set
from formless.methods.training.trainer import train
from formless.models.lm import LM
from tools.results import Cell, Column, Result, render_page, write_result

KINDS = {
    "products": ("mm", "addmm", "bmm", "baddbmm", "linear", "mkldnn"),
    "attention": ("_scaled_dot_product", "scaled_dot_product"),
    "softmax": ("_log_softmax", "_softmax", "exp", "logsumexp", "max", "argmax"),
    "copies": ("copy", "cat", "index", "gather", "fill", "clone", "stack", "embedding"),
}
"""Operators by the first words of their names; the others are norms, activation functions and the like."""

PART = 4
"""One in so many rows is profiled."""


def works(lm: LM, target: Target) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each kind of work, on a part of what `make bench` does."""
    forms = evaluation.jobs_of(target, evaluation.FORMS, 10)
    yield "probability forms", lambda: evaluation.our_metrics(lm, forms)
    if target.has("retain_mmlu"):
        counts = {name: count // PART for name, count in evaluation.FIRST.items()}
        choices, _ = evaluation.choice_jobs(target, counts, with_bbh=False)
        yield "MMLU, TruthfulQA", lambda: evaluation.our_metrics(lm, choices)
    written = evaluation.first_rows(
        evaluation.jobs_of(target, "gen_fb,gen_qa,triviaqa"), {name: count // PART for name, count in generation.FIRST.items()}
    )
    yield "written answers", lambda: evaluation.our_answers(lm, written)
    texts = statistics.passages(60 // PART)
    yield "statistics", lambda: statistics.our_moments(lm, texts)
    method = training.METHODS[0]
    config = TrainingConfig(
        learning_rate=1e-4, num_train_epochs=2, per_device_train_batch_size=training.ROWS, gradient_accumulation_steps=1,
        warmup_steps=0, max_length=512,
    )  # fmt: skip
    found = load_training_set(lm, target, method.file, method.preprocess, max_rows=None, max_length=512, seed=0)
    examples = training.typical(found.examples)
    yield "a LoRA training step, GA", lambda: train(lm, examples, method.ours, config)


def shares(work: Callable[[], object]) -> dict[str, float]:
    """The share of each kind of operation in the time of some work, in percent."""
    work()
    start = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        work()
    total = time.perf_counter() - start
    times = dict.fromkeys((*KINDS, "other operators"), 0.0)
    for event in found.key_averages():
        if event.key.startswith("aten::"):
            times[kind(event.key.removeprefix("aten::"))] += event.self_cpu_time_total / 1e6
    times["outside operators"] = max(total - sum(times.values()), 0.0)
    return {name: 100 * seconds / total for name, seconds in times.items()}


def kind(operator: str) -> str:
    """The kind of an operator."""
    return next(
        (name for name, own in KINDS.items() if any(f"{operator}_".startswith(f"{one}_") for one in own)), "other operators"
    )


def main() -> None:
    """Profile every kind of work of every model and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    target, rows = evaluation.real_target(), list[list[Cell]]()
    for lm in (first_model(), *other_models()):
        for name, work in works(lm, target):
            rows.append([name, label(lm), *shares(work).values()])
            print(*rows[-1], flush=True)
    result = Result(
        title="Where the time goes",
        topic="Speed and memory",
        about="The share of each kind of operation in the time of some work, from one profile each.",
        date=datetime.now(timezone.utc).date(),
        versions={"torch": torch.__version__.partition("+")[0]},
        hardware=f"{provenance.hardware()['cpu']}, {options.threads} threads",
        n="a part of the rows of `make bench`",
        command="python -m benchmarks.profile --out docs/results/time_shares.json",
        columns=[
            Column(name="work"),
            Column(name="model"),
            *(Column(name=name, unit="%", format=".0f") for name in (*KINDS, "other operators", "outside operators")),
        ],
        rows=rows,
        notes=[
            "Products are those of matrices, without those inside attention. Softmax is over the vocabulary. Other operators "
            "are norms, activation functions, rotary positions and masks. Outside operators are Python and tokenization; the "
            "profiler itself makes them look larger than they are.",
        ],
    )
    if options.out:
        write_result(options.out, result)
    print(render_page("time_shares", result))


if __name__ == "__main__":
    main()

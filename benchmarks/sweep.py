"""An experiment over twelve targets in one process, beside a process for every target and method, as the published runner does.

Both start from nothing: interpreter, libraries and model are loaded in the time, and no earlier record of the original model is
there. Both put the product's own edit on the model. Each process uses as many threads as this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.evaluation import CLOSE
from benchmarks.timing import Row, check, in_turns, largest_difference
from formless import store
from formless.evaluation.loading import load_record
from formless.evaluation.record import Record
from formless.experiment.runs import ORIGINAL, read_plan

DATA, SUITE, METHODS = "sample", "fb,qa", (ORIGINAL, "rocr")
TARGETS, LIMIT, ROUNDS = 12, 4, 2


def rows(*, quick: bool = False) -> list[Row]:
    """The row of the table."""
    targets, limit = (1, 1) if quick else (TARGETS, LIMIT)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        times = in_turns(
            lambda: sweep(_fresh(folder / "runs"), targets, limit, "--device", "cpu"),
            lambda: one_process_each(folder, targets, limit),
            rounds=1 if quick else ROUNDS,
        )
        checked = compared(folder)
    note = f"original and ROCR, {SUITE}, {limit} probes a form, three free answers; {targets * len(METHODS)} processes"
    return [Row(f"a {targets}-target sweep, embedded model", *times, None if quick else 5, checked, note)]


def sweep(out: Path, targets: int, limit: int, *way: str) -> None:
    """The whole experiment, from an empty folder and a cache that holds models alone; `way` says where it runs."""
    with tempfile.TemporaryDirectory() as scratch:
        for known in store.cache_folder().iterdir():
            if known != store.original_records_folder():
                (Path(scratch) / known.name).symlink_to(known)
        _run(
            ["formless", "run", "--model", "smollm2", "--method", ",".join(METHODS), "--data", DATA,
             "--targets", f"1-{targets}", "--suite", SUITE, "--limit", str(limit), "--no-save-edits",
             "--out", str(out), *way],
            FORMLESS_CACHE=scratch,
        )  # fmt: skip


def one_process_each(folder: Path, targets: int, limit: int) -> None:
    """A process for every target and method."""
    out = _fresh(folder / "plain")
    out.mkdir()
    for target in range(1, targets + 1):
        for method in METHODS:
            result = str(out / f"{target} {method}.json")
            _run(["benchmarks.plain_evaluation", DATA, str(target), SUITE, str(limit), method, result])


def _fresh(folder: Path) -> Path:
    """A name in the same place that nothing has yet; earlier rounds keep theirs."""
    return folder.with_name(f"{folder.name} {len(list(folder.parent.glob(f'{folder.name} *')))}")


def _run(arguments: list[str], **environment: str) -> None:
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, env=os.environ | threads | environment, capture_output=True, text=True, check=False)
    check(done.returncode == 0, f"{' '.join(arguments[:2])} ended with {done.returncode}: {done.stderr[-500:]}")


def compared(folder: Path) -> str:
    """Refuse runs whose metrics or answers differ; otherwise say how close they are."""
    out, plain = folder / "runs 0", folder / "plain 0"
    count, difference = 0, 0.0
    for run in read_plan(out):
        record = load_record(run.folder(out).record)
        expected = json.loads((plain / f"{run.target.split('_')[0]} {run.method}.json").read_text("utf-8"))
        means = means_of(record)
        check(list(means) == list(expected["means"]), f"{run.title}: other tasks")
        difference = max(difference, largest_difference([*means.values()], [*expected["means"].values()]))
        check([answer.answer for answer in record.answers] == expected["answers"], f"{run.title}: other answers")
        count += len(means)
    check(difference <= CLOSE, f"means differ by {difference:.1e}")
    return f"{count} means within {difference:.0e}, answers letter for letter"


def means_of(record: Record) -> dict[str, float]:
    """The probability of every task and split."""
    return {
        f"{key.task} {key.split}": found.value
        for key, found in record.metrics().items()
        if key.metric == "probability" and key.group is None and found.value is not None
    }

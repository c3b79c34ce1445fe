"""Run benchmarks, check that both ways agree, and print one Markdown table.

python -m benchmarks                          every row
python -m benchmarks edit statistics          some
python -m benchmarks --json docs/results/speed.json
                                              ratios and shares as a result; rows of benchmarks that were not run stay
"""

from __future__ import annotations

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler counts memory in some rows; its own log is noise
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

import benchmarks
from benchmarks import timing
from benchmarks.timing import Row, UnequalError, rows_table
from formless import provenance
from tools.results import Cell, Column, Result, write_result

COLUMNS = (
    Column(name="benchmark"),
    Column(name="what"),
    Column(name="model"),
    Column(name="ratio", format=".1f"),
    Column(name="bar", format="g"),
    Column(name="share of the limit", unit="%", format=".0f"),
    Column(name="goal", unit="%", format=".0f"),
    Column(name="how it was checked"),
    Column(name="note"),
)


def modules() -> list[str]:
    """The names that can be asked for: every module with rows."""
    names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
    return [name for name in names if hasattr(importlib.import_module(f"benchmarks.{name}"), "rows")]


def main(arguments: list[str]) -> int:
    """Run what is asked for; 1 where results differ or a bar is missed."""
    known = modules()
    parser = argparse.ArgumentParser("benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(known)}; all unless given")
    parser.add_argument("--quick", action="store_true", help="tiny inputs, one round: whether it runs, not how fast")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of torch, 2 unless given")
    parser.add_argument("--rounds", type=int, default=timing.most_rounds, help="at most so many of each row")
    parser.add_argument("--json", type=Path, help="where ratios and shares are written")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(known)}")
    timing.most_rounds = options.rounds
    torch.set_num_threads(options.threads)
    threadpool_limits(options.threads)  # of SciPy's and NumPy's own
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of processes that benchmarks start
    named: dict[str, list[Row]] = {}
    failed = False
    for name in options.names or known:
        print(f"{name} ...", file=sys.stderr, flush=True)
        module = importlib.import_module(f"benchmarks.{name}")
        try:
            rows = module.rows(quick=options.quick)
            named[name] = [replace(row, bar=None) for row in rows] if options.quick else rows
        except UnequalError as error:
            failed = True
            print(f"{name}: the two ways differ: {error}", file=sys.stderr)
    machine = f"{provenance.hardware()['cpu']}, {options.threads} threads"
    print(f"{machine}, torch {torch.__version__}; seconds: shortest / median\n")
    if options.json and named:
        write_json(options.json, named, machine)
    measured = [row for rows in named.values() for row in rows]
    if measured:
        print(rows_table(measured))
    return int(failed or not all(row.is_met for row in measured))


def write_json(path: Path, named: Mapping[str, Sequence[Row]], machine: str) -> None:
    """Write the rows without their seconds; rows that the file has of other benchmarks stay, its title and its notes."""
    before = Result.model_validate_json(path.read_text("utf-8")) if path.exists() else None
    found: list[list[Cell]] = [row for row in before.rows if row[0] not in named] if before else []
    for name, rows in named.items():
        for row in rows:
            share, goal = (None if value is None else round(100 * value) for value in (row.share, row.goal))
            ratio = None if row.ratio is None else round(row.ratio, 1)
            found.append([name, row.what, row.model, ratio, row.bar, share, goal, row.checked, row.note])
    write_result(
        path,
        Result(
            title=before.title if before else "Speed beside a plain implementation, and beside the limit",
            topic="Speed and memory",
            about=(
                "The ratio says how many times longer a plain implementation of the published way takes, in turns on one "
                "machine with the same threads; the results of both are equal. The share of the limit is the time that the "
                "needed operations take at the rate of the model's own matrices, over the time that was taken."
            ),
            date=datetime.now(timezone.utc).date(),
            versions={"torch": torch.__version__.partition("+")[0]},
            hardware=machine,
            n=f"{rounds_taken(named)} of each row; the ratio is that of the medians, the share that of the shortest",
            command=f"python -m benchmarks --json docs/results/{path.name}",
            columns=list(COLUMNS),
            rows=sorted(found, key=lambda row: str(row[0])),
            notes=before.notes if before else [],
        ),
    )


def rounds_taken(named: Mapping[str, Sequence[Row]]) -> str:
    """How many rounds the rows had, e.g. "1 to 3 rounds"."""
    counts = sorted({len(row.ours.seconds) for rows in named.values() for row in rows})
    return f"{' to '.join(map(str, dict.fromkeys([*counts[:1], *counts[-1:]])))} round{'s' * (counts[-1:] != [1])}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

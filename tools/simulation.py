"""Work out on paper what a sweep of a large model on many GPUs takes: hours, bytes, and what holds it up first.

    python -m tools.simulation measure --data RWKU/Target --out measured.json
    python -m tools.simulation page measured.json

The first command measures on this machine what does not depend on a GPU; the second writes docs/results/simulation.json.
Rates of GPUs and of the shared folder are assumptions, each with a slow and a fast value.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from formless import provenance
from formless.data.ort import find_target
from formless.methods.base import MethodConfig
from formless.methods.duration import BACKWARD
from formless.methods.registry import METHODS, method_config
from formless.methods.training.config import TrainingConfig
from formless.models.settings import settings_for
from tools.results import FOLDER, Cell, Column, Result, write_result

MODEL, TARGETS, SEEDS, GPUS, SUITE = "llama3", 100, 3, 64, "rwku"
SPREAD = 0.1
"""Standard deviation of the logarithm of a run's time: some runs and some cards are slower than others."""

HIDDEN, INNER, KEY_VALUE, LAYERS = 4096, 14336, 1024, 32
QUERY_AND_VALUE = ((HIDDEN, HIDDEN), (HIDDEN, KEY_VALUE))  # what LoRA adapts unless told otherwise
REMOVED = 0.2  # of the width of a null space, as in the bundled model
FLOAT32, FLOAT16 = 4, 2
FILES = {"ga_passage": "passage", "dpo": "pair"} | dict.fromkeys(("rt", "idk_nll", "dpo_reject", "idk_dpo"), "reject")
"""The training file, where it is not a target's biographies; an unwritten file counts as the one that it resembles."""


class Measured(BaseModel):
    """What was measured.

    Args:
        reading: Tokens of each pass through the model in one evaluation of one target, of the tasks that score.
        writing: The same of the tasks that generate; most passes are one step of a batch.
        training_tokens: Tokens of each training file.
        record_bytes: Of record.json.
        result_bytes: Of run.json.
        driver_ms: Work of the sweep's process for one run, without messages.
        message_ms: The same for one message of an actor, Ray's part too.
        status_s: CPU seconds of `formless status` on all runs with small records.
        report_s: The same of `formless report`.
        read_mb_s: How fast records of the real size are read, checked and parsed for a report, by CPU time.
        remarks: What was measured otherwise.
    """

    model_config = ConfigDict(extra="forbid")

    reading: list[int]
    writing: list[int]
    training_tokens: dict[str, int]
    record_bytes: int
    result_bytes: int
    driver_ms: float
    message_ms: float
    status_s: float
    report_s: float
    read_mb_s: float
    remarks: list[str] = []


@dataclass(frozen=True)
class Rates:
    """What is assumed of GPUs and of the shared folder.

    Args:
        reading: Floating-point operations a second where the model reads.
        training: The same in a training step.
        step: The least seconds of one pass, however few its tokens: the weights are read once, and every kernel is started.
        rocr: Seconds of an edit.
        cdr: Seconds of the removal of a direction.
        folder: Bytes a second of the shared folder, for all machines together.
        start: Seconds until an actor has imported everything.
    """

    reading: float
    training: float
    step: float
    rocr: float
    cdr: float
    folder: float
    start: float


PEAK, BANDWIDTH = 989e12, 3.35e12  # an H100's dense bfloat16 operations and bytes of memory a second
SLOW = Rates(0.25 * PEAK, 0.2 * PEAK, 0.035, 2.0, 60.0, 2e9, 60.0)
FAST = Rates(0.55 * PEAK, 0.45 * PEAK, 0.008, 0.05, 5.0, 20e9, 15.0)
ASSUMPTIONS = (
    ("reading: share of an H100's 989 TFLOP/s", 0.25, 0.55),
    ("training: the same", 0.2, 0.45),
    ("the least of one pass, ms; to read the weights alone takes 4.8", 35, 8),
    ("an edit by ROCR, s", 2, 0.05),
    ("an edit by CDR, s", 60, 5),
    ("shared folder, GB/s for all machines", 2, 20),
    ("start of an actor, s", 60, 15),
)


MOVES = {
    "edits": "fewer epochs or seeds of the trained methods, which are nearly all of it, as ROCR's edits take seconds",
    "evaluations: tasks that score": "fuller passes, and several edits of one target in a batch",
    "evaluations: tasks that generate": "fewer or shorter written answers, and larger batches of them",
    "repeated evaluations of the original": "the original model's runs first",
    "loading the model": "a copy of the model on each machine's own disk",
    "waiting for the last runs": "the longest runs first",
}
"""What makes less of each kind of work."""


@dataclass(frozen=True)
class Job:
    """One run: what it takes a GPU.

    Args:
        target: The number of the target.
        method: The method.
        seconds: Of the edit and the evaluation.
        needs_original: Whether the original model is evaluated without the neighbors that the edit was trained on.
    """

    target: int
    method: str
    seconds: float
    needs_original: bool


@dataclass(frozen=True)
class Outcome:
    """How a sweep went.

    Args:
        seconds: From the start to the end of the last run.
        worked: Seconds of runs on all GPUs together, repeated evaluations included.
        repeated: Seconds of the evaluations of the original model that another actor was doing at the same moment.
        loading: Seconds until the actors have their models.
        idle: Seconds that GPUs wait at the end for the last run.
    """

    seconds: float
    worked: float
    repeated: float
    loading: float
    idle: float


def parameters() -> int:
    """Return the number of the model's parameters."""
    return int(settings_for(MODEL).parameters or 0)


def passes_seconds(passes: Iterable[int], rates: Rates) -> float:
    """Return the seconds of passes of so many tokens: two operations per token and parameter, or the least of a pass."""
    return sum(max(rates.step, 2 * parameters() * tokens / rates.reading) for tokens in passes)


def evaluation_seconds(measured: Measured, rates: Rates) -> float:
    """Return the seconds of one evaluation of one target."""
    return passes_seconds(measured.reading + measured.writing, rates)


def edit_seconds(method: str, config: MethodConfig, measured: Measured, rates: Rates) -> float:
    """Return the seconds of one edit."""
    if isinstance(config, TrainingConfig):
        tokens = measured.training_tokens[FILES.get(method, "positive")] * config.num_train_epochs
        read = tokens * (2 if config.retain != "none" else 1)  # the retain set has as many rows
        return BACKWARD * 2 * parameters() * read / rates.training
    return {"rocr": rates.rocr, "cdr": rates.cdr}.get(method, 0.0)


def jobs(measured: Measured, rates: Rates) -> list[Job]:
    """Return the runs in the order of a sweep: target by target, method by method, seed by seed."""
    settings = settings_for(MODEL)
    evaluating = evaluation_seconds(measured, rates)
    of_target = []
    for method in METHODS:
        config = method_config(settings, method, {})
        seconds = edit_seconds(method, config, measured, rates) + evaluating
        needs = isinstance(config, TrainingConfig) and config.retain != "none"
        of_target += [(method, seconds, needs)] * (SEEDS if "seed" in type(config).model_fields else 1)
    return [Job(number, *one) for number in range(TARGETS) for one in of_target]


def simulate(work: Sequence[Job], rates: Rates, measured: Measured, *, gpus: int = GPUS, spread: float = SPREAD) -> Outcome:
    """Let actors take runs in order, and count what they wait for.

    All actors load the model at once from the shared folder. The sweep's process gives out one run after the other. An actor
    that needs an original model's record evaluates it itself while no other has finished it.
    """
    evaluating = evaluation_seconds(measured, rates)
    loading = rates.start + gpus * FLOAT16 * parameters() / rates.folder
    chance = random.Random(0)
    free = [(loading, number) for number in range(gpus)]
    driver = worked = repeated = 0.0
    known: dict[int, float] = {}  # when a target's original record is there
    for job in work:
        moment, actor = heapq.heappop(free)
        driver = max(driver, moment) + measured.driver_ms / 1000
        seconds = job.seconds * chance.lognormvariate(0, spread)
        if job.needs_original and known.get(job.target, float("inf")) > driver + seconds:
            seconds += evaluating
            repeated += evaluating if job.target in known else 0.0
            known[job.target] = min(known.get(job.target, float("inf")), driver + seconds)
        worked += seconds
        heapq.heappush(free, (driver + seconds, actor))
    ends = [moment for moment, _ in free]
    return Outcome(max(ends), worked, repeated, loading, sum(max(ends) - end for end in ends))


def adapter_bytes(r: int, shapes: Sequence[tuple[int, int]] = QUERY_AND_VALUE, layers: int = LAYERS) -> int:
    """Return the bytes of a LoRA adapter in float32, of projections of those shapes in each layer."""
    return FLOAT32 * layers * r * sum(rows + columns for rows, columns in shapes)


def stored(measured: Measured) -> dict[str, float]:
    """Return the bytes that the sweep leaves, by kind."""
    settings, work = settings_for(MODEL), jobs(measured, FAST)
    configs = {name: method_config(settings, name, {}) for name in METHODS}
    adapters = [
        adapter_bytes(config.r)
        for job in work
        if isinstance(config := configs[job.method], TrainingConfig) and job.method != "rmu"
    ]
    records = len(work) + sum(job.needs_original for job in work)  # original.json beside record.json
    return {
        "records": records * measured.record_bytes + len(work) * measured.result_bytes,
        "adapters": float(sum(adapters)),
        "null spaces": 3 * INNER * REMOVED * INNER * FLOAT16,
        "cache of original records": 2 * TARGETS * measured.record_bytes,
        "model": FLOAT16 * parameters(),
    }


def busy_driver(measured: Measured, rates: Rates, gpus: int = GPUS) -> float:
    """Return the share of one core that the sweep's process needs: five messages a second from each actor, and the runs."""
    work = jobs(measured, rates)
    mean = sum(job.seconds for job in work) / len(work)
    return gpus * (5 * measured.message_ms + measured.driver_ms / mean) / 1000


def page(measured: Measured) -> Result:
    """Return the results page."""
    columns = [Column(name="what"), Column(name="slow"), Column(name="fast"), Column(name="from")]
    rows = [_shown(row) for row in _rows(measured)]
    slow, fast = (simulate(jobs(measured, rates), rates, measured) for rates in (SLOW, FAST))
    return Result(
        title="A large sweep on paper", topic="Speed and memory",
        about=f"{TARGETS} targets, {len(METHODS)} methods and {SEEDS} seeds of an 8B model on {GPUS} GPUs: hours, bytes and "
        "the first bottleneck, worked out from measured counts and assumed rates.",
        date=date.today(), versions=provenance.versions(),
        hardware="none: a simulation; what is measured, on two CPU cores that did other work as well",
        n=f"{len(jobs(measured, FAST)):,} runs (three methods use no seed), suite `{SUITE}`, one target counted",
        command=[line.strip() for line in (__doc__ or "").splitlines() if line.startswith("    python")],
        columns=columns, rows=rows, notes=_notes(measured, slow, fast),
    )  # fmt: skip


def shares(measured: Measured, rates: Rates) -> dict[str, float]:
    """Return which share of all GPU time each kind of work takes, the largest first."""
    work = jobs(measured, rates)
    found = simulate(work, rates, measured)
    settings = settings_for(MODEL)
    edits = {name: edit_seconds(name, method_config(settings, name, {}), measured, rates) for name in METHODS}
    parts = {
        "evaluations: tasks that score": len(work) * passes_seconds(measured.reading, rates),
        "evaluations: tasks that generate": len(work) * passes_seconds(measured.writing, rates),
        "edits": sum(edits[job.method] for job in work),
        "repeated evaluations of the original": found.repeated,
        "loading the model": GPUS * found.loading,
        "waiting for the last runs": found.idle,
    }
    whole = GPUS * found.seconds
    return {name: part / whole for name, part in sorted(parts.items(), key=lambda pair: -pair[1])}


def _rows(measured: Measured) -> Iterable[list[Cell]]:
    both = [(rates, simulate(jobs(measured, rates), rates, measured)) for rates in (SLOW, FAST)]
    yield ["hours", *(found.seconds / 3600 for _, found in both), "simulated"]
    yield ["GPU hours", *(GPUS * found.seconds / 3600 for _, found in both), "simulated"]
    yield ["minutes until all actors have the model", *(found.loading / 60 for _, found in both), "simulated"]
    by_name = [shares(measured, rates) for rates in (SLOW, FAST)]
    for name in by_name[0]:
        yield [f"{name}, % of GPU time", *(100 * found[name] for found in by_name), "simulated"]
    yield ["sweep's process, % of one core", *(100 * busy_driver(measured, rates) for rates, _ in both), "measured parts"]
    for name, size in stored(measured).items():
        yield [f"{name}, GB", size / 1e9, size / 1e9, "shapes" if name != "records" else "measured"]
    read = stored(measured)["records"] / 1e6 / measured.read_mb_s
    yield ["`formless status` at the end, s", *[measured.status_s] * 2, "measured"]
    yield ["`formless report` at the end, s", *[measured.report_s + read] * 2, "measured parts"]
    for what, low, high in ASSUMPTIONS:
        yield [what, low, high, "assumed"]
    for what, passes in (("score", measured.reading), ("generate", measured.writing)):
        yield [f"one evaluation, tasks that {what}: tokens", *[sum(passes)] * 2, "measured"]
        yield [f"one evaluation, tasks that {what}: passes", *[len(passes)] * 2, "measured"]
    yield ["work of the sweep's process for one run, ms", *[measured.driver_ms] * 2, "measured"]
    yield ["and for one message of an actor, ms", *[measured.message_ms] * 2, "measured"]


def _shown(row: list[Cell]) -> list[Cell]:
    """Round numbers to three digits."""
    return [float(f"{cell:.3g}") if isinstance(cell, float) else cell for cell in row]


def _notes(measured: Measured, slow: Outcome, fast: Outcome) -> list[str]:
    first = [next(iter(shares(measured, rates).items())) for rates in (SLOW, FAST)]
    double = [simulate(jobs(measured, rates), rates, measured, gpus=2 * GPUS).seconds for rates in (SLOW, FAST)]
    moves = "; ".join(dict.fromkeys(MOVES[name] for name, _ in first))
    most = [GPUS / busy_driver(measured, rates) for rates in (SLOW, FAST)]
    return [
        f"**The first bottleneck**: {first[0][0]} ({100 * first[0][1]:.0f} % of GPU time) with the slow rates, {first[1][0]} "
        f"({100 * first[1][1]:.0f} %) with the fast ones. What moves it: {moves}.",
        f"Twice as many GPUs take {100 * double[0] / slow.seconds:.0f} % (slow) and {100 * double[1] / fast.seconds:.0f} % "
        "(fast) of the time. The model is read from the shared folder once per actor, so loading takes longer with more of "
        "them. A copy on each machine's own disk moves that.",
        f"The sweep's process is full at about {min(most):,.0f} actors, since each of them reports five times a second.",
        "Passes and tokens are counted on one RWKU target, with the bundled model's tokenizer, whose vocabulary is smaller "
        "than Llama 3's, and with random weights, which seldom end an answer early: both are upper bounds. The batches are "
        "those of the machine that counted; a GPU with more free memory has fewer and fuller passes.",
        "A training method reads the counted rows five times, with all tokens once more for a retain set, and a step counts as "
        "three forward passes.",
        "No GPU was used. Machines that are lost, a queue that gives out the GPUs bit by bit, and networks are not simulated.",
        "`formless status` and `formless report` are CPU seconds; both read all records from the shared folder, too.",
        *measured.remarks,
    ]


def main() -> None:
    """Measure, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    measuring = commands.add_parser("measure", help="measure what needs no GPU")
    measuring.add_argument("--data", required=True, help="folder of RWKU's targets")
    measuring.add_argument("--target", default="12")
    measuring.add_argument("--out", type=Path, required=True)
    writing = commands.add_parser("page", help="write docs/results/simulation.json")
    writing.add_argument("measured", type=Path)
    chosen = parser.parse_args()
    if chosen.command == "page":
        write_result(FOLDER / "simulation.json", page(Measured.model_validate_json(chosen.measured.read_text("utf-8"))))
        return
    from tools.simulation_parts import measure

    chosen.out.write_text(measure(find_target(chosen.data, chosen.target)).model_dump_json(indent=2), "utf-8")


if __name__ == "__main__":
    main()

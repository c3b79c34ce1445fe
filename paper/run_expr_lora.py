"""Unlearn and evaluate targets one by one, as the paper's script of this name does, with a sweep of Formless.

python run_expr_lora.py --type=ga_lora --gpu=0 --model=llama3 --end_idx=100
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from layout import DATA, RESULTS, RUNS, PaperModel, carry, complete_runs, read_model, say, write_results

from formless.cli.status import sweep_progress
from formless.data.ort import targets
from formless.errors import OutputError, UnknownNameError, UserError
from formless.experiment.config import Experiment, build_experiment
from formless.experiment.executors.base import Limits, Resources
from formless.experiment.grid import grid
from formless.experiment.progress import RunProgress
from formless.experiment.result import RunResult
from formless.experiment.runs import Run
from formless.experiment.sweep import SweepCallback, sweep


def arguments() -> argparse.Namespace:
    """The published flags; `--suite` and `--limit` are ours."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--type", required=True, help="original, ga_lora, npo_lora, ...: a type of the model's file")
    parser.add_argument("--model", default="llama3", help="a file of models/ by its name, or a YAML file like theirs")
    parser.add_argument("--name", help="only this target")
    parser.add_argument("--start_idx", type=_count, default=0, help="the first target, counted from 0")
    parser.add_argument("--end_idx", type=_count, default=50, help="the target after the last one")
    parser.add_argument("--gpu", help="e.g. 0 or 0,1: one worker process for each; ignored where there is no GPU")
    parser.add_argument("--timeout", type=_count, default=3600, help="seconds for one target, 0 for no limit")
    parser.add_argument("--check_interval", type=_count, default=600, help="seconds without progress: stuck")
    parser.add_argument("--max_retries", type=_count, default=2, help="further attempts, each in a fresh process")
    parser.add_argument("--test_id", help="suffix of the folders of results")
    parser.add_argument("--memory_pool", type=float, default=0, help="without meaning here")
    parser.add_argument("--suite", help="what is asked, as in `formless eval`; that of the model's file unless given")
    parser.add_argument("--limit", type=_count, help="at most so many rows per form and task")
    return parser.parse_args()


def run(chosen: argparse.Namespace) -> int:
    """Execute the runs that are missing or failed; return 1 if any target failed."""
    model = read_model(chosen.model)
    experiment = _experiment(model, chosen)
    folder = Path(model.name) / "_".join(filter(None, (chosen.type, chosen.test_id)))
    out, results = RUNS / folder, RESULTS / folder
    gpus = _gpus(chosen.gpu)
    if chosen.memory_pool:
        say("--memory_pool has no meaning here: PyTorch takes GPU memory as it needs it")
    limits = Limits(timeout=chosen.timeout or None, stuck=chosen.check_interval or None, retries=chosen.max_retries)
    resources = Resources(workers=None if gpus else 1, gpus=gpus, limits=limits)
    _refuse_others(grid(experiment), out)
    with sweep_progress(out) as shown:
        callback = _Results(shown, out, results)
        done = sweep(experiment, out, resources.executor, callback, workers=resources.at_once)
    for result in done.failed:
        say(f"failed: {result.run.target}: {result.reason}; log: {result.run.folder(out).log}")
    complete = done.already_complete + len(done.results) - len(done.failed)
    print(f"{complete} of {len(done.runs)} targets complete, {len(done.failed)} failed; results: {results}")
    return int(bool(done.failed))


def _experiment(model: PaperModel, chosen: argparse.Namespace) -> Experiment:
    if chosen.type not in model.types:
        raise UnknownNameError("type", chosen.type, model.types, where="--type")
    settings = model.types[chosen.type] | {"label": chosen.type}
    basis = settings.get("basis", "none")
    if basis not in ("shipped", "sampled", "none") and not Path(basis).is_dir():
        remedy = "put null_space_project_layer_<N>.pt there, or make them with `formless stats --out`"
        raise UserError(f"no null spaces for {model.name}", where=basis, remedy=remedy)
    ours = {name: value for name in ("suite", "limit") if (value := getattr(chosen, name)) is not None}
    keys = {
        "name": f"{model.name} {chosen.type}", "models": [{"name": model.path, "dtype": model.dtype}], "methods": [settings],
        "data": str(DATA), "targets": _targets(chosen), **model.keys, **ours,
    }  # fmt: skip
    return build_experiment(keys, model.file)


def _targets(chosen: argparse.Namespace) -> list[str]:
    """Return one target by name, or a range of all targets by number."""
    if chosen.name:
        return [chosen.name]
    known = [target.folder.name for target in targets(DATA) if target.folder]
    found = known[chosen.start_idx : chosen.end_idx]
    if not found:
        remedy = f"{DATA} has {len(known)} targets, counted from 0"
        raise UserError("no target is chosen", where="--start_idx, --end_idx", remedy=remedy)
    return found


def _gpus(text: str | None) -> tuple[int, ...]:
    """Read `0,1` as (0, 1); return no numbers on a machine without a GPU."""
    try:
        numbers = tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UserError(f"{text!r} is not a list of GPUs", where="--gpu", remedy="e.g. 0,1") from None
    if any(number < 0 for number in numbers) or len(set(numbers)) < len(numbers):
        raise UserError(f"{text!r} is not a list of GPUs", where="--gpu", remedy="e.g. 0,1")
    if numbers and not torch.cuda.device_count():
        say("PyTorch finds no GPU: --gpu is ignored")
        return ()
    return numbers


def _refuse_others(runs: Sequence[Run], out: Path) -> None:
    """Refuse to mix results of different settings or data: the folder has one result for each target."""
    planned = {run.target: run.id for run in runs}
    for result in complete_runs(out):
        known = result.run
        if _settings(known) != _settings(runs[0]) or planned.get(known.target, known.id) != known.id:
            remedy = "give the new ones a --test_id of their own, or move that folder away"
            raise OutputError("results of other settings or data are there", where=out, remedy=remedy)


def _settings(run: Run) -> tuple[object, ...]:
    """Return what results in one folder have in common."""
    inputs = {name: value for name, value in run.inputs.items() if name not in ("target", "retained")}
    return run.model.dtype, run.method, run.config, run.suite, run.limit, run.style, inputs


class _Results:
    """A callback that writes a run's results as soon as it is complete.

    Args:
        shown: The callback that shows the progress.
        out: The folder of the runs.
        results: The folder of the results.
    """

    def __init__(self, shown: SweepCallback, out: Path, results: Path) -> None:
        self._shown, self._out, self._results = shown, out, results

    def on_begin(self, runs: Sequence[Run], done: Sequence[RunResult], workers: int) -> None:
        """See `SweepCallback`."""
        for result in done:
            write_results(result, self._out, self._results)
        self._shown.on_begin(runs, done, workers)

    def on_damage(self, run: Run, reason: str) -> None:
        """See `SweepCallback`."""
        self._shown.on_damage(run, reason)

    def on_progress(self, run: Run, progress: RunProgress) -> None:
        """See `SweepCallback`."""
        self._shown.on_progress(run, progress)

    def on_end(self, result: RunResult) -> None:
        """See `SweepCallback`."""
        if result.is_complete:
            write_results(result, self._out, self._results)
        self._shown.on_end(result)


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("a number under 0")
    return number


if __name__ == "__main__":
    chosen = arguments()
    carry(lambda: run(chosen))

"""`formless tune`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from formless import store
from formless.cli import completion, terminal
from formless.cli.status import sweep_progress, time_left
from formless.errors import INTERRUPTED, DataError, EditError, UserError

if TYPE_CHECKING:
    from formless.experiment.progress import RunProgress
    from formless.experiment.result import RunResult
    from formless.experiment.runs import Run
    from formless.experiment.sweep import SweepCallback, SweepResult
    from formless.experiment.tune import Tuning
    from formless.models.meta import MetaModel
    from formless.models.settings import ModelSettings


def tune_command(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the runs and of recipe.yaml.")],
    model: terminal.ModelOption = "smollm2",
    method: Annotated[str, typer.Option(help="cdr or rocr.", autocompletion=completion.methods)] = "cdr",
    data: Annotated[str, typer.Option(help="A folder in the ORT layout, or 'sample'.")] = "sample",
    targets: Annotated[
        str | None,
        typer.Option(
            "--targets",
            "-t",
            help="Development concepts, 1-4 or names; the first four unless given.",
            autocompletion=completion.targets,
        ),
    ] = None,
    window: Annotated[int, typer.Option(min=1, help="Neighboring layers that are edited together.")] = 3,
    first_layers: Annotated[
        str | None, typer.Option(help="First layers of the windows, e.g. 2,3,4; every second of the first half unless given.")
    ] = None,
    values: Annotated[
        str | None, typer.Option(help="Values of cdr's budget (0.01,0.04,0.16 unless given) or of rocr's l2 (10,1,0.1).")
    ] = None,
    suite: Annotated[
        str, typer.Option(help="As in `formless eval`.", autocompletion=completion.suites)
    ] = "statement,qa,qa_mentions,reverse",
    limit: Annotated[int, typer.Option(min=1, help="Most rows per file and task.")] = 8,
    others: Annotated[
        list[str] | None, typer.Option("--set", help="Another setting, the same everywhere, NAME=VALUE; repeatable.")
    ] = None,
    dtype: terminal.DtypeOption = "auto",
    device: terminal.DeviceOption = "auto",
    trust_remote_code: terminal.TrustOption = False,
    json: terminal.JsonOption = False,
) -> None:
    """Choose a method's layers and strength for a model on development concepts, and write them as a recipe with the evidence.

    Windows of layers in the model's first half are tried with every value of cdr's budget or of rocr's l2, and measured on
    every concept. Repeat the command to resume it. Exit code 1 if any run failed. Report results on other concepts than those.

    Example: formless tune --model smollm2 --out tuned

    Example: formless unlearn --model tuned/recipe.yaml --target "Isaac Newton" --out edits/newton
    """
    from formless.experiment.config import ModelChoice
    from formless.experiment.tune import DEVELOPMENT, Tuning, tuned_setting, windows
    from formless.models.meta import load_meta
    from formless.models.reading.placement import find_device
    from formless.models.settings import settings_for
    from formless.report.as_json import tried_json
    from formless.report.tuning import choose, read_tried, recipe, tuning_table

    setting = tuned_setting(method)
    numbers = setting.values if values is None else _numbers(values)
    firsts = None if first_layers is None else terminal.parse_layers(first_layers, where="--first-layers")
    options = terminal.parse_settings(others or [])
    find_device(device)
    terminal.quiet_transformers()
    choice = ModelChoice(name=model, dtype=_dtype(dtype), device=device, trust_remote_code=trust_remote_code)
    with terminal.progress(f"preparing {model}") as bar:
        meta = load_meta(model, dtype=dtype, trust_remote_code=trust_remote_code, progress=bar)
    layers = windows(meta.architecture.depth(meta.model), window, firsts)
    concepts = targets or _first(data, DEVELOPMENT)
    tuning = Tuning(choice, method, layers, numbers, options, data, concepts, suite, limit)
    settings = settings_for(model)
    _check_settings(meta, settings, tuning)
    done = _sweep(tuning, out)
    for result in done.failed:
        terminal.say(f"failed: {result.run.title}: {result.reason}", json=json)
    tried = read_tried(out)
    chosen = choose(tried)
    path = store.ExperimentFolder(out).recipe
    store.write_text(path, recipe(settings, chosen, tried, options, _about(tuning, done.runs)))
    if json:
        failed = [{"run": result.run.title, "reason": result.reason} for result in done.failed]
        rows = [tried_json(one) for one in tried]
        terminal.print_json(
            {"method": method, "tried": rows, "chosen": tried_json(chosen), "recipe": str(path), "failed": failed}
        )
    else:
        terminal.show_table(tuning_table(tried, chosen))
    what = f"chosen: layers {list(chosen.layers)}, {setting.name} {chosen.value:g}; recipe: {path}"
    terminal.say(what, json=json)
    terminal.say(f"use it with --model {path} --method {method}, and report on other concepts than these", json=json)
    if done.failed:
        raise typer.Exit(1)


def _first(data: str, count: int) -> str:
    """Return the folders of a data set's first concepts, as a list for `--targets`."""
    from formless.experiment.grid import chosen_targets

    names = [target.folder.name.split("_")[0] for target in chosen_targets(data, "all")[:count] if target.folder]
    return ",".join(names)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{text[:100]!r} is not a list of numbers", where="--values", remedy="e.g. 2,4,8") from None


def _dtype(name: str) -> Any:
    from formless.models.reading.placement import DTYPES

    if name not in DTYPES:
        raise UserError(f"unknown dtype {name!r}", where="--dtype", remedy=f"choose from {', '.join(DTYPES)}")
    return name


def _check_settings(meta: MetaModel, settings: ModelSettings, tuning: Tuning) -> None:
    """Refuse wrong settings, and windows whose null spaces are missing, before anything is measured.

    Raises:
        EditError: A null space is missing, or does not fit; the remedy names all layers.
        UserError: A setting is wrong.
    """
    from formless.methods.registry import method_config

    for method in tuning.experiment().methods[1:]:
        try:
            method_config(settings, method.method, method.settings).check_model(meta)
        except EditError as error:
            every = ",".join(str(layer) for layer in sorted({layer for window in tuning.layers for layer in window}))
            make = f"make those of all layers with `formless stats --layers {every}` and give them as --set basis=DIR"
            remedy = f"{make}, or preserve nothing with --set basis=none"
            raise EditError(error.what, where=error.where, remedy=remedy) from None


def _sweep(tuning: Tuning, out: Path) -> SweepResult:
    """Execute the runs; Ctrl-C ends in exit code 130 and says how to resume."""
    from formless.experiment.executors.base import Resources
    from formless.experiment.sweep import sweep

    resources = Resources()
    try:
        with sweep_progress(out) as callback:
            return sweep(tuning.experiment(), out, resources.executor, _WithCost(callback, tuning, out))
    except KeyboardInterrupt:
        again = shlex.join(["formless", *sys.argv[1:]])
        terminal.log.print(f"stopped; every finished run is kept. Resume with: {again}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None


class _WithCost:
    """A sweep's callback that also says what the sweep will cost, once the first concept's original is measured.

    Args:
        callback: What shows the sweep.
        tuning: What is swept.
        out: Its folder.
    """

    def __init__(self, callback: SweepCallback, tuning: Tuning, out: Path) -> None:
        self._callback, self._tuning, self._out = callback, tuning, out
        self._edits = 0

    def on_begin(self, runs: Sequence[Run], done: Sequence[RunResult], workers: int) -> None:
        """See `SweepCallback`."""
        from formless.experiment.runs import ORIGINAL
        from formless.experiment.tune import tuned_setting

        complete = {result.id for result in done}
        self._edits = sum(run.method != ORIGINAL and run.id not in complete for run in runs)
        concepts = len({run.target for run in runs})
        tried = f"{len(self._tuning.values)} values of {tuned_setting(self._tuning.method).name}"
        grid = f"{len(self._tuning.layers)} windows x {tried} x {concepts} concepts"
        terminal.log.print(f"{grid}: {self._edits} edits to compute and to measure", soft_wrap=True)
        self._callback.on_begin(runs, done, workers)
        for result in done:
            self._say_cost(result)

    def on_damage(self, run: Run, reason: str) -> None:
        """See `SweepCallback`."""
        self._callback.on_damage(run, reason)

    def on_progress(self, run: Run, progress: RunProgress) -> None:
        """See `SweepCallback`."""
        self._callback.on_progress(run, progress)

    def on_end(self, result: RunResult) -> None:
        """See `SweepCallback`."""
        self._callback.on_end(result)
        self._say_cost(result)

    def _say_cost(self, result: RunResult) -> None:
        """Estimate the cost from the first record of the original model, which may be from the cache with its seconds."""
        from formless.evaluation.loading import load_record
        from formless.experiment.runs import ORIGINAL

        if result.run.method != ORIGINAL or not result.is_complete or not self._edits:
            return
        try:
            seconds = load_record(result.run.folder(self._out).record).seconds
        except DataError:
            return
        each = f"about {seconds:.1f} s to measure each of {self._edits} edits, and seconds to compute it"
        terminal.log.print(f"{each}: {time_left(seconds * self._edits)}", soft_wrap=True)
        self._edits = 0


def _about(tuning: Tuning, runs: Sequence[Run]) -> dict[str, Any]:
    """Return what the evidence says of the measurement."""
    from formless import provenance

    first = runs[0]
    return {
        "command": shlex.join(["formless", *sys.argv[1:]]), "date": provenance.now()[:10], "method": tuning.method,
        "model": first.inputs["model"], "dtype": first.model.dtype, "data": tuning.data,
        "concepts": list(dict.fromkeys(run.subject for run in runs)), "suite": tuning.suite, "limit": tuning.limit,
    }  # fmt: skip

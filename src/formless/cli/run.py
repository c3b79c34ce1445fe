"""`formless run`."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_type_hints

import typer

from formless.cli import completion, terminal
from formless.cli.status import sweep_progress
from formless.errors import INTERRUPTED, OutputError, UserError
from formless.store import ExperimentFolder

if TYPE_CHECKING:
    from formless.experiment.config import Experiment
    from formless.experiment.executors.base import Resources
    from formless.experiment.sweep import SweepResult


@dataclass(frozen=True)
class GridOptions:
    """The keys of an experiment that the command line can replace."""

    PANEL: ClassVar = "Experiment"

    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Short names, folders or hub ids, a,b.", autocompletion=completion.models),
    ] = None
    retain_model: Annotated[
        str | None,
        typer.Option(help="A model trained without the forget set, to compare with.", autocompletion=completion.models),
    ] = None
    method: Annotated[
        str | None, typer.Option(help="Methods, a,b; see `formless methods`.", autocompletion=completion.methods)
    ] = None
    data: Annotated[str | None, typer.Option(help="A folder in the ORT layout, or 'sample'.")] = None
    targets: Annotated[
        str | None, typer.Option("--targets", "-t", help="all, 1-12, 1,4,7, or names.", autocompletion=completion.targets)
    ] = None
    seeds: Annotated[str | None, typer.Option(help="Seeds for methods that use one, 1,2,3.")] = None
    suite: Annotated[str | None, typer.Option(help="As in `formless eval`.", autocompletion=completion.suites)] = None
    limit: Annotated[int | None, typer.Option(min=1, help="The largest number of rows per task.")] = None
    protocol: Annotated[
        str | None,
        typer.Option(help="'published' or 'open-unlearning': ask as that code does where it differs."),
    ] = None
    save_edits: Annotated[
        bool | None,
        typer.Option("--save-edits/--no-save-edits", help="Keep every edit."),
    ] = None

    def keys(self) -> dict[str, Any]:
        """Return the given options as keys of an experiment."""
        found = {
            "models": _split(self.model), "retain_model": self.retain_model, "methods": _split(self.method), "data": self.data,
            "targets": self.targets, "seeds": _numbers(self.seeds, "--seeds"), "suite": self.suite, "limit": self.limit,
            "protocol": self.protocol, "save_edits": self.save_edits,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class ModelOptions:
    """How every model of the experiment is loaded."""

    PANEL: ClassVar = "Loading the models"

    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; auto by device.")] = None
    device: Annotated[
        str | None,
        typer.Option(help=terminal.DEVICE_HELP),
    ] = None
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Let the model's repository run its own code."),
    ] = False

    def applied(self, keys: dict[str, Any]) -> dict[str, Any]:
        """Return an experiment's keys with these options for every model."""
        found = {"dtype": self.dtype, "device": self.device, "trust_remote_code": self.trust_remote_code or None}
        given = {name: value for name, value in found.items() if value is not None}
        models = keys.get("models")
        models = [models] if isinstance(models, str | dict) else models
        if not given or not isinstance(models, list):
            return keys
        retain = {"retain_model": _with(keys["retain_model"], given)} if keys.get("retain_model") else {}
        return keys | retain | {"models": [_with(model, given) for model in models]}


@dataclass(frozen=True)
class ExecutionOptions:
    """Where runs are executed, and when a worker is given up."""

    PANEL: ClassVar = "Executing the runs"

    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Worker processes; without, all runs in this process."),
    ] = None
    gpu: Annotated[str | None, typer.Option(help="One worker process for each of these GPUs, 0,1.")] = None
    timeout: Annotated[
        float | None,
        typer.Option(min=0.1, help="Seconds for one run, its model loaded; implies a worker."),
    ] = None
    stuck: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help="Seconds without progress until a worker is replaced, 600; implies a worker.",
        ),
    ] = None
    retries: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Further attempts after a crash, each in a fresh process, 1; implies a worker.",
        ),
    ] = None
    executor: Annotated[
        Literal["local", "ray"],
        typer.Option(help="'ray': actors of a Ray cluster, one for each GPU."),
    ] = "local"
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="auto, HOST:PORT or ray://HOST:PORT; 'local', the default, starts Ray on this machine.",
        ),
    ] = None
    worker_cpus: Annotated[int | None, typer.Option(min=1, help="With Ray: CPU cores of each actor.")] = None

    def resources(self) -> Resources:
        """Return what the sweep may use; limits need a worker to supervise, so there is at least one then.

        Raises:
            UserError: Two options contradict each other.
        """
        from formless.experiment.executors.base import Limits, Resources

        found: dict[str, Any] = {"timeout": self.timeout, "stuck": self.stuck, "retries": self.retries}
        given = {name: value for name, value in found.items() if value is not None}
        limits = Limits(**given)
        if self.executor == "ray":
            if self.gpu:
                raise UserError("Ray gives each actor its GPU", where="--gpu", remedy="leave it out")
            return Resources(self.workers, limits=limits, ray=self.ray_address or "local", cores=self.worker_cpus)
        if self.ray_address or self.worker_cpus:
            raise UserError("--ray-address and --worker-cpus need Ray", where="--executor", remedy="add --executor ray")
        gpus = _numbers(self.gpu, "--gpu") or []
        if gpus and self.workers:
            raise UserError("workers are counted twice", where="--workers", remedy="with --gpu there is one for each GPU")
        if any(number < 0 for number in gpus) or len(set(gpus)) < len(gpus):
            raise UserError(f"{self.gpu!r} is not a list of GPUs", where="--gpu", remedy="e.g. 0,1")
        return Resources(self.workers or (1 if given and not gpus else None), tuple(gpus), limits)


def _flat(command: Callable[..., None]) -> Callable[..., None]:
    """Let typer see the fields of a command's dataclasses as the command's own parameters, in one help panel each.

    The dataclasses are the parameters without a default.
    """
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        group: Any = parameter.annotation
        if parameter.default is not inspect.Parameter.empty:
            parameters.append(parameter)
            continue
        groups[name] = group
        hints = get_type_hints(group, include_extras=True)
        for field in fields(group):
            hint = hints[field.name]
            hint.__metadata__[0].rich_help_panel = group.PANEL
            parameters.append(inspect.Parameter(field.name, parameter.kind, default=field.default, annotation=hint))

    def flat(**given: Any) -> None:
        built = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)}) for name, group in groups.items()
        }
        command(**given, **built)

    flat.__name__, flat.__doc__, flat.__module__ = command.__name__, command.__doc__, command.__module__
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    # `inspect.signature`, by which typer reads a command, prefers this attribute; the type of functions does not know it.
    flat.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return flat


@_flat
def run_command(
    grid: GridOptions,
    loading: ModelOptions,
    execution: ExecutionOptions,
    experiment: Annotated[
        str | None, typer.Argument(help="A YAML file, a shipped experiment such as 'sample', or a folder of runs.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the runs; runs/NAME unless given.")] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first run that fails.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Write the report too, OUT/report.html.")] = False,
) -> None:
    """Unlearn and evaluate a grid of models, methods, targets and seeds. Repeat the command to resume it.

    A repeated command executes the runs that are missing or failed. Exit code 1 if any run failed. Options replace the keys of
    the YAML file.

    Example: formless run sample --workers 2 --report

    Example: formless run --model smollm2 --method rocr,icu,original --data sample --targets 1-12 --out runs/first
    """
    from formless.models.reading.placement import find_device

    wanted = _experiment(experiment, out, grid, loading)
    if execution.executor == "local" and not execution.gpu:  # else a worker may have another device than this process
        for device in {model.device for model in (*wanted.models, wanted.retain_model) if model}:
            find_device(device)
    folder = out or _default_folder(experiment, wanted.name)
    done = _sweep(wanted, folder, execution.resources(), fail_fast, experiment)
    _show(done, folder)
    if report:
        _write_report(folder)
    if done.failed:
        raise typer.Exit(1)


def _experiment(name: str | None, out: Path | None, grid: GridOptions, loading: ModelOptions) -> Experiment:
    """Read the experiment, if one is named, and replace its keys by the options."""
    from formless.experiment.config import build_experiment, experiment_keys

    keys = experiment_keys(name) if name else {"name": out.name if out else "experiment", "models": ["smollm2"]}
    return build_experiment(loading.applied(keys | grid.keys()), name or "command line")


def _default_folder(experiment: str | None, name: str) -> Path:
    """Return a folder of runs itself, or a folder under `runs` for any other experiment."""
    if experiment and ExperimentFolder(Path(experiment)).config.is_file():
        return Path(experiment)
    return Path("runs") / name


def _sweep(experiment: Experiment, folder: Path, resources: Resources, fail_fast: bool, source: str | None) -> SweepResult:
    """Execute the runs; Ctrl-C ends in exit code 130 and says how to resume.

    Raises:
        UserError: A key of the experiment is wrong; it names the source too.
    """
    from formless.experiment.sweep import sweep

    try:
        with sweep_progress(folder) as callback:
            return sweep(experiment, folder, resources.executor, callback, workers=resources.at_once, fail_fast=fail_fast)
    except OutputError:
        raise
    except UserError as error:
        if source is None:
            raise
        where = f"{source}, {error.where}" if error.where else source
        raise UserError(error.what, where=where, remedy=error.remedy) from error
    except KeyboardInterrupt:
        again = shlex.join(["formless", *sys.argv[1:]])
        terminal.log.print(f"stopped; every finished run is kept. Resume with: {again}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None


def _show(done: SweepResult, folder: Path) -> None:
    """Print how the runs ended, each failure with its reason."""
    from formless.experiment.runs import ORIGINAL

    for result in done.failed:
        terminal.out.print(f"failed: {result.run.title}: {result.reason}", soft_wrap=True)
        terminal.out.print(f"  log: {result.run.folder(folder).log}", soft_wrap=True)
    complete = len(done.results) - len(done.failed)
    counts = [f"{done.already_complete} complete before"] * bool(done.already_complete)
    counts += [f"{complete} complete now", f"{len(done.failed)} failed"]
    counts += [f"{done.missing} not reached"] * bool(done.missing)
    terminal.out.print(f"{len(done.runs)} runs: {', '.join(counts)}")
    terminal.out.print(f"records: {folder}", soft_wrap=True)
    if not any(run.method == ORIGINAL and not run.is_retain_model for run in done.runs):
        note = "no run evaluates the original model: `formless summarize` will have nothing to compare with"
        terminal.log.print(note, soft_wrap=True)


def _write_report(folder: Path) -> None:
    from formless.report.page import write_experiment_report

    page = ExperimentFolder(folder).report
    with terminal.progress("report"):
        write_experiment_report(page, folder, command=shlex.join(["formless", *sys.argv[1:]]))
    terminal.out.print(f"report: {page}", soft_wrap=True)


def _with(model: Any, given: dict[str, Any]) -> Any:
    """Return a model's entry with options; what is no entry is left to the validation."""
    entry = {"name": model} if isinstance(model, str) else model
    return entry | given if isinstance(entry, dict) else entry


def _split(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",")]


def _numbers(text: str | None, where: str) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{text!r} is not a list of numbers", where=where, remedy="e.g. 0,1") from None

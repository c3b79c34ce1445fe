"""`formless run`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from formless import store
from formless.cli import terminal
from formless.cli.sweep_progress import sweep_progress
from formless.errors import INTERRUPTED, UserError
from formless.experiment.config import EXPERIMENT, build_experiment, experiment_keys
from formless.experiment.executors.base import Limits
from formless.experiment.executors.choice import Resources
from formless.experiment.executors.ray import LOCAL
from formless.experiment.result import LOG
from formless.experiment.runs import ORIGINAL
from formless.experiment.sweep import Summary, sweep
from formless.report.page import write_experiment_report


def run_command(
    experiment: Annotated[
        str | None, typer.Argument(help="A YAML file, a shipped experiment such as 'sample', or a folder of runs.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Short names, folders or hub ids, a,b.")] = None,
    method: Annotated[str | None, typer.Option(help="Methods, a,b; see `formless methods`.")] = None,
    data: Annotated[str | None, typer.Option(help="A folder in the ORT layout, or 'sample'.")] = None,
    targets: Annotated[str | None, typer.Option("--targets", "-t", help="all, 1-12, 1,4,7, or names.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds of methods that have one, 1,2,3.")] = None,
    suite: Annotated[str | None, typer.Option(help="As in `formless eval`.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many rows per task.")] = None,
    protocol: Annotated[str | None, typer.Option(help="'published': word probes as the published code does.")] = None,
    save_edits: Annotated[bool | None, typer.Option("--save-edits/--no-save-edits", help="Keep every edit.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the runs; runs/NAME unless given.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; without, all in this process.")] = None,
    gpu: Annotated[str | None, typer.Option(help="One worker process for each of these GPUs, 0,1.")] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds for one run, its model loaded; implies a worker process.")
    ] = None,
    stuck: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds without progress until a worker is replaced, 600; implies one.")
    ] = None,
    retries: Annotated[
        int | None, typer.Option(min=0, help="Further attempts after a crash, each in a fresh process, 1; implies a worker.")
    ] = None,
    executor: Annotated[
        Literal["local", "ray"], typer.Option(help="'ray': actors of a Ray cluster, one for each GPU.")
    ] = "local",
    ray_address: Annotated[
        str | None, typer.Option(help="auto, HOST:PORT or ray://HOST:PORT; 'local', the default, starts Ray on this machine.")
    ] = None,
    worker_cpus: Annotated[int | None, typer.Option(min=1, help="With Ray: CPU cores of each actor.")] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first run that fails.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Write the report too, OUT/report.html.")] = False,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; auto by device.")] = None,
    device: Annotated[str | None, typer.Option(help="E.g. cpu or cuda:0; 'spread' puts layers on all devices.")] = None,
    trust_remote_code: terminal.TrustOption = False,
) -> None:
    """Unlearn and evaluate a grid of models, methods, targets and seeds. The same command again does what is missing or failed.

    Exit code 1 if any run failed. Options replace the keys of the YAML file.

    Example: formless run sample --workers 2 --report

    Example: formless run --model smollm2 --method rocr,icu,original --data sample --targets 1-12 --out runs/first
    """
    keys = experiment_keys(experiment) if experiment else {"name": out.name if out else "experiment", "models": ["smollm2"]}
    changes: dict[str, Any] = {
        "models": _split(model), "methods": _split(method), "data": data, "targets": targets,
        "seeds": _numbers(seeds, "--seeds"), "suite": suite, "limit": limit, "protocol": protocol, "save_edits": save_edits,
    }  # fmt: skip
    keys |= {name: value for name, value in changes.items() if value is not None}
    loading = {"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code or None}
    keys = _loaded_so(keys, {name: value for name, value in loading.items() if value is not None})
    wanted = build_experiment(keys, experiment or "command line")
    folder = out or _folder(experiment, wanted.name)
    limits = {"timeout": timeout, "stuck": stuck, "retries": retries}
    given = {name: value for name, value in limits.items() if value is not None}
    if executor == "ray":
        resources = _on_ray(workers, gpu, given, ray_address, worker_cpus)
    elif ray_address or worker_cpus:
        raise UserError("--ray-address and --worker-cpus need Ray", where="--executor", remedy="add --executor ray")
    else:
        resources = _resources(workers, gpu, given)
    try:
        with sweep_progress(folder) as observer:
            done = sweep(wanted, folder, resources.executor, observer, workers=resources.at_once, fail_fast=fail_fast)
    except KeyboardInterrupt:
        again = shlex.join(["formless", *sys.argv[1:]])
        terminal.log.print(f"stopped; every finished run is kept. Go on with: {again}", soft_wrap=True, markup=False)
        raise typer.Exit(INTERRUPTED) from None
    _show(done, folder)
    if report:
        page = store.ExperimentFolder(folder).report
        write_experiment_report(page, folder, command=shlex.join(["formless", *sys.argv[1:]]))
        terminal.out.print(f"report: {page}", soft_wrap=True, markup=False)
    if done.failed:
        raise typer.Exit(1)


def _loaded_so(keys: dict[str, Any], loading: dict[str, Any]) -> dict[str, Any]:
    """The keys with the same way of loading for every model."""
    models = keys.get("models")
    models = [models] if isinstance(models, str | dict) else models
    if not loading or not isinstance(models, list):
        return keys
    named = [{"name": model} if isinstance(model, str) else model for model in models]
    return keys | {"models": [model | loading if isinstance(model, dict) else model for model in named]}


def _resources(workers: int | None, gpu: str | None, limits: dict[str, Any]) -> Resources:
    """Limits need a process to supervise, one unless more are asked for."""
    gpus = _numbers(gpu, "--gpu") or []
    if gpus and workers:
        raise UserError("workers are counted twice", where="--workers", remedy="with --gpu there is one for each GPU")
    if any(number < 0 for number in gpus) or len(set(gpus)) < len(gpus):
        raise UserError(f"{gpu!r} is no list of GPUs", where="--gpu", remedy="e.g. 0,1")
    return Resources(workers or (1 if limits and not gpus else None), tuple(gpus), Limits(**limits))


def _on_ray(workers: int | None, gpu: str | None, limits: dict[str, Any], address: str | None, cores: int | None) -> Resources:
    """Every actor is supervised."""
    if gpu:
        raise UserError("Ray gives each actor its GPU", where="--gpu", remedy="leave it out")
    return Resources(workers, limits=Limits(**limits), ray=address or LOCAL, cores=cores)


def _split(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",")]


def _numbers(text: str | None, where: str) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{text!r} is no list of numbers", where=where, remedy="e.g. 0,1") from None


def _folder(experiment: str | None, name: str) -> Path:
    """A folder of runs goes on in place; anything else has one under `runs`."""
    if experiment and (Path(experiment) / EXPERIMENT).is_file():
        return Path(experiment)
    return Path("runs") / name


def _show(done: Summary, folder: Path) -> None:
    """What became of the runs, each failure with its reason."""
    for report in done.failed:
        terminal.out.print(f"failed: {report.run.title}: {report.reason}", soft_wrap=True, markup=False)
        terminal.out.print(f"  log: {report.run.folder(folder) / LOG}", soft_wrap=True, markup=False)
    complete = len(done.reports) - len(done.failed)
    counts = [f"{done.found} complete before"] * bool(done.found) + [f"{complete} complete now", f"{len(done.failed)} failed"]
    counts += [f"{done.missing} not reached"] * bool(done.missing)
    terminal.out.print(f"{len(done.runs)} runs: {', '.join(counts)}", markup=False)
    terminal.out.print(f"records: {folder}", soft_wrap=True, markup=False)
    if not any(run.method == ORIGINAL for run in done.runs):
        note = "no run measures the original model: `formless summarize` will have nothing to compare with"
        terminal.log.print(note, soft_wrap=True, markup=False)

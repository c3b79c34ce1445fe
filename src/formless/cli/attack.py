"""`formless attack`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from formless import store
from formless.cli import terminal
from formless.errors import UnknownNameError, UserError

if TYPE_CHECKING:
    from formless.experiment.attacks.attack import AttackSettings
    from formless.report.attacks import AttackSummary
    from formless.report.runs import Condition


def attack_command(
    folder: Annotated[Path, typer.Argument(help="A folder that `formless run --out` wrote, with its edits kept.")],
    attacks: Annotated[
        str,
        typer.Option(help="relearning, quantization, or relearn_1, relearn_4, relearn_16, relearn_related, q8_0, q4_0."),
    ] = "relearning,quantization",
    methods: Annotated[str | None, typer.Option(help="Labels of methods, a,b; all unless given.")] = None,
    protocol: Annotated[
        str, typer.Option(help="Fine-tuning: one_epoch (2e-5, batch 32) or two_epochs (1e-5, batch 1).")
    ] = "two_epochs",
    learning_rate: Annotated[float | None, typer.Option(help="Instead of the protocol's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the protocol's.")] = None,
    batch: Annotated[int | None, typer.Option(help="Texts in one step, instead of the protocol's.")] = None,
    lora: Annotated[bool, typer.Option("--lora", help="Train an adapter of rank 8 instead of all weights.")] = False,
    points: Annotated[int, typer.Option(help="Evaluations during each training run.")] = 2,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The HTML page; FOLDER/attacks.html unless given.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write plain numbers.")] = None,
    force: terminal.ForceOption = False,
    json: terminal.JsonOption = False,
) -> None:
    """Attack the weights of edited models and measure what comes back. Repeat the command to resume it.

    Relearning fine-tunes each edited model on 1, 4 and 16 of the concept's known facts, and on text about its neighbors, and
    measures the other facts. Quantization rounds the merged weights to 8 and 4 bits. Each record is kept beside its run and
    measured once; the runs stay as they are. Edits of the prompt are left out. Exit code 1 if something could not be measured.

    Example: formless attack runs/first --csv attacks.csv

    Example: formless attack runs/first --attacks relearn_4,q4_0 --learning-rate 1e-4 --epochs 10
    """
    from formless.experiment.attacks.measure import measure_attacks
    from formless.experiment.attacks.registry import choose_attacks
    from formless.report.attack_page import attack_rows, write_attack_page
    from formless.report.attacks import collect_attacks
    from formless.report.tables import as_csv

    chosen = choose_attacks(_names(attacks))
    settings = _settings(protocol, learning_rate, epochs, batch, lora, points)
    labels = _names(methods or "")
    outputs = [path for path in (out, csv) if path]
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise UserError("two outputs have the same path", where=outputs[0], remedy="choose another")
    for path in outputs:
        store.refuse_existing(path, force=force)
    terminal.quiet_transformers()
    with terminal.progress(f"attacks on {folder}") as bar:
        done = measure_attacks(folder, chosen, settings, methods=labels, progress=bar)
    for title, reason in done.failed:
        terminal.log.print(f"failed: {title}: {reason}", soft_wrap=True)
    summaries, without = collect_attacks(folder, chosen, settings, labels)
    if not json:
        _show(summaries, without)
    if csv:
        store.write_text(csv, as_csv(attack_rows(summaries)))
        terminal.say(f"written: {csv}", json=json)
    page = out or store.ExperimentFolder(folder).attacks
    command = shlex.join(["formless", *sys.argv[1:]])
    write_attack_page(page, summaries, settings, without=without, failed=done.failed, command=command)
    counts = f"{done.already} measured before, {done.now} now" + f", {len(done.failed)} failed" * bool(done.failed)
    terminal.say(f"page: {page}; {counts}", json=json)
    if json:
        terminal.print_json(
            {
                "folder": str(folder), "settings": settings.model_dump(mode="json"), "values": attack_rows(summaries),
                "without": [{**condition._asdict(), "reason": gaps} for condition, gaps in without.items()],
                "failed": [{"run": title, "reason": reason} for title, reason in done.failed],
                "measured_before": done.already, "measured_now": done.now, "page": str(page),
            }
        )  # fmt: skip
    if done.failed:
        raise typer.Exit(1)


def _show(summaries: Sequence[AttackSummary], without: Mapping[Condition, str]) -> None:
    """Print what attacks bring back of each method, and what was not attacked."""
    from formless.report.attack_page import attack_table, headline, removal

    for summary in summaries:
        terminal.out.print(headline(summary), soft_wrap=True)
        terminal.show_table(attack_table(summary, f"{summary.condition.title}: attacks, the worst first"))
    for model in dict.fromkeys(summary.condition.model for summary in summaries):
        first = next(summary for summary in summaries if summary.condition.model == model)
        terminal.out.print(removal(first), soft_wrap=True)
    for condition, gaps in without.items():
        terminal.out.print(f"not attacked: {condition.title}: {gaps}", soft_wrap=True)


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _settings(
    protocol: str, learning_rate: float | None, epochs: int | None, batch: int | None, lora: bool, points: int
) -> AttackSettings:
    """Return the settings of a protocol, or custom ones.

    Raises:
        UnknownNameError: No protocol has the name.
        UserError: A number is out of range.
    """
    from pydantic import ValidationError

    from formless.experiment.attacks.attack import AttackSettings
    from formless.experiment.attacks.relearning import PROTOCOLS

    if protocol not in PROTOCOLS:
        raise UnknownNameError("protocol", protocol, PROTOCOLS, where="--protocol")
    given = {"learning_rate": learning_rate, "num_train_epochs": epochs, "per_device_train_batch_size": batch}
    changes = {name: value for name, value in given.items() if value is not None}
    whole = PROTOCOLS[protocol].model_dump() | changes | {"lora": lora, "points": points}
    known = next((name for name, one in PROTOCOLS.items() if whole.items() >= one.model_dump(include=set(given)).items()), None)
    try:
        return AttackSettings.model_validate(whole | {"protocol": known or "custom"})
    except ValidationError as error:
        first = error.errors()[0]
        options = dict(zip(given, ("--learning-rate", "--epochs", "--batch"), strict=True)) | {"points": "--points"}
        what = f"{first['input']} is out of range"
        raise UserError(what, where=options.get(str(first["loc"][0])), remedy=first["msg"].lower()) from error

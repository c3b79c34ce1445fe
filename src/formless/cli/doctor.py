"""`formless doctor`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from formless.cli import terminal
from formless.methods import DEFAULT_METHOD

if TYPE_CHECKING:
    from formless.cli.checks import Finding


def doctor_command(
    model: terminal.ModelOption = "smollm2",
    dtype: terminal.DtypeOption = "auto",
    device: terminal.DeviceOption = "auto",
    trust_remote_code: terminal.TrustOption = False,
    method: Annotated[str, typer.Option(help="The method whose memory and time are estimated.")] = DEFAULT_METHOD,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting of the method, NAME=VALUE.")] = None,
    edit: Annotated[Path | None, typer.Option(help="A saved edit or a PEFT adapter: whether it fits the model.")] = None,
    load: Annotated[bool, typer.Option("--load", help="Load the weights too, and score an answer with them.")] = False,
    as_json: terminal.JsonOption = False,
) -> None:
    """Say what a model and a method need on this machine, and whether all of it is there. No weights are loaded.

    Memory is counted from shapes, for texts of the maximum length, and leaves out evaluation, which adapts its batches to the
    free memory. Time is estimated from matrix products that are timed here. Each problem has a remedy, and makes the exit code
    1.

    Example: formless doctor --model smollm2

    Example: formless doctor --model smollm2 --method ga --set per_device_train_batch_size=8

    Example: formless doctor --model smollm2 --edit edits/einstein
    """
    from formless.cli.checks import Checkup

    terminal.quiet_transformers()
    with terminal.progress(f"preparing {model}", keep_first=True) as bar:
        checkup = Checkup.of(model, dtype, device, method, terminal.parse_settings(settings or []), trust_remote_code, bar)
    findings = checkup.findings(edit)
    if load:
        findings += checkup.scored(terminal.load_model(model, dtype, device, trust_remote_code))
    if as_json:
        terminal.print_json(
            {"findings": [asdict(found) for found in findings], "memory": checkup.memory(), "seconds": checkup.seconds}
        )
    else:
        _show(findings)
    if any(found.is_problem for found in findings):
        raise typer.Exit(1)


def _show(findings: list[Finding]) -> None:
    for found in findings:
        mark = "problem: " if found.is_problem else ""
        terminal.out.print(f"{found.name:<14} {mark}{found.text}", soft_wrap=True)
        if found.remedy:
            terminal.out.print(f"{'':<14} -> {found.remedy}", soft_wrap=True)

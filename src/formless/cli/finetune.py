"""`formless finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from formless import store
from formless.cli import completion, terminal
from formless.cli.unlearn import checkpoints_beside
from formless.errors import UnknownNameError, UserError


def finetune_command(
    data: Annotated[str, typer.Option(help="Folder of a data set with question sets.")],
    target: Annotated[
        str, typer.Option("--target", "-t", help="The question set: folder name or number.", autocompletion=completion.targets)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the trained model.")],
    model: terminal.ModelOption = "smollm2",
    on: Annotated[str, typer.Option("--on", help="forget,retain; or retain alone, for a retain model.")] = "forget,retain",
    setting: Annotated[list[str] | None, typer.Option("--set", help="A setting, NAME=VALUE; repeatable.")] = None,
    force: terminal.ForceOption = False,
    dtype: terminal.DtypeOption = "auto",
    device: terminal.DeviceOption = "auto",
    trust_remote_code: terminal.TrustOption = False,
) -> None:
    """Teach a model the questions of a set, such as TOFU's made-up authors; a run that was killed continues.

    Unlearning the forget questions can then be compared with a model that never saw them: the retain model.

    Example: formless finetune --data my_data --target 1 --on forget,retain --out models/full

    Example: formless finetune --data my_data --target 1 --on retain --out models/retain
    """
    from formless.data.ort import find_target
    from formless.data.rows import QuestionAnswer
    from formless.methods.registry import checked_settings
    from formless.methods.training.finetuning import PARTS, FinetuningConfig, finetune

    store.refuse_existing(out, force=force, mark=store.FINETUNING)
    parts = list(dict.fromkeys(part.strip() for part in on.split(",")))
    if unknown := next((part for part in parts if part not in PARTS), None):
        raise UnknownNameError("part of a question set", unknown, PARTS, where="--on")
    options = terminal.parse_settings(setting or [])
    config = checked_settings("finetune", FinetuningConfig, options)
    if chosen := next((name for name in ("retain", "trains_on") if name in options), None):
        what = "fine-tuning trains on the parts of --on and has no retain loss"
        raise UserError(what, where=f"setting {chosen}", remedy="leave it out")
    config.refuse_unused(options)
    found = find_target(data, target)
    for part in parts:
        found.rows(PARTS[part], QuestionAnswer)  # a broken file stops here, before the model is loaded
    lm = terminal.load_model(model, dtype, device, trust_remote_code, config.check_model)
    with checkpoints_beside(out) as (work, step):
        resumed = f", resumed after step {step}" if step else ""
        with terminal.progress(f"fine-tuning on {found.subject}{resumed}") as report:
            trained = finetune(lm, found, parts, config, work=work, report=report)
        trained.save(out, force=force)
    facts = trained.facts
    count = sum(file["rows"] for file in facts["files"].values())
    losses = f"loss {facts['first_loss']:.3f} to {facts['last_loss']:.3f}"
    terminal.out.print(f"{count} questions, {facts['steps']} steps in {facts['seconds']:.0f} s{resumed}; {losses}")
    terminal.out.print(f"saved in {out}; `--model {out}` loads it", soft_wrap=True)

"""`formless data train`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from formless.cli import terminal
from formless.data.ort import SAMPLE, find_target
from formless.data.training.drafts import Write
from formless.data.training.write import FILES, check_output, write_training
from formless.models.lm import LM

TEMPERATURE, TOP_P = 0.8, 0.95


def train_command(
    target: Annotated[str, typer.Option("--target", "-t", help="Its folder name, subject or number.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of targets that gets the files.")],
    model: terminal.ModelOption = "smollm2",
    data: Annotated[str, typer.Option(help=f"Folder of targets, or '{SAMPLE}'.")] = SAMPLE,
    rows: Annotated[int, typer.Option(min=1, help="Rows per file (published: 582 biographies, 300 questions).")] = 64,
    files: Annotated[str, typer.Option(help="Which files, as in positive,reject.")] = ",".join(FILES),
    seed: Annotated[int, typer.Option(help="The same seed, model and machine give the same files.")] = 0,
    force: terminal.ForceOption = False,
    dtype: terminal.DtypeOption = "auto",
    device: terminal.DeviceOption = "auto",
    trust_remote_code: terminal.TrustOption = False,
) -> None:
    """Let a model write the texts by which it can unlearn a concept. Goes on where a killed run stopped.

    Example: formless data train --model smollm2 --target "Marie Curie" --rows 64 --out data/mine
    """
    found = find_target(data, target)
    chosen = [name.strip() for name in files.split(",")]
    folder = check_output(found, out, chosen, force=force)
    lm = terminal.load_model(model, dtype, device, trust_remote_code)
    with terminal.progress("training files") as bar:
        outcome = write_training(
            found,
            writer(lm),
            out,
            model=f"{lm.fingerprint} {lm.model.dtype}".replace("torch.", ""),
            files=chosen,
            rows=rows,
            seed=seed,
            force=force,
            progress=bar,
        )
    for name, count in outcome.rows.items():
        terminal.out.print(f"{name}: {count} rows")
    for kind, reasons in outcome.missing.items():
        why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        terminal.out.print(f"{kind} that could not be had: {reasons.total()} ({why})", soft_wrap=True, markup=False)
    terminal.out.print(f"saved in {folder}", soft_wrap=True, markup=False)


def writer(lm: LM) -> Write:
    """What samples from a model: each user message through the chat template, the answer begun."""
    # Without a template nothing parts the message from the answer.
    end = "" if lm.tokenizer.chat_template else "\n"

    def write(asked: Sequence[tuple[str, str]], max_new_tokens: int, seed: int) -> list[str]:
        prompts = [lm.chat_prompt(message + end, begin) for message, begin in asked]
        return lm.sample(prompts, max_new_tokens=max_new_tokens, seed=seed, temperature=TEMPERATURE, top_p=TOP_P)

    return write

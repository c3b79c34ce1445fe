"""What a worker does with the runs that it is given (`worker_process` is how one is started).

One JSON object a line. In: a `Command`. Out, on what was standard output: a `Message`, signals while a run is under way and at
last its report. Whatever else is printed goes to the run's log.
"""

from __future__ import annotations

import faulthandler
import os
import queue
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from pydantic import BaseModel
from transformers.utils import logging as transformers_logging

from formless.errors import OutputError
from formless.experiment.heartbeat import Signal
from formless.experiment.result import LOG, RunReport
from formless.experiment.run import carry_out
from formless.experiment.runs import Run
from formless.experiment.session import Session


class Command(BaseModel):
    """A run to do.

    Args:
        run: What.
        folder: Where its files go.
        attempt: Counted from 1.
    """

    run: Run
    folder: Path
    attempt: int


class Message(BaseModel):
    """What a worker says.

    Args:
        signal: How far the run is.
        report: How it ended.
        fatal: That nothing can be written any more, and why.
    """

    signal: Signal | None = None
    report: RunReport | None = None
    fatal: str | None = None


def work(commands: queue.SimpleQueue[str]) -> NoReturn:
    """Do one command after the other, until something ends the process."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    set_up()
    session = Session()

    def say(message: Message) -> None:
        try:
            replies.write(message.model_dump_json() + "\n")
            replies.flush()
        except BrokenPipeError:
            os._exit(1)

    while True:
        serve(Command.model_validate_json(commands.get()), session, say)


def set_up() -> None:
    """Let a crash say where it was, and libraries be quiet."""
    faulthandler.enable(all_threads=False)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def serve(command: Command, session: Session, say: Callable[[Message], None]) -> None:
    """Do a run; whatever this process prints from now on goes to the run's log.

    Args:
        command: What to do.
        session: What is kept from one run to the next.
        say: Takes signals, and at last the report or what is fatal.
    """
    _print_to(command.folder / LOG)
    try:
        report = carry_out(
            command.run, command.folder, session, lambda signal: say(Message(signal=signal)), attempt=command.attempt
        )
    except OutputError as error:
        say(Message(fatal=str(error)))
    else:
        say(Message(report=report))


def _print_to(path: Path) -> None:
    """Let everything that this process and its libraries print go to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)

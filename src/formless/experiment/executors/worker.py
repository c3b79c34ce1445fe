"""The worker's side of a supervised executor; `worker_process` is how a process of this machine starts it.

The protocol is one JSON object a line. A worker reads an `Attempt` and answers with `Message`s: progress while the run is under
way, and at last its result. Whatever else the process prints goes to the run's log.
"""

from __future__ import annotations

import faulthandler
import os
import queue
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, NoReturn

from pydantic import BaseModel, ConfigDict

from formless.errors import OutputError
from formless.experiment.progress import RunProgress
from formless.experiment.result import RunResult
from formless.experiment.run import Session, execute_run
from formless.experiment.runs import Run
from formless.store import RunFolder


class Attempt(BaseModel):
    """One attempt of a run.

    Args:
        run: The run.
        folder: The run's folder.
        number: The number of the attempt, counted from 1.
    """

    model_config = ConfigDict(frozen=True)

    run: Run
    folder: RunFolder
    number: int


class Message(BaseModel):
    """What a worker says.

    Args:
        progress: How far the run is.
        result: How the run ended.
        fatal: Why no result can be written any more.
    """

    progress: RunProgress | None = None
    result: RunResult | None = None
    fatal: str | None = None


def work(commands: queue.SimpleQueue[str], replies: IO[str]) -> NoReturn:
    """Execute one attempt after the other until the process is ended, and write messages to `replies`."""
    set_up()
    session = Session()

    def say(message: Message) -> None:
        try:
            replies.write(message.model_dump_json() + "\n")
            replies.flush()
        except BrokenPipeError:
            os._exit(1)

    while True:
        serve(Attempt.model_validate_json(commands.get()), session, say)


def set_up() -> None:
    """Print a traceback at a crash, and silence libraries."""
    from transformers.utils import logging as transformers_logging

    faulthandler.enable(all_threads=False)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def serve(attempt: Attempt, session: Session, say: Callable[[Message], None]) -> None:
    """Execute an attempt. Whatever this process prints from now on goes to the run's log.

    Args:
        attempt: The attempt.
        session: What the process keeps from one run to the next.
        say: Called with progress, and at last with the result or the fatal error.
    """
    _print_to(attempt.folder.log)
    try:
        result = execute_run(
            attempt.run, attempt.folder, session, lambda progress: say(Message(progress=progress)), attempt=attempt.number
        )
    except OutputError as error:
        say(Message(fatal=str(error)))
    else:
        say(Message(result=result))


def _print_to(path: Path) -> None:
    """Redirect everything that this process and its libraries print to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)

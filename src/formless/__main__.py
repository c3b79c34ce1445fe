"""The `formless` command, also as `python -m formless`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from pathlib import Path

from formless.cli import streams
from formless.errors import INTERRUPTED, NO_READER, TERMINATED


def main() -> None:
    """Run a command.

    Ctrl-C ends in exit code 130, also while torch and transformers are being imported; SIGTERM in 143, and an output whose
    reader has gone, as in `formless models | head -1`, in 141.
    """
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("HF_HUB_VERBOSITY", "DATASETS_VERBOSITY"):  # they would print a line for each attempt
        os.environ.setdefault(name, "error")
    streams.prepare()
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars of libraries would fill a log
    code = _run()
    if (error := streams.flush()) and code in (None, 0):
        code = (
            NO_READER
            if isinstance(error, BrokenPipeError)
            else _refuse(f"cannot write: {(error.strerror or str(error)).lower()} [standard output]", "free space")
        )
    sys.exit(code)


def _run() -> str | int | None:
    """Import what commands need, run one, and return the exit code."""
    interrupted = INTERRUPTED

    def terminate(*_: object) -> None:
        """Let SIGTERM end a command as Ctrl-C does; a second one does not disturb the end."""
        nonlocal interrupted
        interrupted = TERMINATED
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, terminate)
    sys.unraisablehook = _interrupt_again
    try:
        Path.cwd()
    except OSError:  # torch's libraries would end the process
        return _refuse("the working directory has been removed", "change to a folder that is there")
    try:
        from formless.cli.main import main as run

        run()
    except KeyboardInterrupt:
        return interrupted
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):
            return NO_READER
        return interrupted if ended.code == INTERRUPTED else ended.code
    except (OSError, MemoryError) as error:  # while modules are imported; `run` handles its own
        return _refuse(f"formless cannot start ({error or 'memory runs out'})", "raise the limit (ulimit) that it meets")
    return 0


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """Repeat an interrupt that came while an object was being deleted, where Python drops every exception."""
    if lost.exc_type is KeyboardInterrupt:
        main_thread = threading.main_thread().ident or 0
        threading.Timer(0.02, lambda: signal.pthread_kill(main_thread, signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(lost)


def _refuse(what: str, remedy: str) -> int:
    sys.stderr.write(f"error: {what}: {remedy}\n")
    return 2


if __name__ == "__main__":
    main()

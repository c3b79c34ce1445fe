"""`python -m formless.experiment.executors.worker_process` executes the runs that it reads from its standard input.

The process ends when its input ends, in the middle of a run or of the import of torch too: no worker outlives its sweep.
"""

import os
import queue
import signal
import sys
import threading


def main() -> None:
    """Listen first, then import torch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sweep itself ends its workers at Ctrl-C
    commands: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(commands,), daemon=True).start()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever libraries print goes to the run's log, from their import on
    from formless.experiment.executors.worker import work

    work(commands, replies)


def _listen(commands: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        commands.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()

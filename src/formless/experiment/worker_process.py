"""A worker process: `python -m formless.experiment.worker_process` does the runs that come in on its standard input.

It ends when its input does, in the middle of a run and while torch is still being imported too: no worker outlives its sweep.
"""

import os
import queue
import signal
import sys
import threading


def main() -> None:
    """Listen first, then import what the work needs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which ends its workers itself
    commands: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(commands,), daemon=True).start()
    from formless.experiment.worker import work

    work(commands)


def _listen(commands: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        commands.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()

"""Ctrl-C, and a notebook's interrupt, at a moment when the model can be left as it was."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put an interrupt off until the block ends, for changes that must happen as a whole and take moments.

    Python interrupts the main thread only, so that a block in another one runs as it is.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    late: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda number, frame: late.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if late:
            handler(*late[0])


@contextmanager
def without_leftover_hooks(model: nn.Module) -> Iterator[None]:
    """Remove the hooks that a block leaves on a model when it fails.

    An interrupt may come after a hook is registered and before its removal is certain.
    """
    kept = [(found, {*found}) for module in model.modules() for found in (module._forward_hooks, module._forward_pre_hooks)]
    try:
        yield
    except BaseException:
        for found, before in kept:
            for left in found.keys() - before:
                del found[left]
        raise

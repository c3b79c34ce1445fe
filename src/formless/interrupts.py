"""Ctrl-C, a notebook's interrupt and SIGTERM, at a moment when the model can be left as it was."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


SIGNALS = signal.SIGINT, signal.SIGTERM


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put Ctrl-C and SIGTERM off until the block ends, for changes that must happen as a whole and take moments.

    Python interrupts the main thread only, so that a block in another one runs as it is. A signal without a handler of Python
    is left as it is.
    """
    handled: dict[int, Callable[[int, Any], Any]] = {}
    if threading.current_thread() is threading.main_thread():
        found = ((number, signal.getsignal(number)) for number in SIGNALS)
        handled = {number: handler for number, handler in found if callable(handler)}
    late: dict[int, Any] = {}
    is_over = False

    def put_off(number: int, frame: Any) -> None:
        if is_over:  # another signal has kept this handler from being replaced
            handled[number](number, frame)
        late.setdefault(number, frame)

    try:
        for number in handled:
            signal.signal(number, put_off)
        yield
    finally:
        is_over = True
        for number, handler in handled.items():
            signal.signal(number, handler)
        for number, frame in late.items():
            handled[number](number, frame)


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

"""Progress of long calls: the callback types, and a bar in a terminal or a notebook.

Public functions that take long have a parameter `progress: bool | Progress = True` and open a bar around their work:

    def evaluate(lm, target, suite="ort", *, progress: bool | Progress = True) -> Record:
        with progress_bar(progress, label=target.subject) as report:  # always a callable, whatever the caller gave
            report("blanks", 10, 400)

Functions inside the package take the callback that such a block yields, `report: Progress`, and open no bar of their own.
Work on a model counts its texts only and takes a `WorkProgress`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]
"""Called with the name of the current step, the work done, and the whole work (0 where it is not known)."""

WorkProgress = Callable[[int, int], None]
"""Called with the texts done and all texts: what `LM.score`, `LM.score_texts` and `LM.generate` report."""


def silent(_step: str, _done: int, _total: int) -> None:
    """Report nothing."""


@contextmanager
def progress_bar(progress: bool | Progress, label: str = "") -> Iterator[Progress]:
    """Yield the callback to which a long call reports.

    Args:
        progress: True shows a bar in a terminal (on standard error) or a notebook, and nothing elsewhere. False shows nothing.
            A callback is called in place of a bar.
        label: What the call does; it stands before the step's name.
    """
    if not isinstance(progress, bool):
        yield progress
        return
    if not (progress and can_show_bars()):
        yield silent
        return
    if is_notebook():
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm
    shown = label
    with tqdm(desc=label or None, leave=False, unit="", dynamic_ncols=True) as bar:

        def show(step: str, done: int, total: int) -> None:
            nonlocal shown
            if done < bar.n or (total or None) != bar.total:
                bar.reset()
                bar.total = total or None  # reset() keeps a total where it is given none
            text = ": ".join(part for part in (label, step) if part)
            is_new, shown = text != shown, text
            bar.set_description_str(text, refresh=False)
            bar.update(done - bar.n)
            if is_new or done == total:
                bar.refresh()

        yield show


def can_show_bars() -> bool:
    """Return whether standard error is a terminal or the code runs in a notebook."""
    return is_notebook() or sys.stderr.isatty()


def is_notebook() -> bool:
    """Return whether the code runs in a Jupyter kernel, where IPython shows output as HTML."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell" or "google.colab" in sys.modules

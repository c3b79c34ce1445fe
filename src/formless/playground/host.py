"""The one model in memory, which all sessions of a server share, one at a time."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import Event, Lock
from typing import TYPE_CHECKING

from formless.edits.edit import Edit
from formless.errors import ModelError
from formless.evaluation.evaluate import run_plan
from formless.models import generation
from formless.models.loading import load
from formless.models.meta import MetaModel, load_meta
from formless.models.reading.placement import find_device, is_spread
from formless.models.scores import Ending
from formless.playground.session import CancelledError

if TYPE_CHECKING:
    from torch import Tensor

    from formless.evaluation.plan import Plan
    from formless.evaluation.record import Record
    from formless.models.lm import LM
    from formless.progress import Progress

MAX_RECORDS = 16


class Host:
    """Loads models and keeps the last one.

    Its weights are shared, so that an edit of one session must never be on the model while another session uses it: whoever
    uses the model holds the lock.

    Args:
        dtype: As in `formless.load`.
        device: The same.
        max_new_tokens: The most tokens of an answer.
    """

    def __init__(self, dtype: str = "auto", device: str = "auto", max_new_tokens: int = 96) -> None:
        self._dtype, self._device, self.max_new_tokens = dtype, device, max_new_tokens
        self._lock = Lock()
        self._lm: LM | None = None
        self._name = ""
        self._records: dict[tuple[str, str], Record] = {}

    @contextmanager
    def model(self, name: str, report: Progress) -> Iterator[LM]:
        """Hold the lock, and yield the model of a name; it is loaded first unless it is the one in memory.

        Args:
            name: As in `formless.load`.
            report: The progress callback.

        Raises:
            ModelError: It does not fit into memory, or as `formless.load`.
        """
        if not self._lock.acquire(blocking=False):
            report("waiting for another session", 0, 0)
            self._lock.acquire()
        try:
            lm = self._lm if name == self._name else None
            if lm is None:
                report(f"loading {name}", 0, 0)
                lm = self._change(name, report)
            yield lm
        finally:
            self._lock.release()

    def _change(self, name: str, report: Progress) -> LM:
        """Replace the model in memory; it stays if the new one does not fit or cannot be found."""
        on_cpu = find_device(self._device).type == "cpu"
        meta = load_meta(name, dtype="float32" if on_cpu and self._dtype == "auto" else self._dtype, progress=report)
        if not is_spread(self._device):  # else what does not fit stays on disk
            check_fits(meta, name, on_cpu=on_cpu, freed=_size(self._lm) if self._lm else 0)
        self._lm, self._name = None, ""
        gc.collect()  # the old weights leave before the new ones come
        self._lm = lm = load(name, dtype=self._dtype, device=self._device, progress=report)
        self._name = name
        return lm

    def original_record(self, lm: LM, plan: Plan, report: Progress) -> Record:
        """Return what the model without edits knows; asked once for each plan."""
        key = (lm.fingerprint, plan.digest(lm))
        if key not in self._records:
            while len(self._records) >= MAX_RECORDS:
                del self._records[next(iter(self._records))]
            self._records[key] = run_plan(lm, plan, report)
        return self._records[key]


def check_fits(meta: MetaModel, name: str, *, on_cpu: bool, freed: int) -> None:
    """Refuse a model whose weights do not fit into the free memory.

    Args:
        meta: The model.
        name: Its name.
        on_cpu: Whether it goes into the main memory.
        freed: Bytes that the model in memory takes.

    Raises:
        ModelError: It does not fit.
    """
    if on_cpu:
        import psutil

        free = psutil.virtual_memory().available + freed
    else:
        import torch

        free = torch.cuda.mem_get_info()[0] + freed if torch.cuda.is_available() else 2**62
    need = sum(parameter.numel() for parameter in meta.model.parameters()) * meta.model.dtype.itemsize
    if need > free:
        what = f"the model does not fit: its weights take {need / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
        raise ModelError(what, where=name, remedy="choose a smaller model, or start the playground with --dtype bfloat16")


def _size(lm: LM) -> int:
    return int(lm.model.get_memory_footprint())


@contextmanager
def stacked(lm: LM, edits: Sequence[Edit]) -> Iterator[LM]:
    """Apply several edits at once; leaving the block restores the weights bit for bit."""
    with ExitStack() as stack:
        for edit in edits:
            stack.enter_context(edit.applied(lm))
        yield lm


def answer(
    lm: LM,
    question: str,
    earlier: Sequence[str],
    tell: Callable[[str], None],
    stop: Event,
    max_new_tokens: int,
) -> str:
    """Return the model's greedy answer; it ends with `...` where it is cut.

    Args:
        lm: The model.
        question: The user's message.
        earlier: The turns before it.
        tell: Called with the answer so far after each token.
        stop: Set when the answer is no longer wanted.
        max_new_tokens: The most tokens of the answer.

    Raises:
        CancelledError: It was stopped.
        ModelError: The question is too long for the context.
    """
    tokens: list[int] = []

    def text() -> str:
        return str(lm.tokenizer.decode(tokens, skip_special_tokens=True)).strip()

    def choose(logits: Tensor, _rows: Sequence[int]) -> Tensor:
        if stop.is_set():
            raise CancelledError
        best = logits.argmax(-1)
        tokens.append(int(best[0]))
        tell(text().rstrip("\ufffd"))  # a character of several tokens is not whole yet
        return best

    prompt = lm.chat_prompt(question, earlier=earlier)
    (found,) = generation.continuations(lm, [prompt], [Ending(max_new_tokens)], choose=choose)
    return found.text.strip() + (" ..." if found.is_cut else "")

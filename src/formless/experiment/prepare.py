"""What is done for several runs together, before the first of them: their free answers.

A run asks few questions freely. Each token of so small a batch takes as long as reading the weights does. So one batch holds
the texts of many runs: of the original model, and of every edit that takes seconds. Nothing else of a run is done ahead, so a
process that is killed meanwhile loses seconds of each run. No run's record holds the peak of memory of this batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from formless.edits.adapter import AdapterEdit
from formless.edits.edit import Edit
from formless.edits.prompt import PromptEdit
from formless.errors import UserError
from formless.evaluation.evaluate import FREE_TOKENS, free_requests
from formless.evaluation.plan import make_plan
from formless.evaluation.task import Generate, Given
from formless.experiment.executors.base import RunCallback
from formless.experiment.measure import cached_record
from formless.experiment.progress import Heartbeat
from formless.experiment.run import Prepared, Session, build_run_method, run_log
from formless.experiment.runs import ORIGINAL, Run
from formless.methods.registry import METHODS
from formless.models.edited_rows import EditedPrompts, continue_together, may_share_batches
from formless.models.lm import LM

TOGETHER = 24
"""The most runs whose free answers are written together, and whose edits a kill can lose."""


def shared_batches(runs: Sequence[Run]) -> Iterator[tuple[Run, ...]]:
    """Yield runs of one model that follow each other, at most `TOGETHER` at a time."""
    for _, own in groupby(runs, lambda run: (run.model, run.style)):
        waiting = list(own)
        for start in range(0, len(waiting), TOGETHER):
            yield tuple(waiting[start : start + TOGETHER])


@dataclass(frozen=True)
class _Asked:
    """A run with its edit and what is asked of it together with others.

    Args:
        run: The run.
        edit: Its edit; None for the original model.
        requests: The requests.
    """

    run: Run
    edit: Edit | None
    requests: list[Generate]

    def prompts(self, lm: LM) -> EditedPrompts:
        """Return the prompts with the edit that they are continued under."""
        updates = self.edit.updates if isinstance(self.edit, AdapterEdit) else {}
        applied = nullcontext if self.edit is None else partial(self.edit.applied, lm)
        return EditedPrompts([request.prompt for request in self.requests], updates, applied)


def prepare(runs: Sequence[Run], out: Path, session: Session, callback: RunCallback) -> None:
    """Write the free answers of runs together, and keep them in the session, with the edits that they are of.

    Runs whose edits take minutes are left as they are. A run whose edit fails here is left too: it fails again in its own time.

    Args:
        runs: Runs of one model.
        out: The experiment's folder.
        session: The process's session.
        callback: Called with the progress, as that of the first of the runs that share a batch.

    Raises:
        OutputError: That run's log cannot be opened.
    """
    quick = [run for run in runs if METHODS[run.method].cost != "minutes"]
    if len(quick) < 2:
        return
    folder = quick[0].folder(out)
    heartbeat = Heartbeat(folder, partial(callback, quick[0]))
    with run_log(folder) as log:
        try:
            heartbeat.phase("loading")
            lm = session.model(quick[0])
            with heartbeat.watching(lm):
                heartbeat.phase("unlearning")
                asked = [found for run in quick if (found := _asked(run, out, session, lm, heartbeat))]
                heartbeat.phase("evaluating")
                session.prepared |= _written(lm, asked, heartbeat)
        except Exception as error:  # whatever it is, the runs can do all of it by themselves, and fail with their own reasons
            log(f"the free answers of {len(quick)} runs cannot be written together: {type(error).__name__}: {error}")
            if not isinstance(error, UserError):
                session.forget_model()  # its state is unknown
        finally:
            heartbeat.stop()


def _asked(run: Run, out: Path, session: Session, lm: LM, heartbeat: Heartbeat) -> _Asked | None:
    """Return a run with its edit and its requests; None where nothing can be written together, or where something fails."""
    if not may_share_batches(lm, edits_weights=METHODS[run.method].edits_weights):
        return None
    try:
        target = session.target(run)
        plan = make_plan(target, run.suite, run.limit)
        edit = None
        if run.method != ORIGINAL:
            edit = build_run_method(run, run.folder(out), lm, heartbeat.progress).unlearn(lm, target)
            if not isinstance(edit, AdapterEdit | PromptEdit):
                return _Asked(run, edit, [])
        elif cached_record(lm, plan)[1]:
            return None
        with edit.applied(lm) if edit else nullcontext():
            requests = free_requests(lm, plan)
    except UserError:
        return None
    lengths = [len(lm.encode(request.prompt).ids) for request in requests]
    fitting = [
        request
        for request, length in zip(requests, lengths, strict=True)
        if length > 1 and not lm.context_overflow(length, FREE_TOKENS)
    ]
    return _Asked(run, edit, fitting)


def _written(lm: LM, asked: Sequence[_Asked], heartbeat: Heartbeat) -> dict[str, Prepared]:
    """Return what was prepared, by the run's id; each run gets an equal share of the time."""
    start = time.perf_counter()
    advance = partial(heartbeat.progress, "generating answers")
    texts = continue_together(lm, [own.prompts(lm) for own in asked], max_new_tokens=FREE_TOKENS, progress=advance)
    share = (time.perf_counter() - start) / max(len(asked), 1)
    return {
        own.run.id: Prepared(own.edit, Given(dict(zip(own.requests, found, strict=True)), share), len(asked))
        for own, found in zip(asked, texts, strict=True)
    }

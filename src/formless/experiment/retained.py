"""The records of an experiment's retain model, and the metrics of other runs that compare with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from formless.errors import DataError
from formless.evaluation.evaluate import with_derived
from formless.evaluation.loading import load_record
from formless.evaluation.record import Record
from formless.experiment.result import RunResult, check_result
from formless.experiment.runs import Run

NOT_DONE = "runs without metrics that compare with the retain model, whose own run is not complete"
OTHER_QUESTIONS = "runs without metrics that compare with the retain model, which was asked other questions"


class RetainRecords:
    """Gives records their metrics that compare with the retain model's record of the same target.

    Args:
        out: The folder of the experiment.
        plan: Its runs.
    """

    def __init__(self, out: Path, plan: Iterable[Run]) -> None:
        self._out = out
        self._runs = {run.target: run for run in plan if run.is_retain_model}
        self._read: dict[str, Record | None] = {}
        self.left_out: Counter[str] = Counter()

    def derived(self, run: Run, record: Record) -> Record:
        """Return a run's record with these metrics; unchanged, and counted, where they cannot be computed."""
        if run.target not in self._runs or run.is_retain_model:
            return record
        if run.target not in self._read:
            self._read = {run.target: self._load(self._runs[run.target])}  # one target's at a time
        retained = self._read[run.target]
        if retained is None:
            self.left_out[NOT_DONE] += 1
            return record
        try:
            return with_derived(record, retained)
        except DataError:
            self.left_out[OTHER_QUESTIONS] += 1
            return record

    def _load(self, run: Run) -> Record | None:
        folder = run.folder(self._out)
        try:
            result = check_result(folder, run)
            return load_record(folder.record) if isinstance(result, RunResult) and result.is_complete else None
        except DataError:  # the retain model's own run says why
            return None

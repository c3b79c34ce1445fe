"""How far an experiment's folder is, seen from any process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from formless.experiment.heartbeat import Signal, read_signal
from formless.experiment.lock import Holder, holder
from formless.experiment.progress import Durations
from formless.experiment.result import RunReport, load_report
from formless.experiment.runs import Run
from formless.experiment.sweep import others, read_plan


@dataclass(frozen=True)
class Status:
    """The runs of a folder by how they stand.

    Args:
        holder: The sweep that works on it now, if any.
        complete: Reports.
        failed: Reports, of runs that are not under way again.
        running: What runs say.
        missing: Not done, or interrupted.
        others: How many runs lie there too that the experiment last started there does not have.
        seconds_left: By what is done; nothing where that is not known or nobody works.
    """

    holder: Holder | None
    complete: tuple[RunReport, ...]
    failed: tuple[RunReport, ...]
    running: tuple[tuple[Run, Signal], ...]
    missing: tuple[Run, ...]
    others: int
    seconds_left: float | None


def read_status(out: Path) -> Status:
    """Look at an experiment's folder.

    Raises:
        DataError: No experiment was started there.
    """
    runs = read_plan(out)
    working = holder(out)
    reports: dict[str, list[RunReport]] = {"complete": [], "failed": []}
    running, missing, durations = [], [], Durations()
    for run in runs:
        report, signal = load_report(run.folder(out), run), read_signal(run.folder(out))
        if working and report and not report.is_complete and report.finished < working.started:
            report = None  # to be tried again
        if report:
            reports[report.status].append(report)
        elif working and signal:
            running.append((run, signal))
        else:
            missing.append(run)
        if report and report.is_complete:
            durations.add(run, report.timings["total"])
    left = durations.left(missing, running, working.workers) if working else None
    return Status(
        working, tuple(reports["complete"]), tuple(reports["failed"]), tuple(running), tuple(missing),
        others(out, runs), left,
    )  # fmt: skip

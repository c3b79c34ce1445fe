"""Where and with what the runs of an experiment were made."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from formless.evaluation.record import Record
from formless.experiment.result import RunResult
from formless.report.runs import Group


@dataclass
class Made:
    """Where and with what runs were made: every state that some run has, with how many have it.

    Args:
        code: Commits of formless.
        versions: Packages.
        hardware: Machines.
        weights: Models with their fingerprints.
        configs: Settings by group; the seed is left out.
        first: When the first run began, UTC.
        last: When the last one ended, UTC.
        seconds: Of all runs together.
        resident: The most resident memory of any run, bytes.
        gpu: The most GPU memory of any run, bytes.
    """

    code: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    hardware: Counter[str] = field(default_factory=Counter)
    weights: Counter[str] = field(default_factory=Counter)
    configs: dict[Group, dict[str, Any]] = field(default_factory=dict)
    first: str = ""
    last: str = ""
    seconds: float = 0.0
    resident: int = 0
    gpu: int = 0

    def add(self, group: Group, record: Record, report: RunResult) -> None:
        """Take in one run."""
        code = report.code
        self.code[f"{code.commit}{', changed since' if code.dirty else ''}" if code else "an installed package"] += 1
        self.versions[", ".join(f"{name} {version}" for name, version in report.versions.items())] += 1
        self.hardware[f"{report.hardware['cpu']}, GPU {report.hardware['gpu']}"] += 1
        self.weights[f"{record.model_source}, fingerprint {record.model_fingerprint}, {record.dtype}"] += 1
        self.configs.setdefault(group, {name: value for name, value in report.run.config.items() if name != "seed"})
        self.first = min(filter(None, (self.first, report.started)))
        self.last = max(self.last, report.finished)
        self.seconds += report.timings["total"]
        if report.memory:
            self.resident = max(self.resident, report.memory.resident)
            self.gpu = max(self.gpu, report.memory.gpu or 0)

"""Two ways of doing the same work, timed in turns in one process.

A benchmark is a module of this package with `rows(*, quick=False) -> list[Row]`. Rows exist only where both ways gave the
same results; else `UnequalError` is raised.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from formless.experiment.run import Peak

Clock = Callable[[], float]

most_rounds = 100
"""No row has more rounds, whatever it asks for; set by the command."""


class UnequalError(Exception):
    """Two ways gave different results, so that their times would compare different work."""


@dataclass(frozen=True)
class Times:
    """Seconds of several runs.

    Args:
        seconds: One for each run.
    """

    seconds: tuple[float, ...]

    @property
    def least(self) -> float:
        """The shortest run."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The run in the middle."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        what: The work.
        ours: What Formless takes.
        plain: What the plain implementation of the published way takes; None where it was not run.
        bar: The ratio to reach; nothing where none is set.
        checked: How the results were found equal.
        note: What the work was, and what limits it.
        model: The model and its dtype.
        limit: The seconds that the work needs at least (`benchmarks.limit`).
        goal: The share of the limit to reach.
    """

    what: str
    ours: Times
    plain: Times | None
    bar: float | None
    checked: str
    note: str = ""
    model: str = "135M, float32"
    limit: float | None = None
    goal: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times longer the plain way takes, by the medians."""
        return None if self.plain is None else self.plain.median / self.ours.median

    @property
    def share(self) -> float | None:
        """The share of the limit, by the shortest run, as the limit is the shortest time too."""
        return self.limit and self.limit / self.ours.least

    @property
    def is_met(self) -> bool:
        """Whether the bar is reached."""
        return self.bar is None or (self.ratio or 0) >= self.bar


def repeated(work: Callable[[], object], *, rounds: int, clock: Clock = time.perf_counter) -> Times:
    """Time some work that has run before, several times."""
    return Times(tuple(seconds(work, clock) for _ in range(min(rounds, most_rounds))))


def in_turns(
    ours: Callable[[], object], plain: Callable[[], object], *, rounds: int, clock: Clock = time.perf_counter
) -> tuple[Times, Times]:
    """Time both, one after the other in every round, so that a busy machine slows both alike.

    Args:
        ours: One way; it has run before (the check of its results), so nothing is warmed up here.
        plain: The other.
        rounds: How often.
        clock: Wall time, or `time.process_time` for CPU time of all threads.
    """
    pairs = [(seconds(ours, clock), seconds(plain, clock)) for _ in range(min(rounds, most_rounds))]
    first, second = zip(*pairs, strict=True)
    return Times(first), Times(second)


def seconds(work: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """Time one call."""
    start = clock()
    work()
    return clock() - start


def alone(work: Callable[..., float], *arguments: Any) -> tuple[float, int]:
    """Run a module's function in a process of its own; the seconds that it returns, and the process's peak memory in bytes."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_with_peak, work, *arguments).result()


def _with_peak(work: Callable[..., float], *arguments: Any) -> tuple[float, int]:
    peak = Peak()
    return work(*arguments), peak.read().resident


def check(equal: bool, what: str) -> None:
    """Refuse to time what differs.

    Raises:
        UnequalError: It does.
    """
    if not equal:
        raise UnequalError(what)


def largest_difference(ours: Sequence[float], plain: Sequence[float]) -> float:
    """The largest absolute difference of two lists of numbers.

    Raises:
        UnequalError: They differ in length.
    """
    check(len(ours) == len(plain), f"{len(ours)} numbers beside {len(plain)}")
    return max((abs(a - b) for a, b in zip(ours, plain, strict=True)), default=0.0)


def rows_table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table; seconds are min / median."""
    lines = [
        "| what | model | formless, s | plain, s | ratio | bar | share of the limit | goal | results | note |",
        "| - | - | - | - | - | - | - | - | - | - |",
    ]
    for row in rows:
        bar = "" if row.bar is None else f"{row.bar:g}{'' if row.is_met else ', missed'}"
        cells = [
            row.what, row.model, _pair(row.ours), _pair(row.plain), "" if row.ratio is None else f"{row.ratio:.1f}", bar,
            _percent(row.share), _percent(row.goal), row.checked, row.note,
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _pair(times: Times | None) -> str:
    return "" if times is None else f"{times.least:.3g} / {times.median:.3g}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"

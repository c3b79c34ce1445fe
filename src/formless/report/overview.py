"""The table of `formless summarize`: methods as rows, and as many metrics as the width has room for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from formless.evaluation.record import MetricKey
from formless.report.open_unlearning import TOOL
from formless.report.ratios import COMBINED, FORGETTING, FORM_GAP, RETENTION
from formless.report.recall import WORST_CASE_RECALL
from formless.report.summary import MethodSummary, Summary, metric_keys
from formless.report.tables import Table, gaps_note, is_headline, metric_spec, metric_title, number, spread_text

LONGEST_NAME = 24
"""Longer names of methods, those with every setting, are shortened."""

_FIRST = (FORGETTING, RETENTION, COMBINED, FORM_GAP, WORST_CASE_RECALL)
_GAP = 2  # between two columns

Cells: TypeAlias = tuple[str, ...]
"""The head of a column, then a cell for each method."""


def methods_table(summaries: Sequence[MethodSummary], width: int) -> Table:
    """Return the means over targets of one model's methods, a row for each method.

    Where there is not room for all, form independence and worst-case recall come first, then abilities, then intervals. Beside
    rows of open-unlearning, the metrics that both have come first too, and then the others of theirs that we have a name for.

    Args:
        summaries: Of one model.
        width: The most characters of a line.
    """
    names = short_names([summary.condition.method for summary in summaries])
    fixed: list[Cells] = [("method", *names), ("targets", *(str(len(summary.targets)) for summary in summaries))]
    columns = list(_columns(summaries))
    room, chosen = width - sum(map(_width, fixed)), set()
    for place in sorted(range(len(columns)), key=lambda place: columns[place][0]):
        needed = _width(columns[place][1])
        if needed <= room:
            chosen.add(place)
            room -= needed
    heads, *rows = zip(*fixed, *(columns[place][1] for place in sorted(chosen)), strict=True)
    return Table(f"{summaries[0].condition.model}: means over targets", heads, tuple(rows), gaps_note(summaries))


def short_names(names: Sequence[str]) -> list[str]:
    """Return names that a narrow table has room for: of a long one its first word, with a number where that is not unique."""
    short = [name if len(name) <= LONGEST_NAME else name.split()[0][:LONGEST_NAME] for name in names]
    counts, seen = Counter(short), Counter[str]()
    for place, name in enumerate(short):
        if counts[name] > 1:
            seen[name] += 1
            short[place] = f"{name} ({seen[name]})"
    return short


def _columns(summaries: Sequence[MethodSummary]) -> Iterator[tuple[int, Cells]]:
    """Yield each possible column in the order of the table, with a number that is larger for one that is left out sooner."""
    keys = [key for key in metric_keys(summaries) if is_headline(key)]
    theirs = {key for one in summaries if one.evaluation for key in one.metrics if key.task != TOOL}
    ours = {key for one in summaries if not one.evaluation for key in one.metrics}
    for key in (*(key for key in _FIRST if key in keys), *(key for key in keys if key not in _FIRST)):
        importance = (-1 if key in ours else 1) if key in theirs else _importance(key)
        yield importance, _cells(summaries, key, metric_title(key), _mean)
        if key in _FIRST:
            yield 2, _cells(summaries, key, "95 % CI", lambda found: spread_text(found.value))


def _importance(key: MetricKey) -> int:
    if key in _FIRST:
        return 0
    if key.split is None and metric_spec(key):
        return 1
    return 3 if key.metric in (FORGETTING.metric, RETENTION.metric) else 4


def _cells(summaries: Sequence[MethodSummary], key: MetricKey, head: str, text: Callable[[Summary], str]) -> Cells:
    found = (summary.metrics.get(key) or _beside(summary, key, summaries) for summary in summaries)
    return head, *("–" if one is None else text(one) for one in found)


def _beside(summary: MethodSummary, key: MetricKey, others: Sequence[MethodSummary]) -> Summary | None:
    """Return the baseline's mean of a metric that only a pair has, such as recall, from a method with the same targets."""
    if summary.is_baseline:
        for other in others:
            if other.targets == summary.targets and key in other.metrics and (known := other.metrics[key].baseline):
                return Summary(known)
    return None


def _mean(found: Summary) -> str:
    return number(found.value.value)


def _width(cells: Cells) -> int:
    """Return the width of a column whose head breaks between words."""
    return max(map(len, (*cells[0].split(), *cells[1:]))) + _GAP

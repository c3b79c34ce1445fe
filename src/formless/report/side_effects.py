"""What else an edit moved: neighbors and abilities that got worse by more than noise."""

from __future__ import annotations

from collections.abc import Iterable

from formless.report.comparison import Change
from formless.report.tables import ci_text, difference, is_headline, metric_spec, metric_title, number


def tone(change: Change) -> str:
    """Return the class of a change whose confidence interval leaves out 0, by whether an edit is to bring it about.

    Returns:
        `fell` where the target's metric fell. `warned` where it rose, and where a neighbor's or an ability's got worse. Else
        nothing: also for a metric of which neither direction is better.
    """
    better, ci = _higher_is_better(change), change.difference.ci
    if better is None or ci is None or ci[0] <= 0 <= ci[1]:
        return ""
    is_lower = (ci[1] < 0) == better
    if change.key.split == "forget":
        return "fell" if is_lower else "warned"
    return "warned" if is_lower else ""


def side_effects(changes: Iterable[Change]) -> tuple[list[str], int]:
    """Return a line for each metric of neighbors and abilities that got worse by more than noise, and how many were tested.

    Only headline metrics of whole tasks count, of which one direction is better and which have a confidence interval.
    """
    tested = [change for change in changes if _is_tested(change)]
    return [_line(change) for change in tested if tone(change) == "warned"], len(tested)


def _is_tested(change: Change) -> bool:
    if _higher_is_better(change) is None or not is_headline(change.key):
        return False
    return change.applicable and change.key.split != "forget" and change.difference.ci is not None


def _higher_is_better(change: Change) -> bool | None:
    spec = metric_spec(change.key)
    return spec.higher_is_better if spec else change.higher_is_better


def _line(change: Change) -> str:
    about, found = "Neighbors" if change.key.split else "Abilities", change.difference
    return (
        f"{about}, {metric_title(change.key, short=True)}: {number(change.original.value)} to {number(change.edited.value)} "
        f"(difference {difference(found.value)}, 95 % CI {ci_text(found.ci)}, {found.n} items)"
    )

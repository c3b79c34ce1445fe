"""Tables of form independence: forgetting by form, over which items, and which forms count."""

from __future__ import annotations

from formless.evaluation.record import MetricKey
from formless.report.independence import Independence
from formless.report.ratios import FORGETTING, FORGETTING_ALL
from formless.report.tables import Table, number, p_value, spread_text, task_title


def independence_table(found: Independence, title: str = "") -> Table:
    """Return forgetting and retention by form, the form gap and the combined metric beside the forms that they count.

    Forgetting is that of known items; beside it stand the numbers of known and asked items, and forgetting over all items.
    """
    counted = counted_text(found)
    rows = tuple(
        (key.metric.replace("_", " "), task_title(key.task) if key.task else counted, number(estimate.value),
         spread_text(estimate), p_value(estimate.p), str(estimate.n), *_beside(found, key))
        for key, estimate in found.estimates().items() if key.metric != FORGETTING_ALL.metric
    )  # fmt: skip
    columns = ("metric", "form", "value", "95 % CI", "p", "targets", "known items", "all items")
    return Table(title, columns, rows, unknown_text(found), labels=2)


def _beside(found: Independence, key: MetricKey) -> tuple[str, str]:
    """Return known items of those asked, and the value over all items; empty for what is no form's forgetting."""
    if key.metric != FORGETTING.metric or key.task is None:
        return "", ""
    everything = found.forgetting_all.get(key.task)
    known, asked = found.known.get(key.task, (0, 0))
    return f"{known} of {asked}", number(everything.value if everything else None)


def counted_text(found: Independence) -> str:
    """Return the forms that form gap and combined metric count; with the number of targets, where not all targets have one."""
    counts = {form: estimate.n for form, estimate in found.forgetting.items()}
    most = max(counts.values(), default=0)
    return "; ".join(
        task_title(form) + (f" ({count} of {most} targets)" if count < most else "") for form, count in counts.items()
    )


def unknown_text(found: Independence) -> str:
    """Return the forms in which the original model knows too little to forget anything; empty where there are none."""
    return "; ".join(
        f"{task_title(form)} ({known} of {asked} items known)"
        for form, (known, asked) in found.known.items()
        if form not in found.forgetting
    )

"""Tables of form independence: forgetting by form, over which items, and which forms count."""

from __future__ import annotations

from formless.data.rows import Split
from formless.evaluation.record import MetricKey
from formless.report.independence import Independence
from formless.report.ratios import FORGETTING, FORGETTING_ALL
from formless.report.tables import Table, number, p_value, spread_text, task_title


def independence_table(found: Independence, title: str = "") -> Table:
    """Return forgetting and retention by form, the form gap and the combined metric beside the forms that they count.

    Mentions, kinds of questions and reverse questions have rows too. Both metrics are of known items. Beside them stand the
    numbers of known and asked items, and forgetting over all items.
    """
    counted = counted_text(found)
    rows = tuple(
        (key.metric.replace("_", " "), _asked_as(key) or counted, number(estimate.value),
         spread_text(estimate), p_value(estimate.p), str(estimate.n), *_beside(found, key))
        for key, estimate in found.estimates().items() if key.metric != FORGETTING_ALL.metric
    )  # fmt: skip
    columns = ("metric", "form", "value", "95 % CI", "p", "targets", "known items", "all items")
    return Table(title, columns, rows, unknown_text(found), labels=2)


def _asked_as(key: MetricKey) -> str:
    """Return the task and the group of a metric; empty for one over forms."""
    return ", ".join(filter(None, (task_title(key.task), key.group))) if key.task else ""


def _beside(found: Independence, key: MetricKey) -> tuple[str, str]:
    """Return known items of those asked, and the value over all items; empty where there is none."""
    if key.task is None:
        return "", ""
    split: Split = "forget" if key.metric == FORGETTING.metric else "neighbor"
    known, asked = found.known[split].get((key.task, key.group), (0, 0))
    everything = found.forgetting_all.get(key.task) if split == "forget" and key.group is None else None
    return f"{known} of {asked}", number(everything.value) if everything else ""


def counted_text(found: Independence) -> str:
    """Return the forms that form gap and combined metric count; with the number of targets, where not all targets have one."""
    counts = {form: estimate.n for form, estimate in found.forgetting.items()}
    most = max(counts.values(), default=0)
    return "; ".join(
        task_title(form) + (f" ({count} of {most} targets)" if count < most else "") for form, count in counts.items()
    )


def unknown_text(found: Independence) -> str:
    """Return the forms, and reverse questions and the like, of which the original model knows too little to forget anything."""
    counted = {key.task for key in found.estimates() if key.metric == FORGETTING.metric}
    return "; ".join(
        f"{task_title(name)} ({known} of {asked} items known)"
        for (name, group), (known, asked) in found.known["forget"].items()
        if group is None and name not in counted
    )

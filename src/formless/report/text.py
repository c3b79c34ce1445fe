"""Figures as short text, for tables on a terminal and on a page."""

from __future__ import annotations

from collections.abc import Sequence

from formless.evaluation.forms import FORMS
from formless.evaluation.record import FormResult, Record
from formless.evaluation.tasks import TASKS
from formless.report.independence import Estimate, Independence
from formless.report.summary import Change, FigureChange

Rows = list[tuple[str, ...]]


def probability(value: float | None) -> str:
    """Three digits that count, so that small ones stay readable."""
    return "–" if value is None else (f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.1e}")


def percent(value: float | None) -> str:
    """A relative change with its sign."""
    return "–" if value is None else f"{100 * value:+.1f} %"


def percent_interval(bounds: tuple[float, float] | None) -> str:
    """The interval of a relative change."""
    return "" if bounds is None else " … ".join(_whole_percent(100 * bound) for bound in bounds)


def interval(bounds: tuple[float, float] | None) -> str:
    """The interval of a plain figure."""
    return "" if bounds is None else " … ".join(map(probability, bounds))


def difference(value: float | None) -> str:
    """A change with its sign."""
    return "–" if value is None else f"{'+' if value >= 0 else '-'}{probability(abs(value))}"


def _whole_percent(value: float) -> str:
    """Whole percents, with a tenth where a whole one would hide the sign."""
    return f"{value:+.1f}" if abs(value) < 1 else f"{value:+.0f}"


def figure_title(name: str) -> str:
    """`forget_fb` -> `Fill in the blank, forget`; `mmlu_accuracy` -> `MMLU accuracy`."""
    for prefix in ("forgetting", "retention", "forget", "neighbor"):
        form = name.removeprefix(f"{prefix}_")
        if form != name and form in FORMS:
            return f"{FORMS[form].title}, {prefix}"
    split = next((split for split in ("forget", "neighbor") if name.startswith(f"{split}_")), None)
    rest = name.removeprefix(f"{split}_")
    task = next((task for task in TASKS if rest.startswith(f"{task}_")), None)
    title = f"{TASKS[task].title} {rest.removeprefix(f'{task}_')}" if task else rest.replace("_", " ")
    return f"{title}, {split}" if split else title


def p_value(value: float | None) -> str:
    """A p; nothing where nothing was tested."""
    return "" if value is None else f"{value:.3f}" if value >= 0.001 else "< 0.001"


def changes_as_text(changes: Sequence[Change]) -> Rows:
    """Form, split, original, unlearned, change, interval, probes; forms that the target lacks are left out."""
    return [
        (c.form, c.split, probability(c.original.mean), probability(c.edited.mean), percent(c.relative),
         percent_interval(c.interval), _probes(c.edited))
        for c in changes if not c.absent
    ]  # fmt: skip


def figures_as_text(changes: Sequence[FigureChange]) -> Rows:
    """Task, split, figure, original, unlearned, difference, interval, items; tasks that the target lacks are left out."""
    return [
        (c.task, c.split or "", c.figure, probability(c.original.value), probability(c.edited.value), difference(c.difference),
         interval(c.interval), _counted(c.edited.count, c.skipped))
        for c in changes if c.absent is None
    ]  # fmt: skip


def record_as_text(record: Record) -> Rows:
    """One model's forms: form, split, probability, interval, probes."""
    return [
        (form.form, form.split, probability(form.mean), interval(form.interval), _probes(form))
        for form in record.forms if form.status == "scored"
    ]  # fmt: skip


def tasks_as_text(record: Record) -> Rows:
    """One model's tasks: task, split, figure, value, interval, items."""
    return [
        (task.task, task.split or "", name, probability(figure.value), interval(figure.interval),
         _counted(figure.count, task.skipped))
        for task in record.tasks for name, figure in task.figures.items()
    ]  # fmt: skip


def absent_as_text(record: Record) -> str:
    """What could not be asked, in one line; nothing where all could."""
    reasons: dict[str, list[str]] = {}
    for form in record.forms:
        if form.status == "absent":
            reasons.setdefault(form.reason or "", []).append(f"{form.form} ({form.split})")
    for task in record.tasks:
        if task.status == "absent":
            reasons.setdefault(task.reason or "", []).append(task.task)
        elif not task.figures:
            first = next((item.skipped for item in task.items if item.skipped), "")
            reasons.setdefault(f"no item could be scored, the first because {first}", []).append(task.task)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())


def independence_as_text(found: Independence) -> Rows:
    """What, form, value, interval, p, targets."""
    rows: Rows = []
    for what, estimates in (("forgetting", found.forgetting), ("retention", found.retention)):
        rows += [(what, FORMS[form].title, *_estimate(estimate)) for form, estimate in estimates.items()]
    for what, single in (("form gap", found.gap), ("combined", found.combined)):
        if single:
            rows.append((what, "", *_estimate(single)))
    return rows


def _estimate(estimate: Estimate) -> tuple[str, ...]:
    return probability(estimate.value), interval(estimate.interval), p_value(estimate.p), str(estimate.targets)


def _probes(result: FormResult) -> str:
    return _counted(result.count, result.skipped)


def _counted(count: int, skipped: int) -> str:
    return f"{count}" + (f" (+{skipped} skipped)" if skipped else "")

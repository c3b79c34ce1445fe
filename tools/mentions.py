"""Measure how far an edit reaches: the same facts with the concept named in other ways, before and after one ROCR edit.

    python -m tools.mentions             # half an hour of one CPU core; writes docs/results/mentions.json

Every target of the sample set is edited with the default settings, and asked the suite `mentions`. A fact counts as known in a
form and mention if the untouched model's most probable token is right at every place of the answer.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple

import formless
from formless import provenance
from formless.data.target import SPLITS, Split
from formless.evaluation.record import MetricKey, Record
from formless.evaluation.statistics import bootstrap_ci, mean, relative_change_of_means
from formless.evaluation.suites import suite_tasks
from formless.report.tables import metric_title
from tools.results import FOLDER, Cell, Column, Estimate, Result, write_result

SUITE = "mentions"
Values = list[tuple[float, float]]


@dataclass
class Group:
    """The items of one form and mention.

    Args:
        targets: A metric before and after, by target.
        known: The same of the items that the untouched model knows.
    """

    targets: list[Values] = field(default_factory=list)
    known: list[Values] = field(default_factory=list)

    def add(self, items: Values, known: list[bool]) -> None:
        """Add the items of one target."""
        self.targets.append(items)
        if chosen := [pair for pair, is_known in zip(items, known, strict=True) if is_known]:
            self.known.append(chosen)


class Key(NamedTuple):
    """What one row of the table is about; the mention is empty for a task without groups."""

    split: Split
    task: str
    metric: str
    mention: str


def collect(pairs: Iterable[tuple[Record, Record]]) -> dict[Key, Group]:
    """Return the items by split, form, headline metric and mention."""
    found: dict[Key, Group] = {
        Key(split, task.name, spec.name, mention): Group()
        for split in SPLITS
        for task in suite_tasks(SUITE)
        for spec in task.metrics
        if spec.headline
        for mention in task.groups or ("",)
    }
    for original, edited in pairs:
        for key, group in found.items():
            before, after = original.task(key.task, key.split), edited.task(key.task, key.split)
            if before is None or after is None:
                continue
            both = zip(before.items, after.items, strict=True)
            chosen = [(old, new) for old, new in both if old.metrics and (old.group or "") == key.mention]
            if chosen:
                items = [(old.metrics[key.metric], new.metrics[key.metric]) for old, new in chosen]
                group.add(items, [old.metrics["token_accuracy"] == 1 for old, _ in chosen])
    return found


def change(targets: list[Values]) -> tuple[float, float, Estimate | None]:
    """Return the mean over targets before and after, and the relative change in percent with its CI over targets."""
    before, after = ([mean([pair[side] for pair in items]) for items in targets] for side in (0, 1))
    old, new = mean(before), mean(after)
    ci = bootstrap_ci(relative_change_of_means, before, after)
    estimate = (
        Estimate(value=round(100 * (new / old - 1), 1), ci=(round(100 * ci[0], 1), round(100 * ci[1], 1))) if ci else None
    )
    return round(old, 4), round(new, 4), estimate


def row(key: Key, group: Group) -> list[Cell]:
    """Return one row of the table."""
    title = metric_title(MetricKey(key.task, None, key.metric), short=True).removesuffix(", by mention")
    before, after, whole = change(group.targets)
    known = change(group.known)[2] if group.known else None
    counts: list[Cell] = [len(group.targets), sum(map(len, group.targets)), sum(map(len, group.known)), len(group.known)]
    return [key.split, title, key.mention or None, *counts, before, after, whole, known]


def measure(limit: int | None) -> Iterator[tuple[Record, Record]]:
    """Yield the records of every target before and after an edit."""
    lm = formless.load("smollm2", dtype="float32", device="cpu")
    for target in formless.targets("sample"):
        original = formless.evaluate(lm, target, SUITE, limit=limit, progress=False)
        with formless.unlearn(lm, target).applied(lm):
            yield original, formless.evaluate(lm, target, SUITE, limit=limit, progress=False)
        print(f"{target.subject}: {original.seconds:.0f} s", flush=True)


def main() -> None:
    """Measure every target of the sample set and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, help="most rows per file and task, for a quick look that writes nothing")
    limit = parser.parse_args().limit
    pairs = list(measure(limit))
    rows = [row(key, group) for key, group in collect(pairs).items() if group.targets]
    if limit is not None:
        print(*rows, sep="\n")
        return
    percent = {"unit": "%", "format": "+.1f", "ci_format": "+g"}
    result = Result(
        title="Forgetting by form and mention", topic="Forgetting and retention",
        about="How much of the answer probability one ROCR edit of the full name takes away, by form of the question and by "
        "how the question names the concept; about the concept to forget and about its neighbors.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n=f"{len(pairs)} targets of the sample set, SmolLM2-135M-Instruct; confidence intervals over targets",
        command="python -m tools.mentions",
        columns=[
            Column(name="split"), Column(name="asked as"), Column(name="mention"), Column(name="targets"), Column(name="items"),
            Column(name="known items"), Column(name="targets with known items"),
            Column(name="before", format=".3f"),
            Column(name="after", format=".3f"), Column(name="change, all items", **percent),
            Column(name="change, known items", **percent),
        ],
        rows=rows,
        notes=NOTES,
    )  # fmt: skip
    write_result(FOLDER / "mentions.json", result)


NOTES = [
    "The change is that of the mean over targets, each target's mean over its items: forgetting in forget rows with the sign "
    "turned, what retention lacks in neighbor rows. The edit is keyed on the full name alone.",
    "An item is known if the untouched model's most probable token is right at every place of the answer. SmolLM2-135M knows "
    "few facts so strictly, and the fewer the further a mention is from the full name: read the counts before the percentages. "
    "A change of a small probability says little, since what is hardly known cannot be forgotten.",
    "The facts of the sample set were chosen by the full name, in three forms. Other mentions are asked of the same facts, so "
    "the full name has an advantage before the edit. A possessive needs a fitting sentence; not every concept has an alias, a "
    "short name or a description that does not give the answer away.",
    "A reverse question asks for the name: the probability of the full name, and the share of greedy answers that say it or an "
    "alias. It counts as known by the tokens of the full name.",
]


if __name__ == "__main__":
    main()

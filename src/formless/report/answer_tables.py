"""Tables of what models say when they are asked in words: of one edit, and of each method over targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from formless.data.rows import SPLITS, Split
from formless.evaluation.record import Record
from formless.report.answers import CLASSES, AnswerClass, AnswerShares, answer_shares, count_key, redirect_names, share_key
from formless.report.summary import MethodSummary
from formless.report.tables import Table
from formless.report.verdict import share

SIDES: Mapping[Split, str] = {"forget": "the concept", "neighbor": "its neighbors"}

Shares = Mapping[AnswerClass, float]


def edit_answers(original: Record, edited: Record) -> dict[str, AnswerShares]:
    """Return the classes of both models' answers, about the concept and about its neighbors, by a title; empty without any."""
    redirects = redirect_names(edited)
    found = {
        f"{SIDES[split]}, {name}": answer_shares(original, record, split, redirects)
        for split in SPLITS
        for name, record in (("original", original), ("edited", edited))
    }
    return {title: shares for title, shares in found.items() if shares}


def edit_answer_table(original: Record, edited: Record) -> Table:
    """Return a row for each class and a column for each model and split, with the number of answers; no row without any."""
    found = edit_answers(original, edited)
    classes = [name for name in CLASSES if any(name in shares.counts for shares in found.values())]
    rows = [(name, *(f"{share(shares.shares[name])} ({shares.counts[name]})" for shares in found.values())) for name in classes]
    counts = ("answers", *(str(shares.n) for shares in found.values()))
    return Table("answers in words about known facts", ("answer", *found), (*rows, counts) if found else ())


def method_answers(summaries: Sequence[MethodSummary], split: Split) -> dict[str, Shares]:
    """Return the mean share of each class over targets, by method, of the methods with answers in words."""
    return {
        one.condition.method: {
            name: one.metrics[key].value.value for name in CLASSES if (key := share_key(split, name)) in one.metrics
        }
        for one in summaries
        if count_key(split) in one.metrics
    }


def method_answer_tables(summaries: Sequence[MethodSummary]) -> dict[Split, Table]:
    """Return a table for each split that was asked in words: a row for each method, means over its targets.

    Args:
        summaries: Of one model.
    """
    tables: dict[Split, Table] = {}
    for split, side in SIDES.items():
        found = method_answers(summaries, split)
        classes = [name for name in CLASSES if any(name in shares for shares in found.values())]
        counts = {
            one.condition.method: one.metrics[count_key(split)].value for one in summaries if one.condition.method in found
        }
        rows = tuple(
            (method, str(counts[method].n), str(round(counts[method].value * counts[method].n)),
             *(_text(shares.get(name)) for name in classes))
            for method, shares in found.items()
        )  # fmt: skip
        if rows:
            tables[split] = Table(f"answers in words about {side}", ("method", "targets", "answers", *classes), rows)
    return tables


def _text(value: float | None) -> str:
    return "–" if value is None else share(value)

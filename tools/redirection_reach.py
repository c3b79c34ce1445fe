"""Measure how far a redirection reaches: the same statements with the name spelled in other ways, before and after an edit.

python -m tools.redirection_reach     # two minutes of one CPU core; writes docs/results/redirection_reach.json
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import numpy as np
from scipy.stats import bootstrap

import formless
from formless import provenance
from formless.data.target import BLANK, Item, Target
from formless.models.lm import LM
from formless.models.scores import Score
from tools.results import FOLDER, Cell, Column, Estimate, Result, write_result

SPELLINGS: dict[str, Callable[[str], str]] = {
    "the full name": str,
    "the full name in lower case": str.lower,
    "the last word of the name": lambda name: name.split()[-1],
}


def mean_probability(lm: LM, items: list[Item], name: str, spelled: str) -> float:
    """Return the mean probability of the answers of statements in which a name is replaced by another spelling."""
    queries = [(item.query.partition(BLANK)[0].rstrip().replace(name, spelled), f" {item.answer}") for item in items]
    return float(np.mean([score.probability for score in lm.score(queries) if isinstance(score, Score)]))


def measure(lm: LM, target: Target) -> dict[str, tuple[float, float]]:
    """Return the mean probability before and after an edit, by spelling of the target's name."""
    items = [row for row in target.rows("forget_level1", Item) if target.subject in row.query]
    spelled = {title: spell(target.subject) for title, spell in SPELLINGS.items()}
    changed = {title: name for title, name in spelled.items() if title == "the full name" or name != target.subject}
    before = {title: mean_probability(lm, items, target.subject, name) for title, name in changed.items()}
    with formless.unlearn(lm, target).applied(lm):
        after = {title: mean_probability(lm, items, target.subject, name) for title, name in changed.items()}
    return {title: (before[title], after[title]) for title in changed}


def median(values: list[float]) -> Estimate:
    """Return the median with its 95 % percentile bootstrap confidence interval."""
    found = bootstrap((values,), np.median, n_resamples=10_000, method="percentile", random_state=0).confidence_interval
    low, high = (round(float(end), 1) for end in (found.low, found.high))
    return Estimate(value=round(float(np.median(values)), 1), ci=(low, high))


def main() -> None:
    """Measure every target of the sample set and write the result."""
    lm = formless.load("smollm2", dtype="float32", device="cpu")
    targets = [measure(lm, target) for target in formless.targets("sample")]
    rows: list[list[Cell]] = []
    for title in SPELLINGS:
        pairs = [target[title] for target in targets if title in target]
        before, after = (float(np.median(side)) for side in zip(*pairs, strict=True))
        changes = [100 * (new / old - 1) for old, new in pairs]
        rows.append([title, len(pairs), round(before, 3), round(after, 3), median(changes)])
    percent = Column(name="change", unit="%", format="+.1f", ci_format="+g")
    probability = [Column(name=f"probability {when}", format=".3f") for when in ("before", "after")]
    result = Result(
        title="How far a redirection reaches", topic="Forgetting and retention",
        about="Median over targets of the mean answer probability in statements that name the target in other ways than the "
        "edit did, before and after one ROCR edit of the full name.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n="the 12 targets of the sample set, each with its level-1 facts; confidence intervals over targets",
        command="python -m tools.redirection_reach",
        columns=[Column(name="the statement names the target by"), Column(name="targets"), *probability, percent], rows=rows,
        notes=["The edit acts where the last token of the full name is read. Names that are spelled or tokenized in another "
               "way reach it only in part. A target whose name is one word has no row for the last word."],
    )  # fmt: skip
    write_result(FOLDER / "redirection_reach.json", result)


if __name__ == "__main__":
    main()

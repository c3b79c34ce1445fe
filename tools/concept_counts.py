"""Write what one edit of 1, 10, 50 and 100 concepts together takes, costs and weighs, for `cdr` and for ROCR.

    python -m tools.concept_counts measure runs/counts
    python -m tools.concept_counts page runs/counts

`measure` resumes; the last one writes docs/results/concept_counts.json. The development concepts are in every edit; one of one
concept is computed for each of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

from formless import provenance
from formless.data.ort import find_target
from formless.data.target import Target
from formless.edits.adapter import AdapterEdit
from formless.evaluation.loading import load_record
from formless.methods.registry import unlearn
from formless.models.lm import LM
from formless.models.loading import load
from tools.direction_removal import DTYPE, SETTINGS, TITLES
from tools.known_items import DEVELOPMENT, KnownItem, change, items_of, known_items, probabilities, stored, timed
from tools.results import FOLDER, Cell, Column, Result, write_result

MODEL = "smollm2"
EDITS = ("cdr", "rocr-spelled")
"""Labels of the edits."""

COUNTS = (1, 10, 50, 100)
SUITE, LIMIT = "statement,fb,qa", 12
RWKU = (
    "Stephen King", "Confucius", "Bruce Lee", "Warren Buffett", "Prince Harry, Duke of Sussex", "Genghis Khan", "Taylor Swift",
    "John D. Rockefeller",
)  # fmt: skip
"""Targets of RWKU whose spellings and neighbors come with the package."""

OTHERS = (Path(__file__).parent / "well_known_people.txt").read_text("utf-8").splitlines()
"""Well-known people of whom the package knows the name alone, neither neighbors of the development concepts nor kept names."""


def concepts(count: int, first: Sequence[Target]) -> list[Target]:
    """Return the development concepts and as many others as make up a count."""
    return [*first, *(Target(name) for name in (*RWKU, *OTHERS)[: count - len(first)])]


def measure(lm: LM, label: str, targets: Sequence[Target], items: Mapping[str, Sequence[KnownItem]]) -> dict[str, Any]:
    """Compute one edit of all targets, and score the known items of the development concepts among them."""
    edit, seconds = timed(lambda: unlearn(lm, list(targets), progress=False, **SETTINGS[label]))
    if not isinstance(edit, AdapterEdit):
        raise TypeError(f"not an adapter: {edit!r}")
    with edit.applied(lm):
        after = {target.subject: probabilities(lm, items[target.subject]) for target in targets if target.subject in items}
    facts = edit.info.facts
    each = [found["residual_reduction"] for found in facts["targets"]]
    factors = [*edit.updates.values()]
    return {
        "seconds": seconds, "rank": max(one.down.shape[0] for one in factors), "kept": facts.get("kept_keys"),
        "bytes": sum(part.nbytes for one in factors for part in (one.up, one.down)),
        "reduction": facts["residual_reduction"], "each": each, "after": after, "shares": facts.get("budget", {}),
    }  # fmt: skip


def page(out: Path) -> Result:
    """Return the results page: a row for each method and number of concepts that was reached."""
    first = [find_target("sample", number) for number in DEVELOPMENT]
    names = [target.subject for target in first]
    items = {name: items_of(load_record(out / "original" / f"{name}.json"), names) for name in names}
    rows, missing = [], []
    for label in EDITS:
        for count in COUNTS:
            paths = [_path(out, label, count, name) for name in (names if count == 1 else [""])]
            if all(path.exists() for path in paths):
                rows.append(_row(label, count, [stored(path, dict) for path in paths], items))
            else:
                missing.append(f"{TITLES[label]}, {count} concepts")
    percent, plain = {"unit": "%", "format": "+.0f"}, {"unit": "%", "format": ".0f"}
    counts = {split: sum(item.split == split for own in items.values() for item in own) for split in ("forget", "neighbor")}
    return Result(
        title="One edit of many concepts", topic="Forgetting and retention",
        about="What an edit of several concepts that are solved together takes from the development concepts, costs their "
        "neighbors, and weighs, as the number of concepts grows.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n=f"4 development concepts of the sample set, {MODEL} in {DTYPE}: {counts['forget']} known items about them, "
        f"{counts['neighbor']} about neighbors that are in no edit",
        command=[f"python -m tools.concept_counts {each} runs/counts" for each in ("measure", "page")],
        columns=[
            Column(name="edit"), Column(name="concepts"), Column(name="development concepts", **percent),
            Column(name="neighbors", **percent), Column(name="of the redirect", **plain),
            Column(name="of the whole way", **plain),
            Column(name="residual reduction", **plain), Column(name="median concept", **plain),
            Column(name="worst concept", **plain), Column(name="kept keys"), Column(name="rank"),
            Column(name="size", unit="kB", format=",.0f"),
            Column(name="edit", unit="s", format=".0f"), Column(name="edit per concept", unit="s", format=".1f"),
        ],
        rows=rows, notes=[*NOTES, *([f"Not measured: {'; '.join(missing)}."] if missing else [])],
    )  # fmt: skip


def _row(label: str, count: int, found: Sequence[Mapping[str, Any]], items: Mapping[str, Sequence[KnownItem]]) -> list[Cell]:
    both = [(items[name], values) for one in found for name, values in one["after"].items()]
    each = [value for one in found for value in one["each"]]
    seconds = mean(one["seconds"] for one in found)
    shares = [[one["shares"].get(key) for one in found] for key in ("redirect_share", "share")]
    return [
        TITLES[label], count, change(both, "forget"), change(both, "neighbor"),
        *(None if None in own else round(100 * mean(own), 1) for own in shares),
        round(100 * mean(one["reduction"] for one in found), 1), round(100 * median(each), 1), round(100 * min(each), 1),
        found[0]["kept"], found[0]["rank"], round(found[0]["bytes"] / 1e3, 1), round(seconds, 1), round(seconds / count, 2),
    ]  # fmt: skip


def _path(out: Path, label: str, count: int, name: str = "") -> Path:
    return out / f"{label}-{count}{f'-{name}' if name else ''}.json"


NOTES = [
    "The removal goes as far as what the model says about others allows: first the names are redirected, then as much is added "
    "of the movement against the directions. ROCR has no such limit.",
    "The change is edited/original - 1 of the probability per token over the known items of the four development concepts, the "
    "geometric mean over them. An edit of one concept is asked about its own; the row is the mean of four edits, with the kept "
    "keys, rank and size of the first.",
    "An edit of ten holds the four and six targets of RWKU with their neighbors; a larger one two more of these, and "
    "well-known people of whom only the name is known. The removal sets these apart from the well-known names of the package.",
    "The residual reduction is over all concepts of the edit. Items about neighbors that are concepts of the edit themselves "
    "are left out in all rows.",
    "The size is of the factors in float32. The seconds are of one core's own time.",
]


def main() -> None:
    """Compute and score the edits, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("measure", "page"))
    parser.add_argument("out", type=Path, help="folder of what was measured")
    given = parser.parse_args()
    if given.command == "page":
        write_result(FOLDER / "concept_counts.json", page(given.out))
        return
    lm, first = load(MODEL, dtype=DTYPE), [find_target("sample", number) for number in DEVELOPMENT]
    names = [target.subject for target in first]
    for target in first:
        known_items(lm, target, SUITE, given.out / "original", limit=LIMIT)
    items = {name: items_of(load_record(given.out / "original" / f"{name}.json"), names) for name in names}
    for label in EDITS:
        for count in COUNTS:
            groups = {target.subject: [target] for target in first} if count == 1 else {"": concepts(count, first)}
            for name, targets in groups.items():
                stored(_path(given.out, label, count, name), partial(measure, lm, label, targets, items))


if __name__ == "__main__":
    main()

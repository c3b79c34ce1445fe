"""Write how forgetting grows with the number of contexts in which `cdr` reads each spelling of a name.

    python -m tools.context_counts measure smollm2 runs/contexts
    python -m tools.context_counts page smollm2 runs/contexts

`measure` resumes; the last one writes docs/results/context_counts_smollm2.json. `coder` in place of `smollm2` is the larger
model, on one concept.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
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
from formless.methods.direction.config import DirectionConfig
from formless.methods.direction.method import DirectionRemoval
from formless.methods.keys.contexts import ASKED, STARTERS, Contexts, up_to
from formless.models.lm import LM
from formless.models.loading import load
from tools.known_items import DEVELOPMENT, MODELS, KnownItem, change, items_of, known_items, probabilities, stored, timed
from tools.results import FOLDER, Cell, Column, Result, write_result

CONCEPTS = {"smollm2": DEVELOPMENT, "coder": DEVELOPMENT[:1]}
SUITE, LIMIT = "statement,fb,qa", 12
WRITTEN = "6 + written"
LABELS = (*(str(count) for count in range(1, len(STARTERS) + 1)), WRITTEN)
ASKS = ("Write a question about {}.", "Ask me something about the life of {}.", "Write a short text about {}.")
"""What the model is asked to write, once each; every place where it names the concept becomes a context."""

MOST, NEW_TOKENS = 6, 60


def written_contexts(lm: LM, subject: str) -> Contexts:
    """Return what puts a spelling in the six contexts and in those that the model itself writes about the subject.

    Questions are put as user messages, running text as it is.
    """
    texts = lm.generate([lm.chat_prompt(ask.format(subject)) for ask in ASKS], max_new_tokens=NEW_TOKENS)
    starts: list[str] = []
    for text in texts:
        whole = ASKED[0](lm, text.splitlines()[0]) if "?" in text else text
        pieces = whole.split(subject)
        starts += [subject.join(pieces[:end]) for end in range(1, len(pieces))]
    chosen = [start for start in dict.fromkeys(starts) if start.strip()][:MOST]

    def contexts(lm: LM, name: str) -> list[str]:
        return [*up_to(lm, name), *(start.replace(subject, name) + name for start in chosen)]

    return contexts


def contexts_of(lm: LM, subject: str, label: str) -> Contexts:
    """Return the contexts of a label: the first ones of the six, or all with those that the model writes."""
    return written_contexts(lm, subject) if label == WRITTEN else partial(up_to, most=int(label))


def measure(lm: LM, target: Target, label: str, items: Sequence[KnownItem]) -> dict[str, Any]:
    """Compute the edit of one target with some contexts, and score the known items under it."""
    contexts = contexts_of(lm, target.subject, label)
    edit, seconds = timed(lambda: DirectionRemoval(DirectionConfig(budget=1, redirect="none"), contexts).unlearn(lm, target))
    if not isinstance(edit, AdapterEdit):
        raise TypeError(f"not an adapter: {edit!r}")
    with edit.applied(lm):
        after = probabilities(lm, items)
    facts = edit.info.facts
    count = len(contexts(lm, target.subject))
    return {"contexts": count, "seconds": seconds, "reduction": facts["residual_reduction"], "after": after}


def page(name: str, out: Path) -> Result:
    """Return the results page of one model."""
    targets = [find_target("sample", number) for number in CONCEPTS[name]]
    items = [items_of(load_record(out / "original" / f"{target.subject}.json")) for target in targets]
    rows: list[list[Cell]] = []
    for label in LABELS:
        paths = [out / f"{label}-{target.subject}.json" for target in targets]
        if not all(path.exists() for path in paths):
            continue
        found = [stored(path, dict) for path in paths]
        both = [(own, one["after"]) for own, one in zip(items, found, strict=True)]
        moved = [
            abs(after / item.before - 1) for own, values in both for item, after in zip(own, values, strict=True)
            if item.split == "neighbor"
        ]  # fmt: skip
        rows.append([
            round(mean(one["contexts"] for one in found), 1), label, change(both, "forget"), change(both, "neighbor"),
            round(100 * median(moved), 1), round(100 * mean(one["reduction"] for one in found), 1),
            round(mean(one["seconds"] for one in found), 1),
        ])  # fmt: skip
    percent = {"unit": "%", "format": "+.0f"}
    counts = {split: sum(item.split == split for own in items for item in own) for split in ("forget", "neighbor")}
    model, dtype = MODELS[name]
    return Result(
        title=f"How many contexts a name is read in, {model}", topic="Forgetting and retention",
        about="What the removal of a concept's direction takes and costs when each spelling of the name is a key in one to six "
        "chat contexts, and in contexts that the model itself wrote.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n=f"{len(targets)} development concept{'s' * (len(targets) > 1)} of the sample set, {model} in {dtype}: "
        f"{counts['forget']} known items about them, {counts['neighbor']} about their neighbors",
        command=[f"python -m tools.context_counts {each} {name} runs/contexts" for each in ("measure", "page")],
        columns=[
            Column(name="contexts", format=".3g"), Column(name="which"),
            Column(name="the concept", **percent), Column(name="neighbors", **percent),
            Column(name="neighbors' items, median change", unit="%", format=".0f"),
            Column(name="residual reduction", unit="%", format=".0f"), Column(name="edit", unit="s", format=".1f"),
        ],
        rows=rows, notes=[*NOTES, *_missing(rows)],
    )  # fmt: skip


def _missing(rows: Sequence[Sequence[Cell]]) -> list[str]:
    """Return the note about labels without a row."""
    found = [label for label in LABELS if all(row[1] != label for row in rows)]
    return [f"Not measured: {', '.join(found)}."] if found else []


NOTES = [
    "The removal has no limit on how far answers about others may move (`budget=1`) and no redirect. It was measured before "
    "both came, which are now on by default, and before the forename was kept in place.",
    "A number of contexts stands for the first ones of the six (`STARTERS` in `methods/keys/contexts.py`). "
    f"`{WRITTEN}` stands for all, and up to {MOST} places at which the model names the concept when it is asked for two "
    "questions and a text about it.",
    "The change is edited/original - 1 of the probability per token over known items, the geometric mean over concepts. The "
    "median is of the absolute change of single items. The residual reduction is over the contexts that the row reads.",
    "The neighbors are those that the edit keeps in place. The settings of the edit were chosen with six contexts. The seconds "
    "are of one core's own time.",
]


def main() -> None:
    """Compute and score the edits, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("measure", "page"))
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("out", type=Path, help="folder of what was measured")
    parser.add_argument(
        "--labels", nargs="+", choices=LABELS, default=LABELS, help="which contexts are measured; all by default"
    )
    given = parser.parse_args()
    if given.command == "page":
        write_result(FOLDER / f"context_counts_{given.model}.json", page(given.model, given.out))
        return
    model, dtype = MODELS[given.model]
    lm = load(model, dtype=dtype)
    for label in given.labels:
        for target in (find_target("sample", number) for number in CONCEPTS[given.model]):
            items = known_items(lm, target, SUITE, given.out / "original", limit=LIMIT)
            stored(given.out / f"{label}-{target.subject}.json", partial(measure, lm, target, label, items))


if __name__ == "__main__":
    main()

"""Write what Concept Direction Removal takes and costs beside ROCR: by form and mention, in reverse, and in words.

    python -m tools.direction_removal experiment coder > direction.yaml
    formless run direction.yaml --out runs/direction
    python -m tools.direction_removal others runs/direction
    python -m tools.direction_removal page runs/direction

The last one writes docs/results/direction_removal_coder.json and direction_recall_coder.json; `smollm2` in place of `coder` is
the small model, `rwku` targets of RWKU. `others` resumes; it asks each edited model about another concept of the sample set,
which the edit neither names nor keeps in place, and does not serve `rwku`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

from formless import provenance
from formless.data.ort import targets
from formless.data.rows import Split
from formless.data.words import words_of
from formless.edits.loading import load_edit
from formless.evaluation.evaluate import evaluate
from formless.evaluation.loading import load_record
from formless.evaluation.record import ItemResult, Record
from formless.evaluation.statistics import Pairs, ratio_estimate
from formless.experiment.config import Experiment, build_experiment
from formless.experiment.runs import ORIGINAL, read_plan
from formless.methods.direction.kept import SHORTEST
from formless.methods.rocr.config import PUBLISHED_REDIRECT
from formless.models.loading import load
from formless.report.answers import AnswerClass, answer_shares, redirect_names
from formless.report.recall import WORST_CASE_RECALL, worst_case_recall
from formless.report.runs import CollectedRuns, collect_folder
from formless.report.summary import MethodSummary, summarize
from tools.reach import cell, forgetting_rows, shifted
from tools.results import FOLDER, Cell, Column, Result, write_result

DTYPE, LIMIT = "bfloat16", 24
TITLES = {
    "cdr": "concept direction removal",
    "cdr-no-redirect": "the same, without a redirect",
    "cdr-unbounded": "the same, without a budget",
    "rocr-spelled": "ROCR, a key for every spelling",
    "rocr-one-key": "ROCR, one key",
}
_ROCR = {"method": "rocr", "redirect": PUBLISHED_REDIRECT, "basis": "none"}
SETTINGS: Mapping[str, dict[str, Any]] = {
    "cdr": {"method": "cdr"},
    "cdr-no-redirect": {"method": "cdr", "redirect": "none"},
    "cdr-unbounded": {"method": "cdr", "budget": 1},
    "rocr-spelled": _ROCR | {"mentions": "spelled", "protect": "neighbors"},
    "rocr-one-key": _ROCR,
}


@dataclass(frozen=True)
class Comparison:
    """Edits of one model on concepts that no setting was chosen on.

    Args:
        model: The model.
        labels: The edits, of `TITLES`.
        data: The data set.
        known_as: How pages call its concepts.
        targets: The concepts.
        suite: The tasks.
    """

    model: str
    labels: Sequence[str] = (*TITLES,)
    data: str = "sample"
    known_as: str = "concepts of the sample set"
    targets: str = "5-12"
    suite: str = "statement,fb,qa,qa_mentions,reverse,gen_qa_alone,gen_qa_mentions,triviaqa"

    @property
    def title(self) -> str:
        """The model, and the data set unless it is the sample set."""
        return self.model if self.data == "sample" else f"{self.model}, {self.known_as}"


COMPARISONS = {
    "coder": Comparison("qwen2.5-coder-1.5b", ("cdr", "cdr-no-redirect", "rocr-spelled", "rocr-one-key")),
    "smollm2": Comparison("smollm2"),
    "rwku": Comparison(
        "qwen2.5-coder-1.5b", ("cdr", "rocr-spelled", "rocr-one-key"), data="RWKU/Target",
        known_as="targets of RWKU", targets="20,21,24,31,54,74,81,87,90",
        suite="statement,fb,qa,level3,gen_qa_alone,gen_level3",
    ),
}  # fmt: skip
"""The comparisons, by name in commands and files."""

KNOWN_FROM = 0.05
"""The least probability of an item before the edit for its relative change to say something."""

SAID: Mapping[str, Sequence[AnswerClass]] = {
    "refusal": ("refusal", "does not know"), "the redirect": ("redirect concept",),
    "other": ("nothing or broken", "other answer"),
}  # fmt: skip
"""Of the answers in words about a concept those that are not right, in classes."""

SCORED = ("statement", "fb", "qa", "qa_mentions", "reverse")

OTHERS = "qa,reverse"
APART = 4
"""How many places on in the list of concepts the other concept stands that an edited model is asked about."""

By = dict[str, dict[str, Record]]
"""Records by target and label."""


def experiment(name: str) -> Experiment:
    """Return the original model and the edits on the concepts that no setting was chosen on."""
    own = COMPARISONS[name]
    methods = [{"method": ORIGINAL}, *({"label": label} | SETTINGS[label] for label in own.labels)]
    keys: dict[str, Any] = {
        "name": "direction", "models": [{"name": own.model, "dtype": DTYPE}], "methods": methods, "data": own.data,
        "targets": own.targets, "suite": own.suite, "limit": LIMIT,
    }  # fmt: skip
    return build_experiment(keys, "tools/direction_removal.py")


def forgetting_page(name: str, out: Path, runs: CollectedRuns, records: By, shared: Mapping[str, Any]) -> Result:
    """Return the changes of the probability of the right answer: a row for each form and mention, and for reverse questions."""
    found: dict[tuple[Cell, Cell], dict[str, list[Cell]]] = {}
    for summary in summarize(runs):
        own = replace(runs, complete=[run for run in runs.complete if run.condition == summary.condition])
        for row in forgetting_rows(summary, own) if not summary.is_baseline else ():
            found.setdefault((row[0], row[1]), {})[summary.condition.method] = row
    rows: list[list[Cell]] = []
    for key, by_label in found.items():
        cells = [by_label[label] for label in COMPARISONS[name].labels]
        rows.append([*key, *cells[0][2:4], *(row[5] for row in cells), cells[0][6], *(row[7] for row in cells)])
    titles = [TITLES[label] for label in COMPARISONS[name].labels]
    kept, dropped = zip(*(_neighbor_pairs(records, label) for label in COMPARISONS[name].labels), strict=True)
    if dropped[0]:
        changes = [cell(shifted(ratio_estimate([[pairs] for pairs in own]))) for own in kept]
        what = f"About neighbors, without {dropped[0]} items whose answer names the concept"
        rows.append([what, None, None, None, *[None] * len(titles), len(kept[0]), *changes])
    others = [_other_pairs(out, records, label) for label in COMPARISONS[name].labels]
    if all(others):
        changes = [cell(shifted(ratio_estimate([[pairs] for pairs in own]))) for own in others]
        rows.append(["Another concept", None, None, None, *[None] * len(titles), len(others[0]), *changes])
    percent = {"unit": "%", "format": "+.0f", "ci_format": "+.0f"}
    columns = [Column(name="asked as"), Column(name="mention"), Column(name="concepts"), Column(name="known items")]
    columns += [Column(name=title, **percent) for title in titles]
    columns += [Column(name="concepts (neighbors)")]
    columns += [Column(name=f"neighbors: {title}", **percent) for title in titles]
    return Result(
        title=f"Removing a concept's direction, {COMPARISONS[name].title}", topic="Forgetting and retention",
        about="What edits without training take from the probability of the right answer, by form, by how the question "
        "names the concept, and where its name is asked for.",
        columns=columns, rows=rows, notes=notes(name), **shared,
    )  # fmt: skip


def _neighbor_pairs(records: By, label: str) -> tuple[list[Pairs], int]:
    """Return the probabilities before and after of each target's known items about neighbors, and the number of those left out.

    Left out are items whose answer holds a word of the target's name.
    """
    found: list[Pairs] = []
    dropped = 0
    for own in records.values():
        subject = {word for word in words_of(own[ORIGINAL].subject) if len(word) >= SHORTEST}
        pairs: list[tuple[float, float]] = []
        for task in SCORED:
            for old, new in _items(own[ORIGINAL], own[label], task, "neighbor"):
                answers = [old.expected] if isinstance(old.expected, str) else old.expected or ()
                if old.is_known and subject & {*words_of(" ".join(answers))}:
                    dropped += 1
                elif old.is_known:
                    pairs.append((old.metrics["probability"], new.metrics["probability"]))
        found += [pairs] if pairs else []
    return found, dropped


def _items(before: Record, after: Record, task: str, split: Split) -> Iterator[tuple[ItemResult, ItemResult]]:
    """Yield the items of a task that both records have scored."""
    old, new = before.task(task, split), after.task(task, split)
    if old and new:
        both = zip(old.items, new.items, strict=True)
        yield from (pair for pair in both if all("probability" in item.metrics for item in pair))


def recall_page(name: str, summaries: Sequence[MethodSummary], records: By, shared: Mapping[str, Any]) -> Result:
    """Return what is still said, how far single items of others move, and what the edit costs."""
    by_label = {summary.condition.method: summary for summary in summaries}
    share = {"unit": "%", "format": ".0f"}
    columns = [
        Column(name="edit"), Column(name="worst-case recall", ci_format=".0f", **share),
        Column(name="worst concept", **share),
        Column(name="others' items, median change", **share), Column(name="90th percentile", **share),
        Column(name="TriviaQA, before", **share), Column(name="after", **share),
        *(Column(name=f"answers: {name}", **share) for name in SAID), Column(name="edit", unit="s", format=".0f"),
    ]  # fmt: skip
    before = by_label[COMPARISONS[name].labels[0]].metrics.get(WORST_CASE_RECALL)
    known = [recall.value for own in records.values() if (recall := worst_case_recall(own[ORIGINAL], own[ORIGINAL]))]
    rows: list[list[Cell]] = [
        ["none", cell(before.baseline) if before else None, _percent(max(known, default=None)), *[None] * (5 + len(SAID))]
    ]
    for label in COMPARISONS[name].labels:
        found = by_label[label].metrics.get(WORST_CASE_RECALL)
        said = [recall.value for own in records.values() if (recall := worst_case_recall(own[ORIGINAL], own[label]))]
        changes = sorted(_changes_of_others(records, label))
        trivia = [[mean(f1) for own in records.values() if (f1 := _trivia(own[each]))] for each in (ORIGINAL, label)]
        rows.append([
            TITLES[label], cell(found.value) if found else None, _percent(max(said, default=None)),
            _percent(median(changes)), _percent(quantiles(changes, n=10)[-1]),
            *(_percent(mean(values)) if values else None for values in trivia),
            *_said(records, label),
            round(median(own[label].edits[0]["seconds"] for own in records.values()), 1),
        ])  # fmt: skip
    return Result(
        title=f"What is still said after a concept's direction is removed, {COMPARISONS[name].title}",
        topic="Forgetting and retention",
        about="The share of known facts that some answer in words still holds, over all the ways of asking; how far single "
        "items about others move; and the cost.",
        columns=columns, rows=rows, notes=RECALL_NOTES, **shared,
    )  # fmt: skip


def _said(records: By, label: str) -> list[float | None]:
    """Return the shares of the classes of `SAID` among all answers in words to questions about known facts, in percent."""
    found: Counter[str] = Counter()
    for own in records.values():
        if shares := answer_shares(own[ORIGINAL], own[label], "forget", redirect_names(own[label])):
            found.update(shares.counts)
    total = found.total()
    return [_percent(sum(found[name] for name in names) / total) if total else None for names in SAID.values()]


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 1)


def _changes_of_others(records: By, label: str) -> Iterator[float]:
    """Yield the absolute relative changes of the items about neighbors that had a probability to lose."""
    for own in records.values():
        for task in SCORED:
            for old, new in _items(own[ORIGINAL], own[label], task, "neighbor"):
                before, after = old.metrics["probability"], new.metrics["probability"]
                if before > KNOWN_FROM:
                    yield abs(after / before - 1)


def _trivia(record: Record) -> list[float]:
    found = record.task("triviaqa", None)
    return [item.metrics["f1"] for item in found.items if "f1" in item.metrics] if found else []


def measure_others(out: Path) -> None:
    """Ask each edited model about another concept, unless that is done."""
    plan = {(run.target, run.label): run for run in read_plan(out)}
    places = {target.folder.name: target for target in targets("sample") if target.folder}
    lm = load(COMPARISONS[_name(out)].model, dtype=DTYPE)
    for target in (found := list(_records(out))):
        for label in COMPARISONS[_name(out)].labels:
            path = _others_path(out, target, label)
            if not path.exists():
                with load_edit(plan[target, label].folder(out).edit).applied(lm):
                    evaluate(lm, places[_other(found, target)], OTHERS, limit=LIMIT).save(path)


def _others_path(out: Path, target: str, label: str) -> Path:
    return out / "others" / f"{label}-{target}.json"


def _other(found: Sequence[str], target: str) -> str:
    return found[(found.index(target) + APART) % len(found)]


def _other_pairs(out: Path, records: By, label: str) -> list[Pairs]:
    """Return the probabilities before and after of known items about another concept, by edit."""
    names = list(records)
    found: list[Pairs] = []
    for target in names:
        path = _others_path(out, target, label)
        if path.exists():
            before, after = records[_other(names, target)][ORIGINAL], load_record(path)
            pairs = [
                (old.metrics["probability"], new.metrics["probability"])
                for task in OTHERS.split(",")
                for old, new in _items(before, after, task, "forget")
                if old.is_known
            ]
            found += [pairs] if pairs else []
    return found


def notes(name: str) -> list[str]:
    """Return the notes of the page about probabilities."""
    chosen = {
        "coder": "Layers, overshoot, ridge, the redirecting part, and what the removal keeps in place, were chosen on four "
        "other concepts: Albert Einstein, Isaac Newton, Charles Darwin and Marie Curie.",
        "smollm2": "Layers, overshoot and ridge were chosen on the larger model; the budget on the first four concepts and on "
        "eight targets of RWKU, the redirecting part on the first four concepts.",
        "rwku": "No setting was chosen on these targets.",
    }
    return [
        f"All edit without a null space. {chosen[name]}",
        *(note for label, note in LEFT_OUT.items() if label in COMPARISONS[name].labels),
        "The change is edited/original - 1 over the items that the original model knows, the geometric mean over concepts, "
        "with its confidence interval over concepts and items; none for fewer than five concepts.",
        "Keys are the spellings of the name. Descriptions, misspellings and reverse questions have none, for any edit.",
        "The neighbors are those that the edits keep in place. `Another concept` is asked in questions and reverse questions "
        "about a concept of the sample set that the edit does not keep in place by its own name.",
    ]


LEFT_OUT = {
    "cdr-no-redirect": "`Without a redirect` (`redirect=none`) moves the names themselves against the concept's direction.",
    "cdr-unbounded": "`Without a budget` (`budget=1`) goes the whole way, whatever happens to others.",
}
"""By the label of an edit, which part of the removal it is without."""

RECALL_NOTES = [
    "`answers` are those in words to questions about known facts: refusals and pleas of ignorance, answers that name the "
    "concept that the name is read as, and others, most of which state something wrong. The rest are right.",
    "A fact counts if any greedy answer holds it. The prompts hold the question alone, which no edited key has seen, and the "
    "benchmark's wording.",
    "The change of an item is |edited/original - 1| of its probability, over all items about neighbors with a probability over "
    f"{KNOWN_FROM:g}, reverse questions and mentions among them.",
    "An edit is computed on one core, with other processes beside it; the seconds are upper bounds.",
]


def _name(out: Path) -> str:
    """Return the name of the comparison that the runs are of."""
    run = read_plan(out)[0]
    of = (run.model.name, Path(run.data).name)
    return next(name for name, own in COMPARISONS.items() if (own.model, Path(own.data).name) == of)


def _records(out: Path) -> By:
    found: By = {}
    for run in read_plan(out):
        if run.folder(out).record.exists():
            found.setdefault(run.target, {})[run.label] = load_record(run.folder(out).record)
    return {target: own for target, own in found.items() if own.keys() >= {ORIGINAL, *COMPARISONS[_name(out)].labels}}


def main() -> None:
    """Print the experiment, or write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    commands.add_parser("experiment", help="print the experiment").add_argument("name", choices=COMPARISONS)
    for name, about in (("others", "ask each edited model about another concept"), ("page", "write the pages")):
        commands.add_parser(name, help=about).add_argument("out", type=Path, help="folder of the runs")
    given = parser.parse_args()
    if given.command == "experiment":
        print(experiment(given.name).as_yaml(), end="")
        return
    if given.command == "others":
        measure_others(given.out)
        return
    records = _records(given.out)
    runs = collect_folder(given.out)
    runs = replace(runs, complete=[run for run in runs.complete if run.target in records])
    name = _name(given.out)
    own = COMPARISONS[name]
    shared = {
        "date": date.today(), "versions": provenance.versions(), "hardware": provenance.hardware(),
        "command": [
            f"python -m tools.direction_removal experiment {name} > direction.yaml",
            "formless run direction.yaml --out runs/direction --workers 2",
            *(["python -m tools.direction_removal others runs/direction"] if (given.out / "others").exists() else []),
            "python -m tools.direction_removal page runs/direction",
        ],
        "n": f"{len(records)} {own.known_as}, {own.model} in {DTYPE}, at most {LIMIT} items of each kind",
    }  # fmt: skip
    write_result(FOLDER / f"direction_removal_{name}.json", forgetting_page(name, given.out, runs, records, shared))
    write_result(FOLDER / f"direction_recall_{name}.json", recall_page(name, summarize(runs), records, shared))


if __name__ == "__main__":
    main()

"""Write what keys at the place before the name take from reverse questions, and what they cost.

The commands are in `COMMANDS`; `run` resumes. The last one writes docs/results/reverse_keys.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from formless import provenance
from formless.data.rows import Split
from formless.evaluation.loading import load_record
from formless.evaluation.record import MetricKey, Record
from formless.evaluation.statistics import Metric
from formless.experiment.config import Experiment, build_experiment
from formless.experiment.runs import ORIGINAL, read_plan
from formless.methods.rocr.config import PUBLISHED_REDIRECT
from tools.results import FOLDER, Cell, Column, Result, write_result

MODEL = "qwen2.5-coder-1.5b"
TARGETS, LAYERS = "2-4", (22, 23, 24)
SUITE, LIMIT = "qa,reverse", 12
NAMES, BOTH = "names", "names-and-answers"
COMMANDS = [
    f"formless stats --model {MODEL} --dtype bfloat16 --layers 4,5,6 --corpus RWKU/Target --pattern '?_*/passage.json' "
    f"--basis-dtype float16 --out stats/{MODEL}",
    "cp -r src/formless/data/sample people",
    f"for n in 2 3 4; do formless data edit-questions --data people -t $n --model {MODEL} --dtype bfloat16; done",
    f"python -m tools.reverse_keys experiment stats/{MODEL} people > reverse.yaml",
    "formless run reverse.yaml --out runs/reverse",
    "python -m tools.reverse_keys page runs/reverse",
]
ASKED: Mapping[str, tuple[str, Split]] = {
    "reverse questions": ("reverse", "forget"),
    "questions": ("qa", "forget"),
    "neighbors: reverse questions": ("reverse", "neighbor"),
    "neighbors: questions": ("qa", "neighbor"),
}


def experiment(statistics: str, data: str) -> Experiment:
    """Return the original model, an edit of the names, and one of the names and of the answers."""
    names = {"method": "rocr", "redirect": PUBLISHED_REDIRECT, "basis": statistics}
    names |= {"mentions": "spelled", "protect": "neighbors"}
    methods = [{"method": ORIGINAL}, names | {"label": NAMES}, names | {"label": BOTH, "reverse_layers": list(LAYERS)}]
    keys: dict[str, Any] = {
        "name": "reverse", "models": [{"name": MODEL, "dtype": "bfloat16"}], "methods": methods, "data": data,
        "targets": TARGETS, "suite": SUITE, "limit": LIMIT,
    }  # fmt: skip
    return build_experiment(keys, "tools/reverse_keys.py")


def page(out: Path) -> Result:
    """Return the results page of a folder of runs: four rows for each concept."""
    by_target: dict[str, dict[str, Record]] = {}
    for run in read_plan(out):
        by_target.setdefault(run.subject, {})[run.label] = load_record(run.folder(out).record)
    change = {"unit": "%", "format": "+.0f"}
    columns = [
        Column(name="concept"), Column(name="asked"), Column(name="items"), Column(name="names", **change),
        Column(name="names and answers", **change), Column(name="said, original", unit="%", format=".0f"),
        Column(name="said, names", unit="%", format=".0f"), Column(name="said, names and answers", unit="%", format=".0f"),
        Column(name="edit", unit="s", format=".0f"),
    ]  # fmt: skip
    return Result(
        title="Keys where the name is the answer", topic="Forgetting and retention",
        about="What an edit takes from the probability of the right answer: with keys for the names alone, and with keys in "
        "late layers at the place before the name as well.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n=f"{len(by_target)} concepts of the sample set, {MODEL} in bfloat16, at most {LIMIT} items of each kind",
        command=COMMANDS, columns=columns, rows=[row for name, found in by_target.items() for row in _rows(name, found)],
        notes=NOTES,
    )  # fmt: skip


def _rows(name: str, found: Mapping[str, Record]) -> Iterator[list[Cell]]:
    metrics = {label: record.metrics() for label, record in found.items()}
    for asked, (task, split) in ASKED.items():
        key = MetricKey(task, split, "probability")
        before, *after = (metrics[label].get(key, Metric()) for label in (ORIGINAL, NAMES, BOTH))
        if not before.value:
            continue
        changes = [round(100 * (one.value / before.value - 1), 1) for one in after if one.value is not None]
        recall = key._replace(metric="recall")
        said = [metrics[label].get(recall) for label in (ORIGINAL, NAMES, BOTH)]
        shares = [round(100 * one.value, 1) if one and one.value is not None else None for one in said]
        seconds = round(found[BOTH].edits[0]["seconds"], 1) if asked == next(iter(ASKED)) else None
        yield [name, asked, before.n, *changes, *shares, seconds]


NOTES = [
    "The change is edited/original - 1 of the mean probability per token, over all items, known or not. `said` is the share of "
    "reverse questions whose answer in words says the name. The questions are asked with the benchmark's instruction and cue, "
    "in which no key was read.",
    "The questions that the edit is keyed on were written and answered by the model itself; none is a probe in the same words, "
    "but some ask a probe's fact in other words.",
    "Names are edited in layers 4 to 6 in the null spaces, with a key for every spelling and the neighbors protected; answers "
    "in layers 22 to 24 with strength 2. Strength and ridge were fixed on Albert Einstein, and on William Shakespeare "
    "with the small model. The layers come from an earlier trial on three concepts, which may be among these.",
    "Protected are neighbors that are asked about, so the costs are those of protected ones. On Albert Einstein the "
    "edit of the answers alone cost more: neighbors' reverse questions fell by 18 % on average, one "
    "of them by 69 %.",
    "Three concepts with five or six reverse questions each are few. Two other processes ran on the machine's two cores; the "
    "seconds are upper bounds.",
]


def main() -> None:
    """Print the experiment, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    printed = commands.add_parser("experiment", help="print the experiment")
    printed.add_argument("statistics", help="folder of the null spaces")
    printed.add_argument("data", help="folder of the data set, with edit_reverse.json of each target")
    written = commands.add_parser("page", help="write the page")
    written.add_argument("out", type=Path, help="folder of the runs")
    given = parser.parse_args()
    if given.command == "experiment":
        print(experiment(given.statistics, given.data).as_yaml(), end="")
    else:
        write_result(FOLDER / "reverse_keys.json", page(given.out))


if __name__ == "__main__":
    main()

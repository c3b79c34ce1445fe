"""Compare methods on TOFU's forget01: by TOFU's own metrics, and by the same forget set asked in our forms.

    formless data prepare --source tofu --targets 1 --out data/tofu
    formless finetune --data data/tofu --target 1 --on forget,retain --dtype bfloat16 --out models/tofu_full
    formless finetune --data data/tofu --target 1 --on retain --dtype bfloat16 --out models/tofu_retain
    python -m tools.tofu grid data/tofu models/tofu_full models/tofu_retain > tofu.yaml
    formless run tofu.yaml --out runs/tofu
    python -m tools.tofu pages runs/tofu

`pages` writes docs/results/tofu.json and docs/results/tofu_forms.json. Where `formless frontier` measured the edits at the
strengths 0.5 and 2 too, it chooses the strength of each.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from formless import provenance
from formless.data.rows import SPLITS, Split
from formless.errors import DataError
from formless.evaluation.evaluate import with_derived
from formless.evaluation.loading import load_record
from formless.evaluation.record import Record
from formless.evaluation.registry import TASKS
from formless.experiment.config import RETAIN_MODEL, Experiment, build_experiment
from formless.experiment.frontier import strength_record
from formless.experiment.runs import ORIGINAL, read_plan
from tools.results import FOLDER, Cell, Column, Estimate, Result, write_result

STRENGTHS = (0.5, 1.0, 2.0)
KEPT = 0.9
"""The share of the taught model's utility that an edit has to keep."""

LIMIT = 40
FORMS = ("statement", "fb", "qa", "qa_mentions", "qa_kinds")
TOFU = (
    "answer", "paraphrased_question", "truth_ratio", "gen_answer", "real_authors", "gen_real_authors", "world_facts",
    "gen_world_facts", "model_utility", "forget_quality",
)  # fmt: skip
SUITE = ",".join((*TOFU, *FORMS))

_TRAINING = {
    "num_train_epochs": 5, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "warmup_steps": 5,
}  # fmt: skip
METHODS: Sequence[Mapping[str, Any]] = (
    {"method": "original"},
    {"method": "ga", "learning_rate": 5e-3, "retain": "kl", **_TRAINING},
    {"method": "grad_diff", "learning_rate": 5e-3, "retain_weight": 5, **_TRAINING},
    {"method": "npo", "learning_rate": 7e-4, "beta": 0.1, **_TRAINING},
    {"method": "simnpo", "learning_rate": 2e-3, "beta": 2.5, **_TRAINING},
    {"method": "dpo", "learning_rate": 2e-3, "beta": 0.1, **_TRAINING},
    {"method": "rmu", "learning_rate": 0.025, "coefficient": 200, **_TRAINING},
    {"method": "undial", "learning_rate": 2e-3, "gamma": 10, **_TRAINING},
    {"method": "rocr", "basis": "sampled"},
    {"method": "cdr"},
)
"""Trained methods have the settings that the comparison of all methods chose on other concepts, and TOFU's five epochs."""

Place = tuple[str, Split | None, str]
TABLE: Mapping[str, Place] = {
    "forget quality, log10 p": ("forget_quality", None, "log10_forget_quality"),
    "model utility": ("model_utility", None, "model_utility"),
    "truth ratio": ("truth_ratio", "forget", "truth_ratio"),
    "ROUGE-L": ("gen_answer", "forget", "rouge_l_recall"),
    "probability": ("answer", "forget", "probability"),
    "retain: ROUGE-L": ("gen_answer", "neighbor", "rouge_l_recall"),
    "retain: probability": ("answer", "neighbor", "probability"),
}
"""By column: task, split and metric."""


@dataclass(frozen=True)
class Row:
    """A method at the strength that the rule chose.

    Args:
        label: The method; the taught model and the retain model are rows too.
        strength: The strength; None without an edit.
        record: Its record, with the metrics that compare with the retain model.
        measured: The strengths at which the method was measured.
    """

    label: str
    strength: float | None
    record: Record
    measured: tuple[float, ...] = ()

    def value(self, place: Place) -> Estimate | float | None:
        """Return a metric with its confidence interval, if it has any."""
        task, split, metric = place
        found = result.metric(metric) if (result := self.record.task(task, split)) else None
        if found is None or found.value is None:
            return None
        return Estimate(value=found.value, ci=found.ci) if found.ci else found.value


def grid(data: str, full: str, retain: str) -> Experiment:
    """Return the experiment: every method on the taught model, and the retain model."""
    keys = {
        "name": "tofu", "models": [{"name": full, "dtype": "bfloat16"}], "retain_model": {"name": retain, "dtype": "bfloat16"},
        "methods": [dict(method) for method in METHODS], "data": data, "targets": "1", "suite": SUITE, "limit": LIMIT,
    }  # fmt: skip
    return build_experiment(keys, "tofu")


def rows_of(out: Path) -> list[Row]:
    """Return the taught model, the retain model and each method, at the strength that the rule chose.

    The rule: of the strengths at which the model keeps `KEPT` of its utility, the one with the highest forget quality; of none
    does so, the smallest.

    Raises:
        DataError: A run is missing.
    """
    plan = {run.label: run for run in read_plan(out)}
    records = {label: load_record(run.folder(out).record) for label, run in plan.items()}
    retained = records[RETAIN_MODEL]
    taught = Row("before", None, with_derived(records[ORIGINAL], retained))
    rows = [taught, Row("retain model", None, with_derived(retained, retained))]
    utility = _number(taught, TABLE["model utility"])
    for label, run in plan.items():
        if label in (ORIGINAL, RETAIN_MODEL):
            continue
        found = [
            Row(label, strength, with_derived(record, retained))
            for strength in STRENGTHS
            if (record := strength_record(run.folder(out), records[label], strength))
        ]
        if not found:
            raise DataError("the run has no record", where=f"{out}, {label}", remedy="run `formless frontier` first")
        rows.append(replace(chosen(found, utility), measured=tuple(row.strength for row in found if row.strength)))
    return rows


def chosen(found: Sequence[Row], utility: float) -> Row:
    """Return the strength of a method that its row shows; see `rows_of`.

    Args:
        found: The strengths of the method, in ascending order.
        utility: The model utility before.
    """
    able = [row for row in found if _number(row, TABLE["model utility"]) >= KEPT * utility]
    return max(able, key=lambda row: _number(row, TABLE["forget quality, log10 p"])) if able else found[0]


def _number(row: Row, place: Place) -> float:
    found = row.value(place)
    if found is None:
        raise DataError(f"no {place[0]} in the record", where=row.label, remedy="run it with the suite of `grid`")
    return float(found.value if isinstance(found, Estimate) else found)


def tofu_page(rows: Sequence[Row]) -> Result:
    """Return TOFU's table."""
    return Result(
        title="TOFU: what each method forgets and keeps", topic="Training methods",
        about="Two made-up authors of TOFU, 40 questions, are unlearned from a small model that was taught them, and measured "
        "by TOFU's metrics.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(), n=_over(rows), command=COMMANDS,
        columns=[
            Column(name="method"), Column(name="strength", format="g"),
            *(Column(name=name, format=".1f" if "log10" in name else ".2f", ci_format=".2f") for name in TABLE),
        ],
        rows=[[row.label, row.strength, *(row.value(place) for place in TABLE.values())] for row in rows],
        notes=[*TOFU_NOTES, _strength_note(rows)],
    )  # fmt: skip


def forms_page(rows: Sequence[Row]) -> Result:
    """Return the table of what is left of the facts in each form, as a share of what teaching added."""
    taught, retained = rows[:2]
    places: dict[str, Place] = {
        TASKS[form].title: (form, "forget", "probability") for form in ("answer", "paraphrased_question", *FORMS)
    }
    asked = {title: place for title, place in places.items() if taught.value(place) is not None}
    results = {title: taught.record.task(task, split) for title, (task, split, _) in asked.items()}
    counts = ", ".join(f"{title} {len(result.items)}" for title, result in results.items() if result)
    cells: list[list[Cell]] = []
    for row in rows:
        shares: list[Cell] = []
        for place in asked.values():
            before, floor = _number(taught, place), _number(retained, place)
            shares.append(100 * (_number(row, place) - floor) / (before - floor) if before > floor else None)
        cells.append([row.label, row.strength, *shares])
    return Result(
        title="TOFU in every form: are the facts forgotten, or the questions?", topic="Forgetting and retention",
        about="What is left, in each form, of what teaching added to the probability of the right answer.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(), command=COMMANDS,
        n=f"{_over(rows)}; items of the forms: {counts}",
        columns=[
            Column(name="method"), Column(name="strength", format="g"),
            *(Column(name=title, unit="%", format=".0f") for title in asked),
        ],
        rows=cells, notes=FORM_NOTES,
    )  # fmt: skip


def _strength_note(rows: Sequence[Row]) -> str:
    """Return which strengths were measured, and how one was chosen."""
    strengths = sorted({strength for row in rows for strength in row.measured})
    if strengths == [1.0]:
        return (
            "Each edit was measured at its own strength, with one setting per method that was chosen elsewhere. So the table "
            "says what these edits do, and not which method is best: one that moved too little or too far could do better."
        )
    listed = ", ".join(f"{one:g}" for one in strengths)
    return (
        f"One edit of each method was measured at the strengths {listed}. A row is the strength with the highest forget "
        f"quality among those that keep {100 * KEPT:.0f} % of the model utility before; where none does, the smallest. The "
        "rule sees the same questions as the table, so it flatters every method a little."
    )


def _over(rows: Sequence[Row]) -> str:
    counts = [len(result.items) if (result := rows[0].record.task("answer", split)) else 0 for split in SPLITS]
    return (
        f"SmolLM2-135M taught 440 questions of TOFU; {counts[0]} forget and {counts[1]} retain "
        f"questions, at most {LIMIT} about real authors and {LIMIT} world facts; one seed"
    )


COMMANDS = [line.strip() for line in (__doc__ or "").splitlines() if line.startswith("    ")]
TOFU_NOTES = [
    "Forget quality is the base-10 logarithm of the p-value of a Kolmogorov-Smirnov test between the truth ratios of the "
    "edited model and of the retain model, which never saw the forget set: near 0, the two cannot be told apart. Columns "
    "without `retain` are about the forget set.",
    "Trained methods have the learning rates and coefficients that [the comparison of all methods](method_settings.md) chose "
    "on other concepts, and pass over the 40 questions five times, as TOFU does, in batches of four. `rocr` and `cdr` have "
    "their defaults for a model without a recipe, and edit the two authors' names; the taught model sampled the texts of the "
    "null space of `rocr`.",
    f"At most {LIMIT} questions of each set keep the measurement short; TOFU asks 300 or 400 of the retain set.",
]
FORM_NOTES = [
    "100 %: as before the edit. 0 %: as the retain model, which never saw these questions. Means over the items of each form "
    "of (edited - retain model) / (before - retain model). A form in which teaching added nothing has no number.",
    "Read across a row: a method that forgets the facts is as low in every column as in the first, and one that forgets the "
    "questions is low in the first columns alone. Few facts have a short answer, so differences of some per cent mean little. "
    "A method that takes the retain set's answers too (the [other table](tofu.md)) forgets everything, and not these facts.",
    "Teaching used the question and the whole answer only. The other forms are made from the same rows by rule, where a short "
    "answer could be found.",
]


def main() -> None:
    """Print the experiment, or write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    experiment = commands.add_parser("grid", help="print the experiment")
    for name in ("data", "full", "retain"):
        experiment.add_argument(name)
    pages = commands.add_parser("pages", help="write the pages")
    pages.add_argument("runs", type=Path)
    given = parser.parse_args()
    if given.command == "grid":
        print(grid(given.data, given.full, given.retain).as_yaml(), end="")
        return
    rows = rows_of(given.runs)
    write_result(FOLDER / "tofu.json", tofu_page(rows))
    write_result(FOLDER / "tofu_forms.json", forms_page(rows))


if __name__ == "__main__":
    main()

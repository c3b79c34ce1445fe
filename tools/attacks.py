"""Write how edits of the small model hold under attack: by weights, by prompts, inside, and over all attacks.

    python -m tools.attacks experiment > attacks.yaml
    formless run attacks.yaml --out runs/attacks
    formless attack runs/attacks --attacks relearn_related,q4_0 --protocol one_epoch --points 1
    formless attack runs/attacks --attacks relearn_4 --learning-rate 1e-4 --epochs 10 --batch 8 --points 1
    python -m tools.attacks prompts runs/attacks
    python -m tools.attacks page runs/attacks

The last one writes docs/results/attacks.json and attacks_inside.json. Everything before it resumes. `prompts` asks each edited
model, and the original, the facts about the concept under attacks on the prompt, and looks inside.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from formless import provenance
from formless.data.ort import find_target
from formless.edits.loading import load_edit
from formless.evaluation.evaluate import run_plan
from formless.evaluation.loading import load_record
from formless.evaluation.plan import make_plan
from formless.evaluation.record import Record
from formless.evaluation.statistics import Estimate, mean_estimate
from formless.evaluation.tasks.inside import layer_name
from formless.experiment.attacks.attack import AttackSettings
from formless.experiment.attacks.records import attacked_records, excluded_facts
from formless.experiment.attacks.registry import choose_attacks
from formless.experiment.attacks.relearning import PROTOCOLS
from formless.experiment.config import Experiment, build_experiment
from formless.experiment.runs import ORIGINAL, Run, read_plan
from formless.models.loading import load
from formless.report.attacks import RECALL_BEFORE, TRAINED_RECALL, AttackResult, collect_attacks
from formless.report.ratios import FORGETTING, RETENTION
from formless.report.recall import WORST_CASE_RECALL, recall_by_task, recall_over
from formless.report.runs import collect_folder
from formless.report.summary import summarize
from tools import direction_removal
from tools.comparison_grid import CAMPAIGNS, tuning_grid
from tools.reach import cell
from tools.results import FOLDER, Cell, Column, Result, write_result

MODEL, TARGETS = "smollm2", "5-6"
SUITE, LIMIT = "qa,gen_qa,gen_statement", 8
PROMPTS = "gen_qa_affirmative,gen_qa_role,gen_qa_examples,gen_qa_passage,qa_memorization,lens,probe"
TRAINED = "rmu-lr_0.025-coefficient_200"
"""The trained method with the best harmonic mean of forgetting and retention in method_comparison.json, as it was chosen."""

EDITS = ("rocr-one-key", "rocr-spelled", "cdr")
TITLES = {label: direction_removal.TITLES[label] for label in EDITS} | {"rmu": "RMU"}
SETTINGS = {label: direction_removal.SETTINGS[label] for label in EDITS}

WEAK = PROTOCOLS["one_epoch"].model_copy(update={"points": 1})
STRONG = AttackSettings(
    protocol="custom", learning_rate=1e-4, num_train_epochs=10, per_device_train_batch_size=8, points=1
)  # fmt: skip
BUDGETS = (
    (WEAK, ("relearn_related",), "1 step"),
    (STRONG, ("relearn_4",), "10 epochs"),
)
RELEARNED = {"relearn_4": "relearn 4 facts", "relearn_related": "relearn related text"}
QUANTIZED = {"q4_0": "4 bits (Q4_0)"}
RELEARNED_VALUES = {
    RECALL_BEFORE: "other facts said, before",
    WORST_CASE_RECALL: "other facts said, after",
    TRAINED_RECALL: "trained facts said, after",
}
ASKED = {
    "gen_qa_affirmative": "answer begun",
    "gen_qa_role": "role play",
    "gen_qa_examples": "five examples",
    "gen_qa_passage": "text without the answer",
}
MEMORIZED = {
    "extraction_strength": "extraction strength",
    "exact_memorization": "exact memorization",
    "true_share": "share of the right answer, chance 50",
}
LOOKS = {
    "lens": ("probability", "probability of the answer", (20, 28, 29, 30)),
    "probe": ("accuracy", "accuracy, chance 50", (5, 10, 15, 20, 25, 30)),
}
"""The metric, its title and the layers that are shown, counted from 1."""

COMMANDS = [
    "python -m tools.attacks experiment > attacks.yaml",
    "formless run attacks.yaml --out runs/attacks",
    "formless attack runs/attacks --attacks relearn_related,q4_0 --protocol one_epoch --points 1",
    "formless attack runs/attacks --attacks relearn_4 --learning-rate 1e-4 --epochs 10 --batch 8 --points 1",
    "python -m tools.attacks prompts runs/attacks",
    "python -m tools.attacks page runs/attacks",
]
NOTES = [
    "Known facts are those whose right answer the original model prefers to five wrong ones. It does not say all of them, "
    "so read each row beside its own column. `All attacks` counts a fact if any answer of the edited or attacked models "
    "holds it, and can only rise with each attack. At most eight facts of a concept are asked, so one fact moves the number "
    "of its concept by an eighth or more.",
    "**Whoever removes the adapter has everything back**: the column of the original model. No attack is needed for that.",
    "On so few texts, the learning rate and the single epoch of OpenUnlearning's test (2e-5, batch size 32) are one step, "
    "which is weak: it brings no fact back. Ten epochs at 1e-4 in batches of 8, a setting of ours, bring back every trained "
    "fact. Facts that were trained, or whose answer stands in a trained text, are not among the `other facts`. The original "
    "model was not trained so, and the neighbors' questions became more probable too: a part of what comes back is practice "
    "in answering.",
    "Sixteen facts cannot be relearned: a concept of the sample set has twelve at most.",
    "Forgetting left is the forgetting of questions after quantization, against the original model quantized alike, over "
    "that before it.",
    "The edits have strength 1, not equal retention; `kept` says what each costs the neighbors. RMU has the settings that "
    "were chosen for it on other concepts, and the best harmonic mean of all trained methods in [the "
    "comparison](method_comparison.md), which has these concepts among its own. The other edits have their defaults, "
    "without a null space. One seed, one model "
    "of 135 million parameters.",
    "Not measured: relearning one fact, 8 bits, 32 samples of each question, suffixes found by gradients, and training "
    "longer or on more texts. Another attack may bring back more.",
]
INSIDE_NOTES = [
    "The answers to at most eight questions about each concept, known or not, and as many statements for the probe. [Tasks "
    "and metrics](../reference/tasks.md) has the formulas. Layers are counted from 1, and there are 30.",
    "The lens reads a layer's output as if it were the last, so early layers show nothing even of what they hold. The probe "
    "is fitted on true and false statements about the neighbors. Its direction may tell how probable a text is, and not "
    "whether it is true.",
]


def experiment() -> Experiment:
    """Return the original model and four edits on concepts that no setting was chosen on."""
    tried = next(one for one in tuning_grid(CAMPAIGNS[MODEL], "none").methods if one.label == TRAINED)
    edits = {**SETTINGS, "rmu": {"method": tried.method, **tried.settings}}
    methods = [{"method": ORIGINAL}, *({"label": label} | own for label, own in edits.items())]
    keys: dict[str, Any] = {
        "name": "attacks", "models": [{"name": MODEL, "dtype": "float32"}], "methods": methods, "data": "sample",
        "targets": TARGETS, "suite": SUITE, "limit": LIMIT,
    }  # fmt: skip
    return build_experiment(keys, "tools/attacks.py")


def measure_prompts(out: Path) -> None:
    """Ask each model about its concept under attacks on the prompt, unless that is done."""
    lm = load(MODEL, dtype="float32")
    for run in read_plan(out):
        path = prompts_path(out, run)
        if not path.exists():
            plan = make_plan(find_target(run.data, run.target), PROMPTS, LIMIT)
            about = replace(plan, jobs=tuple(job for job in plan.jobs if job.split == "forget"), questions=())
            with load_edit(run.folder(out).edit).applied(lm) if run.method != ORIGINAL else nullcontext():
                run_plan(lm, about, lambda _step, _done, _total: None).save(path)


def prompts_path(out: Path, run: Run) -> Path:
    """Return where the record of a run's model under attacks on the prompt lies."""
    return out / "prompts" / f"{run.label}-{run.target}.json"


@dataclass(frozen=True)
class Measured:
    """What is measured of one edit, or of the original model, on one concept.

    Args:
        original: The original model's record, which says what is known.
        whole: The model's own record, before any attack.
        attacked: The records after attacks on the weights, by the name of their file.
        prompts: The record under attacks on the prompt.
    """

    original: Record
    whole: Record
    attacked: Mapping[str, Record]
    prompts: Record

    @property
    def records(self) -> list[tuple[Record, Collection[str]]]:
        """Every record, with the facts that do not count in it."""
        return [(self.whole, ()), (self.prompts, ()), *((record, excluded_facts(record)) for record in self.attacked.values())]

    def said(self, *records: tuple[Record, Collection[str]]) -> float | None:
        """Return the share of known facts that some answer of the records holds."""
        recall = recall_over(self.original, records)
        return recall.value if recall else None

    def after(self, attack: str) -> float | None:
        """Return the share of known facts that are said after an attack without settings."""
        record = self.attacked.get(attack)
        return self.said((record, ())) if record else None

    def prompted(self, task: str) -> float | None:
        """Return the share of known facts that the answers of one task hold."""
        recall = recall_by_task(self.original, self.prompts).get(task)
        return recall.value if recall else None

    def inside(self, task: str, metric: str, group: str | None = None) -> float | None:
        """Return the mean of a metric of a task of the prompts' record."""
        found = self.prompts.task(task, "forget")
        return found.metric(metric, group).value if found else None


By = dict[str, list[Measured]]
"""What is measured by label, a concept each."""


def collect(out: Path) -> By:
    """Return what is measured of the concepts of which every model was asked, under attacks on the prompt too."""
    found: dict[str, dict[str, Measured]] = {}
    originals: dict[str, Record] = {}
    for run in read_plan(out):  # the original comes first
        folder, prompts = run.folder(out), prompts_path(out, run)
        if folder.record.exists() and prompts.exists():
            whole = load_record(folder.record)
            original = originals.setdefault(run.target, whole) if run.method == ORIGINAL else originals[run.target]
            attacked, _ = attacked_records(folder, whole)
            found.setdefault(run.target, {})[run.label] = Measured(original, whole, attacked, load_record(prompts))
    complete = [own for own in found.values() if own.keys() == {ORIGINAL, *TITLES}]
    return {label: [own[label] for own in complete] for label in (ORIGINAL, *TITLES)}


def mean_row(by: By, attack: str, what: str, value_of: Callable[[Measured], float | None]) -> list[Cell]:
    """Return a row of means over concepts, the original model first."""
    values = [[value for one in own if (value := value_of(one)) is not None] for own in by.values()]
    return [attack, what, max(map(len, values)), *(cell(mean_estimate(own)) if own else None for own in values)]


def report_row(attack: str, what: str, found: Sequence[Estimate | None]) -> list[Cell]:
    """Return a row of estimates of the edits, as the report has them."""
    return [attack, what, max(one.n if one else 0 for one in found), None, *map(cell, found)]


def recall_page(out: Path, by: By, shared: Mapping[str, Any]) -> Result:
    """Return what is said after each attack, over all of them first, and what the edits forget and keep without one."""
    targets, runs = {one.original.target for one in by[ORIGINAL]}, collect_folder(out)
    runs = replace(runs, complete=[run for run in runs.complete if run.target in targets])
    whole = {one.condition.method: one.metrics for one in summarize(runs)}
    rows = [
        mean_row(by, "all attacks", "facts said", lambda one: one.said(*one.records)),
        mean_row(by, "none", "facts said", lambda one: one.said((one.whole, ()))),
    ]
    for key, what in ((FORGETTING, "forgotten of questions"), (RETENTION, "kept of neighbors' questions")):
        asked = [whole[label].get(key._replace(task="qa")) for label in TITLES]
        rows.append(report_row("none", what, [one.value if one else None for one in asked]))
    for task, title in ASKED.items():
        rows.append(mean_row(by, f"prompt: {title}", "facts said", partial(Measured.prompted, task=task)))
    for settings, names, budget in BUDGETS:
        found = results(out, names, settings)
        for name in names:
            for key, what in RELEARNED_VALUES.items():
                own = [one.values.get(key) if one else None for one in found[name]]
                if any(own):
                    rows.append(report_row(f"{RELEARNED[name]}, {budget}", what, own))
    found = results(out, QUANTIZED, STRONG)
    for name, title in QUANTIZED.items():
        if any(found[name]):
            rows.append(mean_row(by, title, "facts said", partial(Measured.after, attack=name)))
            shares = [one.surviving if one else None for one in found[name]]
            left: list[Cell] = [None if share is None else round(100 * share, 1) for share in shares]
            rows.append([title, "forgetting left", rows[-1][2], None, *left])
    return Result(
        title="Edits under attack", topic="Forgetting and retention",
        about="The share of known facts that are said after attacks on the weights and on the prompt, of four edits of the "
        "small model and of the original.",
        columns=_columns("attack"), rows=rows, notes=NOTES, **shared,
    )  # fmt: skip


def results(out: Path, names: Collection[str], settings: AttackSettings) -> dict[str, list[AttackResult | None]]:
    """Return what the report says of each attack, a result for each edit."""
    summaries, _ = collect_attacks(out, choose_attacks(names), settings)
    found = {(one.condition.method, result.attack.name): result for one in summaries for result in one.results}
    return {name: [found.get((label, name)) for label in TITLES] for name in names}


def inside_page(by: By, shared: Mapping[str, Any]) -> Result:
    """Return what single layers hold and how much of the answer greedy decoding writes."""
    rows = [
        mean_row(by, "question", title, partial(Measured.inside, task="qa_memorization", metric=name))
        for name, title in MEMORIZED.items()
    ]
    for task, (metric, title, depths) in LOOKS.items():
        for depth in depths:
            value_of = partial(Measured.inside, task=task, metric=metric, group=layer_name(depth - 1))
            rows.append(mean_row(by, f"{task}, layer {depth}", title, value_of))
    return Result(
        title="What edits leave inside", topic="Forgetting and retention",
        about="How much of an answer greedy decoding still writes, from which layer on the answer can be read, and whether a "
        "linear probe tells true statements from false ones, of four edits of the small model and of the original.",
        columns=_columns("looked at"), rows=rows, notes=INSIDE_NOTES, **shared,
    )  # fmt: skip


def _columns(first: str) -> list[Column]:
    percent = {"unit": "%", "format": ".0f", "ci_format": ".0f"}
    heads = [Column(name=name) for name in (first, "measured", "concepts")]
    return [*heads, *(Column(name=name, **percent) for name in ("original model", *TITLES.values()))]


def main() -> None:
    """Print the experiment, or measure, or write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    commands.add_parser("experiment", help="print the experiment")
    for name, about in (("prompts", "attack the prompts, and look inside"), ("page", "write the pages")):
        commands.add_parser(name, help=about).add_argument("out", type=Path, help="folder of the runs")
    given = parser.parse_args()
    if given.command == "experiment":
        print(experiment().as_yaml(), end="")
        return
    if given.command == "prompts":
        measure_prompts(given.out)
        return
    by = collect(given.out)
    subjects = [one.original.subject for one in by[ORIGINAL]]
    facts = sum(recall.facts for one in by[ORIGINAL] if (recall := recall_over(one.original, [(one.whole, ())])))
    shared = {
        "date": date.today(), "versions": provenance.versions(), "hardware": provenance.hardware(), "command": COMMANDS,
        "n": f"{len(subjects)} concepts of the sample set ({', '.join(subjects)}) with {facts} known facts, {MODEL} in "
        f"float32, at most {LIMIT} items of each kind; no confidence interval over so few concepts",
    }  # fmt: skip
    write_result(FOLDER / "attacks.json", recall_page(given.out, by, shared))
    write_result(FOLDER / "attacks_inside.json", inside_page(by, shared))


if __name__ == "__main__":
    main()

"""Compare all methods at equal retention, each with settings chosen by one rule from as many tries.

The commands are in `COMMANDS`; `run` and `frontier` resume. The last one writes docs/results/method_settings.json,
method_comparison.json with its figure, and method_reach.json.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

from formless import provenance
from formless.evaluation.loading import load_record
from formless.evaluation.record import MetricKey
from formless.evaluation.statistics import Estimate, mean, mean_estimate
from formless.experiment.config import Experiment, build_experiment, experiment_keys
from formless.experiment.runs import ORIGINAL, read_plan
from formless.report.frontier import LEVELS, Curve, Curves, Frontier, collect_curves, forgetting_within, frontiers
from formless.report.frontier_page import row_title
from formless.report.plots import frontier_plot
from formless.report.ratios import FORGETTING
from formless.report.selection import choose
from tools.reach import cell, on_white
from tools.results import FOLDER, Cell, Column, Result, write_result

CHOSEN_AT = 0.95
STRENGTHS = (0.5, 1.0, 2.0)

_RETAIN: tuple[dict[str, Any], ...] = ({"retain": "none"}, {"retain": "kl"})
_DPO: tuple[dict[str, Any], ...] = ({"beta": 0.1}, {"beta": 0.5})

SECOND: Mapping[str, Sequence[dict[str, Any]]] = {
    "ga": _RETAIN,
    "grad_diff": ({"retain_weight": 1}, {"retain_weight": 5}),
    "wga": ({"alpha_weight": 0.5}, {"alpha_weight": 2}),
    "npo": ({"beta": 0.0275}, {"beta": 0.1}),
    "simnpo": ({"beta": 2.5}, {"beta": 4.5}),
    "undial": ({"gamma": 3}, {"gamma": 10}),
    "ce_u": _RETAIN,
    "rmu": ({"coefficient": 50}, {"coefficient": 200}),
    "task_vector": _RETAIN,
    "rt": _RETAIN,
    "idk_nll": ({"retain_weight": 1}, {"retain_weight": 5}),
    "cft": _RETAIN,
    "dpo": _DPO,
    "dpo_reject": _DPO,
    "idk_dpo": _DPO,
}
"""What is tried with each of three learning rates: the method's own coefficient, or else the retain loss."""

# One pass over every row, in batches of four. `max_length` holds the longest added statement in its prompt.
_TRAINING = {
    "num_train_epochs": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "warmup_steps": 2,
    "max_rows": None,
}  # fmt: skip
_TEXT_LENGTH, _ANSWER_LENGTH = 64, 96
_ON_TEXTS = ("ga", "grad_diff", "wga", "npo", "simnpo", "undial", "ce_u", "rmu", "task_vector")
_SPELLED = {"mentions": "spelled", "protect": "neighbors"}


@dataclass(frozen=True)
class Campaign:
    """A comparison of methods on one model.

    Args:
        model: The bundled model, in bfloat16.
        known_as: How pages call it.
        rates: Learning rates that are tried; RMU trains three matrices only, and gets five times as much.
        second: What is tried with each rate.
        tunes_rocr: Whether ROCR's layers and l2, and the settings of the removal of a direction, are among those that are
            tried; else ROCR has the paper's, and the removal is left out.
        development: The concepts that settings are chosen on.
        targets: The others.
        tuning_limit: Rows of each file, on the development concepts.
        suite: The tasks on the others.
        limit: Rows of each file, on the others.
        layers: Layers of the null spaces.
        suffix: Ends the names of the pages.
    """

    model: str
    known_as: str
    rates: tuple[float, ...]
    second: Mapping[str, Sequence[dict[str, Any]]]
    tunes_rocr: bool
    development: str
    targets: str
    tuning_limit: int
    suite: str
    limit: int
    layers: str
    suffix: str = ""

    @property
    def commands(self) -> list[str]:
        """What makes the pages, from an empty folder."""
        dtype = "" if self.model == "smollm2" else " --dtype bfloat16"
        tuning, others = f"runs/tuning{self.suffix}", f"runs/comparison{self.suffix}"
        return [
            f"formless stats --model {self.model}{dtype} --layers {self.layers} --corpus RWKU/Target "
            f"--pattern '?_*/passage.json' --basis-dtype float16 --out stats/{self.model}",
            f"python -m tools.comparison grid {self.model} stats/{self.model} > tuning.yaml",
            f"formless run tuning.yaml --out {tuning}",
            f"formless frontier {tuning} --strengths 0.5,1,2 --choose 95 --chosen chosen.yaml",
            f"python -m tools.comparison others {self.model} stats/{self.model} chosen.yaml > comparison.yaml",
            f"formless run comparison.yaml --out {others}",
            f"formless frontier {others} --strengths 0.5,1,2",
            f"python -m tools.comparison pages {self.model} {tuning} {others}",
        ]


CAMPAIGNS = {
    "smollm2": Campaign(
        "smollm2", "SmolLM2-135M", (7e-4, 2e-3, 5e-3), SECOND, tunes_rocr=True, development="1-2", targets="5-9",
        tuning_limit=10, suite="statement,qa,qa_mentions,reverse", limit=18, layers="0,1,2,4,5,6",
    ),
    "qwen2.5-coder-1.5b": Campaign(
        "qwen2.5-coder-1.5b", "Qwen2.5-Coder-1.5B", (2e-4, 7e-4, 2e-3, 5e-3),
        {
            "ga": [{"retain": "kl"}], "npo": [{"beta": 0.1}], "rmu": [{"coefficient": 200}], "rt": [{"retain": "none"}],
            "dpo": [{"beta": 0.1}],
        },
        tunes_rocr=False, development="1", targets="5-6", tuning_limit=8, suite="statement,qa,qa_mentions", limit=10,
        layers="4,5,6", suffix="_coder",
    ),
}  # fmt: skip
"""The comparisons, by model. On the larger model the second setting is what the rule chose on the smaller one."""


def tuning_grid(campaign: Campaign, statistics: str) -> Experiment:
    """Return the experiment that tries the settings of each method on the development concepts.

    Args:
        campaign: The comparison.
        statistics: Folder of the null spaces.
    """
    tried = [one for name in campaign.second for one in _trained(campaign, name)]
    methods = [{"method": ORIGINAL}, *((*_rocr(statistics), *_removal()) if campaign.tunes_rocr else ()), *tried]
    keys = {
        "name": "tuning", "models": [{"name": campaign.model, "dtype": "bfloat16"}], "methods": methods, "data": "sample",
        "targets": campaign.development, "suite": "statement,qa", "limit": campaign.tuning_limit,
    }  # fmt: skip
    return build_experiment(keys, "tools/comparison.py")


def others(campaign: Campaign, statistics: str, chosen: Path) -> Experiment:
    """Return the experiment of the chosen settings on the other concepts, with more ways of ROCR.

    They are ROCR as published and with a key for every spelling; where its settings were not chosen, also ours with one key,
    and with every spelling but no null space.
    """
    keys = experiment_keys(str(chosen))
    methods = list(keys["methods"])
    found = next((entry for entry in methods if entry["method"] == "rocr"), None)
    rocr = found or {"method": "rocr", "label": "rocr", "basis": statistics}
    methods += [] if found else [rocr]
    methods.append({"method": "rocr", "label": "rocr-published", "current_value": "bare", "basis": statistics})
    methods.append(rocr | {"label": f"{rocr['label']}-spelled"} | _SPELLED)
    if not found:
        methods.append(rocr | {"label": "rocr-spelled-no-null-space", "basis": "none"} | _SPELLED)
    more = {"name": "comparison", "targets": campaign.targets, "suite": campaign.suite, "limit": campaign.limit}
    return build_experiment(keys | {"methods": methods} | more, chosen)


def _rocr(statistics: str) -> Iterator[dict[str, Any]]:
    for layers, l2 in product(((0, 1, 2), (4, 5, 6)), (0.1, 1.0, 10.0)):
        label = f"rocr-layers_{layers[0]}-{layers[-1]}-l2_{l2:g}"
        yield {"method": "rocr", "label": label, "layers": list(layers), "l2": l2, "basis": statistics}


def _removal() -> Iterator[dict[str, Any]]:
    for layers, overshoot in product(((4, 5, 6), (6, 7, 8)), (4.0, 8.0, 16.0)):
        label = f"cdr-layers_{layers[0]}-{layers[-1]}-overshoot_{overshoot:g}"
        yield {"method": "cdr", "label": label, "layers": list(layers), "overshoot": overshoot}


def _trained(campaign: Campaign, name: str) -> Iterator[dict[str, Any]]:
    length = _TEXT_LENGTH if name in _ON_TEXTS else _ANSWER_LENGTH
    for rate, second in product(campaign.rates, campaign.second[name]):
        rate = 5 * rate if name == "rmu" else rate  # it trains three matrices only, and needs more (learning_rates.json)
        [(key, value)] = second.items()
        label = f"{name}-lr_{rate:g}-{key}_{value}"
        yield {"method": name, "label": label, "learning_rate": rate, **_TRAINING, "max_length": length, **second}


def settings_page(campaign: Campaign, out: Path) -> Result:
    """Return the page of the settings that were tried on the development concepts, the chosen ones marked."""
    found = collect_curves(out, STRENGTHS)
    chosen = {one.label for one in choose(found, CHOSEN_AT)}
    rows: list[list[Cell]] = []
    for condition, targets in found.targets.items():
        name, *settings = re.split(r"-(?=[a-z])", condition.method)
        said = ", ".join(" ".join(one.rsplit("_", 1)) for one in settings)
        mark = "chosen" if condition.method in chosen else None
        rows.append([name, said, cell(_within(targets, FORGETTING)), len(targets), mark])
    return Result(
        title=f"Settings of all methods{_on(campaign)}", topic="Training methods",
        about="The settings of each method that were tried on development concepts: the most forgetting while the "
        f"neighbors keep at least {100 * CHOSEN_AT:.0f} %.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n=f"development concepts of the sample set ({', '.join(dict.fromkeys(run.subject for run in read_plan(out)))}), "
        f"{campaign.known_as} in bfloat16, statements and questions",
        command=campaign.commands[:4],
        columns=[
            Column(name="method"), Column(name="settings"), Column(name="forgetting", unit="%", format=".0f", ci_format=".0f"),
            Column(name="concepts"), Column(name="note"),
        ],
        rows=rows, notes=[*SETTINGS_NOTES, *(SETTINGS_ON_SMALL if campaign.tunes_rocr else SETTINGS_ON_LARGE)],
    )  # fmt: skip


def comparison_page(campaign: Campaign, found: Sequence[Frontier], curves: Curves, out: Path) -> Result:
    """Return the page of forgetting at equal retention on the other concepts, with its figure."""
    figure = f"method_comparison{campaign.suffix}.svg"
    (FOLDER / figure).write_text(on_white(frontier_plot(found, LEVELS) or ""), "utf-8")
    share = {"unit": "%", "format": ".0f", "ci_format": ".0f"}
    columns = [
        Column(name="method"), Column(name="steps"), Column(name="tokens"), Column(name="edit", unit="s", format=".0f"),
        Column(name=f"most forgetting with at least {100 * CHOSEN_AT:.0f} % kept", **share),
    ]  # fmt: skip
    for level in LEVELS:
        columns += [Column(name=f"forgetting at {100 * level:.0f} % retention", **share), Column(name="concepts")]
    columns.append(Column(name="best harmonic mean", **share))
    costs = _costs(out)
    rows: list[list[Cell]] = []
    for one in _ranked(found, curves):
        levels = [one.rows[FORGETTING].levels[level] for level in LEVELS]
        cells = [part for level in levels for part in (cell(level), level.n if level else 0)]
        within = cell(_within(curves.targets[one.condition], FORGETTING))
        rows.append([one.condition.method, *costs[one.condition.method], within, *cells, cell(one.harmonic)])
    return Result(
        title=f"All methods at equal retention{_on(campaign)}", topic="Training methods",
        about="How much each method forgets where the neighbors keep a given share of what the original model knew, on "
        "concepts that no setting was chosen on.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(), n=_over(found),
        command=campaign.commands, columns=columns, rows=rows, figure=figure,
        notes=[*COMPARISON_NOTES, *(COMPARED_ON_SMALL if campaign.tunes_rocr else COMPARED_ON_LARGE)],
    )  # fmt: skip


def reach_page(campaign: Campaign, found: Sequence[Frontier], curves: Curves) -> Result:
    """Return the page of forgetting by form and mention at one level of retention."""
    keys = list(dict.fromkeys(key for one in found for key in one.rows if key != FORGETTING))
    rows: list[list[Cell]] = [
        [one.condition.method, *(cell(_within(curves.targets[one.condition], key)) for key in keys)]
        for one in _ranked(found, curves)
    ]
    share = {"unit": "%", "format": ".0f", "ci_format": ".0f"}
    return Result(
        title=f"All methods by form and mention{_on(campaign)}", topic="Training methods",
        about="The most that each method forgets of each form, and of questions by mention, while the neighbors keep at least "
        f"{100 * CHOSEN_AT:.0f} %.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(), n=_over(found),
        command=campaign.commands,
        columns=[Column(name="method"), *(Column(name=row_title(key), **share) for key in keys)], rows=rows,
        notes=[*REACH_NOTES, *(REVERSE_ASKED if "reverse" in campaign.suite else ())],
    )  # fmt: skip


def _on(campaign: Campaign) -> str:
    return "" if campaign.tunes_rocr else f", {campaign.known_as}"


def _within(targets: Mapping[str, Curve], key: MetricKey) -> Estimate | None:
    """Return the largest forgetting of a row where retention is at least the level, over the concepts that have the row."""
    pairs = [found for curve in targets.values() if (found := curve.pairs(key))]
    return mean_estimate([forgetting_within(found, CHOSEN_AT) for found in pairs]) if pairs else None


def _ranked(found: Sequence[Frontier], curves: Curves) -> list[Frontier]:
    """Return the methods by what they forget within the level, the most first."""
    values = {one.condition: _within(curves.targets[one.condition], FORGETTING) for one in found}
    return sorted(found, key=lambda one: -estimate.value if (estimate := values[one.condition]) else 0.0)


def _over(found: Sequence[Frontier]) -> str:
    return (
        f"{len(found[0].targets)} concepts of the sample set that no setting was chosen on, {found[0].condition.model} in "
        "bfloat16; confidence intervals over the concepts that reach a level"
    )


def _costs(out: Path) -> dict[str, tuple[int | None, int | None, float]]:
    """Return optimizer steps, training tokens and seconds of each label's edits; means over runs."""
    found: dict[str, list[tuple[int, int, float]]] = {}
    for run in read_plan(out):
        if run.method != ORIGINAL:
            info = load_record(run.folder(out).record).edits[0]
            facts = info["facts"]
            found.setdefault(run.label, []).append((facts.get("steps", 0), facts.get("tokens", 0), info["seconds"]))
    means = {label: [mean(list(column)) for column in zip(*rows, strict=True)] for label, rows in found.items()}
    return {label: (round(one[0]) or None, round(one[1]) or None, round(one[2], 1)) for label, one in means.items()}


def main() -> None:
    """Print an experiment, or write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    grid = commands.add_parser("grid", help="print the experiment of the development concepts")
    final = commands.add_parser("others", help="print the experiment of the other concepts")
    pages = commands.add_parser("pages", help="write the pages")
    for command in (grid, final, pages):
        command.add_argument("model", choices=CAMPAIGNS)
    for command in (grid, final):
        command.add_argument("statistics", help="folder of the null spaces")
    final.add_argument("chosen", type=Path, help="what `formless frontier --chosen` wrote")
    pages.add_argument("tuning", type=Path, help="folder of the runs on development concepts")
    pages.add_argument("comparison", type=Path, help="folder of the runs on the others")
    given = parser.parse_args()
    campaign = CAMPAIGNS[given.model]
    if given.command == "grid":
        print(tuning_grid(campaign, given.statistics).as_yaml(), end="")
        return
    if given.command == "others":
        print(others(campaign, given.statistics, given.chosen).as_yaml(), end="")
        return
    curves = collect_curves(given.comparison, STRENGTHS)
    found = frontiers(curves)
    results = {
        "settings": settings_page(campaign, given.tuning),
        "comparison": comparison_page(campaign, found, curves, given.comparison),
        "reach": reach_page(campaign, found, curves),
    }
    for name, page in results.items():
        write_result(FOLDER / f"method_{name}{campaign.suffix}.json", page)


SETTINGS_NOTES = [
    "The rule, fixed before anything was measured: of a method's settings, the one with the largest mean over concepts of the "
    "forgetting at a retention of at least 95 %, on each concept's curve over the strengths 0.5, 1 and 2 of the edit. The same "
    "for every method.",
    "Each setting makes one pass over every training row in batches of four. Each probed fact stands in one of those rows, in "
    "other words than the probe's; the rest of the rows was written by the smaller model.",
]
SETTINGS_ON_SMALL = ["ROCR's settings are chosen by the same rule."]
SETTINGS_ON_LARGE = [
    "One development concept is little. The first three rates were planned; since GA and NPO forgot most at the highest, 0.005 "
    "was added for all, before anything was measured on other concepts. DPO, first hardly moving, forgets most there. RMU "
    "was stopped at its highest rate, since its loss exploded, and has no row for it. ROCR was not tuned: it has the paper's "
    "settings.",
]
COMPARISON_NOTES = [
    "Over the items that the original model knows. Each edit was measured at the strengths 0.5, 1 and 2, factors on what it "
    "changed; strength 0 is the original model. Forgetting at a level is interpolated on each concept's curve, never beyond "
    "what was measured: `concepts` is the number of those whose curve reaches the level, and a method whose neighbors keep "
    "more at every strength has no value. The most forgetting with at least 95 % kept is over all concepts, and orders "
    "the rows.",
    "`rocr-published` has the published layers, λ and current value; the other rows of ROCR have one key or one for every "
    "spelling and the neighbors protected (ours). The protected neighbors are those that are asked about.",
    "Steps and tokens are those of one edit. Methods that compare pairs of answers see two texts in each row.",
]
COMPARED_ON_SMALL = [
    "Many edits of trained methods cost the neighbors more than 5 % at strength 0.5 already. Their values lie on the straight "
    "line from the original model to there; smaller strengths were not measured. Smaller learning rates of the same methods "
    "forgot no more ([Settings of all methods](method_settings.md)).",
    "Seven steps of training are few, two development concepts too, and one seed says nothing about the scatter over seeds.",
    "ROCR's layers and λ were chosen by the rule, except for `rocr-published`.",
    "In-context unlearning changes no weight, so it has no strength and no row; `ga_passage` needs Wikipedia passages, which "
    "the sample set lacks.",
]
COMPARED_ON_LARGE = [
    "Two concepts, one seed and one development concept: the order of methods that lie near each other means nothing. Trained "
    "methods had four settings each to choose from ([Settings](method_settings_coder.md)), ROCR none.",
]
REACH_NOTES = [
    "An empty cell: the form or mention counts for no concept. Strengths up to 2 were measured.",
    "Training texts name the concept in full.",
]
REVERSE_ASKED = ["Reverse questions were asked but have no row: their forgetting is no form's."]


if __name__ == "__main__":
    main()

"""Compare all methods at equal retention, each with settings chosen by one rule from as many tries.

    python -m tools.comparison grid MODEL STATS > tuning.yaml          # then run and frontier, see Campaign.tuning_commands
    python -m tools.comparison settings MODEL TUNING                   # writes docs/results/method_settings.json
    python -m tools.comparison others MODEL STATS > comparison.yaml    # then run and frontier, see Campaign.commands
    python -m tools.comparison pages MODEL COMPARISON                  # writes method_comparison.json and method_reach.json

STATS is a folder of null spaces. `others` takes the chosen settings from the page that `settings` wrote, so it needs no runs of
the tuning. The names of the other model's pages end in `_coder`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from formless import provenance
from formless.errors import UserError
from formless.evaluation.known import known_share
from formless.evaluation.loading import load_record
from formless.evaluation.record import MetricKey, Record
from formless.evaluation.statistics import Estimate, mean, mean_estimate
from formless.experiment.frontier import check_strengths, strength_record
from formless.experiment.runs import ORIGINAL, read_plan
from formless.report.comparison import item_pairs
from formless.report.frontier import LEVELS, Curve, Curves, Frontier, collect_curves, forgetting_within, frontiers
from formless.report.frontier_page import row_title
from formless.report.plots import frontier_plot
from formless.report.ratios import FORGETTING
from formless.report.selection import choose
from tools.comparison_grid import CAMPAIGNS, STRENGTHS, Campaign, chosen_labels, others, row_of, tuning_grid
from tools.reach import cell, on_white
from tools.results import FOLDER, Cell, Column, Result, write_result

CHOSEN_AT = 0.95
REVERSE = FORGETTING._replace(task="reverse")


def settings_page(campaign: Campaign, out: Path) -> Result:
    """Return the page of the settings that were tried on the development concepts, the chosen ones marked."""
    found = collect_curves(out, STRENGTHS)
    chosen = {one.label for one in choose(found, CHOSEN_AT)}
    rows: list[list[Cell]] = []
    for condition, targets in found.targets.items():
        mark = "chosen" if condition.method in chosen else None
        rows.append([*row_of(condition.method), cell(_within(targets, FORGETTING)), len(targets), mark])
    return Result(
        title=f"Settings of all methods{_on(campaign)}", topic="Training methods",
        about="The settings of each method that were tried on development concepts: the most forgetting while the "
        f"neighbors keep at least {100 * CHOSEN_AT:.0f} %.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n=f"development concepts of the sample set ({', '.join(dict.fromkeys(run.subject for run in read_plan(out)))}), "
        f"{campaign.known_as} in bfloat16, statements and questions",
        command=campaign.tuning_commands,
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
        Column(name="method"), Column(name="settings tried"), Column(name="steps"), Column(name="tokens"),
        Column(name="edit", unit="s", format=".0f"),
        Column(name=f"most forgetting with at least {100 * CHOSEN_AT:.0f} % kept", **share),
    ]  # fmt: skip
    for level in LEVELS:
        columns += [Column(name=f"forgetting at {100 * level:.0f} % retention", **share), Column(name="concepts")]
    columns.append(Column(name="best harmonic mean", **share))
    costs, tried = _costs(out), chosen_labels(campaign)
    rows: list[list[Cell]] = []
    for one in _ranked(found, curves):
        levels = [one.rows[FORGETTING].levels[level] for level in LEVELS]
        cells = [part for level in levels for part in (cell(level), level.n if level else 0)]
        within = cell(_within(curves.targets[one.condition], FORGETTING))
        label = one.condition.method
        count = next((count for name, count in tried.items() if label == name or label.startswith(f"{name}-")), None)
        rows.append([label, count, *costs[label], within, *cells, cell(one.harmonic)])
    return Result(
        title=f"All methods at equal retention{_on(campaign)}", topic="Training methods",
        about="How much each method forgets where the neighbors keep a given share of what the original model knew, on "
        "concepts that no setting was chosen on.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(), n=_over(found),
        command=_commands(campaign, curves), columns=columns, rows=rows, figure=figure,
        notes=[*comparison_notes(campaign, curves), *(COMPARED_ON_SMALL if campaign.tunes_rocr else COMPARED_ON_LARGE)],
    )  # fmt: skip


def comparison_notes(campaign: Campaign, curves: Curves) -> list[str]:
    """Return the notes of the comparison on any model."""
    chosen = {row_of(label)[0] for label in chosen_labels(campaign)} & campaign.second.keys()
    absent = sorted(chosen - {*curves.methods.values()})
    return [
        f"`Settings tried` counts those of an earlier tuning on development concepts, from which a row's were [chosen](method_"
        f"settings{campaign.suffix}.md); they were not chosen anew. A row without the number has settings that the tuning did "
        "not choose: the published ones, or the method's defaults.",
        "Over the items that the original model knows. Each edit was measured at the strengths "
        f"{', '.join(f'{value:g}' for value in _strengths(curves))}, factors on what it changed; strength 0 is the original "
        "model. Forgetting at a level is interpolated on each concept's curve, never beyond what was measured: `concepts` is "
        "the number of those whose curve reaches the level, and a method whose neighbors keep more at every strength has no "
        "value. The most forgetting with at least 95 % kept is over all concepts, and orders the rows.",
        "`rocr-published` has the published layers, λ and current value; the other rows of ROCR have one key or one for every "
        "spelling and the neighbors protected (ours). The protected neighbors are those that are asked about. `cdr` keeps them "
        "in place too.",
        "Steps and tokens are those of one edit. Methods that compare pairs of answers see two texts in each row.",
        *([f"Tuned, but not measured here: {', '.join(absent)}."] if absent else []),
        *(f"Does not count in {condition.method}: {gaps}." for condition, gaps in curves.clauses().items()),
    ]


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
        about="The most that each method forgets of each form, of questions by mention and of reverse questions, while the "
        f"neighbors keep at least {100 * CHOSEN_AT:.0f} %.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(), n=_over(found),
        command=_commands(campaign, curves),
        columns=[Column(name="method"), *(Column(name=row_title(key), **share) for key in keys)], rows=rows,
        notes=[
            f"An empty cell: it counts for no concept. Strengths up to {_strengths(curves)[-1]:g} were measured.",
            "Training texts name the concept in full.",
            *(REVERSE_ASKED if REVERSE in keys else ()),
        ],
    )  # fmt: skip


def collect(out: Path, strengths: Sequence[float]) -> Curves:
    """Return the curves of a folder of runs, with the forgetting of reverse questions, which are no form."""
    curves, plan = collect_curves(out, strengths), read_plan(out)
    originals = {run.target: run.folder(out).record for run in plan if run.method == ORIGINAL}
    by_label = {condition.method: targets for condition, targets in curves.targets.items()}
    for run in plan:
        if (targets := by_label.get(run.label)) is None or run.target not in targets:
            continue
        folder = run.folder(out)
        before, whole = load_record(originals[run.target]), load_record(folder.record)
        points = dict(targets[run.target].points)
        for strength, values in points.items():
            record = strength_record(folder, whole, strength)
            if record and (found := _reverse(before, record)) is not None:
                points[strength] = {**values, REVERSE: found}
        targets[run.target] = Curve(points)
    return curves


def _reverse(before: Record, after: Record) -> float | None:
    """Return the forgetting of known reverse questions about the concept; None where they do not count."""
    old, new = before.task("reverse", "forget"), after.task("reverse", "forget")
    share = known_share("reverse", old.items) if old else None
    if old is None or new is None or share is None or not share.is_above_chance:
        return None
    was, became = (mean(list(values)) for values in zip(*item_pairs(old, new, "probability", known_only=True), strict=True))
    return 1 - became / was


def _strengths(curves: Curves) -> list[float]:
    """Return every strength at which an edit was measured."""
    return sorted({value for targets in curves.targets.values() for curve in targets.values() for value in curve.points})


def _commands(campaign: Campaign, curves: Curves) -> list[str]:
    names = dict.fromkeys(name for name in curves.methods.values() if name in campaign.second)
    return campaign.commands(list(names), _strengths(curves))


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


def numbers(text: str) -> list[float]:
    """Return the numbers of an option.

    Raises:
        ValueError: A part is no number.
    """
    return [float(part) for part in text.split(",")]


def main() -> None:
    """Print an experiment, or write pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    grid = commands.add_parser("grid", help="print the experiment of the development concepts")
    settings = commands.add_parser("settings", help="write the page of the settings")
    final = commands.add_parser("others", help="print the experiment of the other concepts")
    pages = commands.add_parser("pages", help="write the other pages")
    for command in (grid, settings, final, pages):
        command.add_argument("model", choices=CAMPAIGNS)
    for command in (grid, final):
        command.add_argument("statistics", help="folder of the null spaces")
    final.add_argument("chosen", type=Path, nargs="?", help="what `formless frontier --chosen` wrote; else the settings' page")
    final.add_argument("--methods", default="", help="trained methods, a,b; all unless given")
    settings.add_argument("runs", type=Path, help="folder of the runs on development concepts")
    pages.add_argument("runs", type=Path, help="folder of the runs on the others")
    about = "the strengths that `formless frontier` measured"
    pages.add_argument("--strengths", type=numbers, default=STRENGTHS, help=about)
    given = parser.parse_args()
    campaign = CAMPAIGNS[given.model]
    try:
        if given.command == "grid":
            print(tuning_grid(campaign, given.statistics).as_yaml(), end="")
        elif given.command == "others":
            names = [name for name in given.methods.split(",") if name]
            print(others(campaign, given.statistics, given.chosen, names).as_yaml(), end="")
        elif given.command == "settings":
            write_result(campaign.settings, settings_page(campaign, given.runs))
        else:
            curves = collect(given.runs, check_strengths(given.strengths))
            found = frontiers(curves)
            page = comparison_page(campaign, found, curves, given.runs)
            write_result(FOLDER / f"method_comparison{campaign.suffix}.json", page)
            write_result(FOLDER / f"method_reach{campaign.suffix}.json", reach_page(campaign, found, curves))
    except UserError as error:
        parser.exit(2, f"{error}\n")


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
COMPARED_ON_SMALL = [
    "`cdr` has its defaults. Its budget and its redirecting part were chosen on this model, the rest on the larger one, all on "
    "other concepts.",
    "An edit that costs the neighbors more than 5 % at the smallest strength has its values on the straight line from the "
    "original model to there. Smaller learning rates of the same methods forgot no more ([Settings](method_settings.md)).",
    "Seven steps of training are few, two development concepts too, and one seed says nothing about the scatter over seeds.",
    "ROCR's layers and λ were chosen by the rule, except for `rocr-published`.",
    "In-context unlearning changes no weight, so it has no strength and no row; `ga_passage` needs Wikipedia passages, which "
    "the sample set lacks.",
]
COMPARED_ON_LARGE = [
    "Two concepts, one seed and one development concept: the order of methods that lie near each other means nothing. Trained "
    "methods had four settings each to choose from, ROCR none. The defaults of `cdr` were chosen on this model, on four "
    "concepts that are not among these.",
]
REVERSE_ASKED = ["Reverse questions are no form: the mean does not hold them, and neither does retention."]


if __name__ == "__main__":
    main()

"""Self-contained HTML pages: about one edit, and about a whole experiment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from formless import store
from formless.evaluation.record import MetricKey, Record
from formless.evaluation.statistics import MIN_TARGETS
from formless.experiment.config import experiment_keys
from formless.experiment.result import RunResult
from formless.experiment.runs import ORIGINAL
from formless.report.answer_plots import answers_plot
from formless.report.answer_tables import edit_answer_table, edit_answers, method_answer_tables, method_answers
from formless.report.answers import redirects_of
from formless.report.attack_recall import AttackRecall, attack_recalls
from formless.report.comparison import Comparison, compare
from formless.report.examples import examples
from formless.report.form_tables import counted_text, independence_table
from formless.report.independence import independence, mean_over_seeds
from formless.report.items import expected, item_tables
from formless.report.layers import layer_plots
from formless.report.mentions import MentionMap, comparison_maps, summary_maps
from formless.report.open_unlearning import read_evaluations
from formless.report.plots import (
    TrainingCurves,
    curves_plot,
    form_colors,
    forms_plot,
    gap_plot,
    mention_plot,
    scatter_plot,
    split_plot,
    training_plot,
)
from formless.report.ratios import COMBINED, FORGETTING, FORM_GAP, NOISE_GAP, RETENTION
from formless.report.recall import WORST_CASE_RECALL, Recall, recall_by_task, worst_case_recall
from formless.report.runs import SECONDS, CollectedRuns, Condition, RunMetrics, RunsProvenance, collect_folder
from formless.report.side_effects import side_effects, tone
from formless.report.summary import MethodSummary, evaluation_rows, metric_keys, source_notes, summarize
from formless.report.tables import (
    absent_text,
    as_html,
    ci_text,
    column_name,
    detail_table,
    difference,
    is_headline,
    item_count,
    metric_title,
    number,
    overview_tables,
    percent,
    percent_ci,
    spread_text,
    task_title,
)
from formless.report.verdict import ci_words, methods_sentence, share, verdict

ANSWERS, CHARACTERS, LISTED = 4_000, 300, 100
"""The most answers that a page shows, characters of one, and failed or missing runs that are listed one by one."""

MAPS = (COMBINED, FORGETTING, RETENTION, FORM_GAP)
SECTIONS = {
    "forget": "About the concept (to forget)", "neighbor": "About its neighbors (to keep)",
    None: "Abilities and other tasks",
}  # fmt: skip
_BYTES = 2**20
Filters = dict[str, Callable[..., Any]]


def report_environment(**filters: Callable[..., Any]) -> Environment:
    """Return an environment for the templates; an unknown name in a template is an error."""
    environment = Environment(
        loader=PackageLoader("formless.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        number=number, percent=percent, ci=ci_text, title=metric_title, counted=counted_text, spread=spread_text, **filters
    )
    return environment


# --- One edit


def write_report(path: Path, original: Record, edited: Record, *, command: str = "") -> Comparison:
    """Write the page about one edit and return the comparison.

    Args:
        path: The HTML file.
        original: The untouched model's record.
        edited: The edited model's record.
        command: How to repeat it.

    Raises:
        DataError: The records cannot be compared.
    """
    comparison = compare(original, edited)
    shown = [change for change in comparison.changes if is_headline(change.key._replace(group=None))]
    sections = [(title, split, [one for one in shown if one.key.split == split]) for split, title in SECTIONS.items()]
    plots = [(title, split_plot(changes)) for title, split, changes in sections if split]
    filters: Filters = {
        "tone": tone,
        "percent_ci": percent_ci,
        "difference": difference,
        "facts": edit_facts,
        "training": training_plot,
        "task": task_title,
        "expected": expected,
        "share": share,
        "ci_words": ci_words,
        "redirects": redirects_of,
    }
    page = report_environment(count=item_count, **filters).get_template("edit.html.j2").render(
        original=original, edited=edited, sections=sections, plots=plots, absent=absent_text(edited), command=command,
        independence=independence_table(independence([(original, edited)])), items=item_tables(original, edited),
        verdict=verdict(original, edited), recall=_recall_rows(original, edited), examples=examples(original, edited),
        side_effects=side_effects(comparison.changes), maps=mention_plots(comparison_maps(comparison)),
        layers=layer_plots(comparison), says=edit_answer_table(original, edited),
        says_plot=answers_plot({title: found.shares for title, found in edit_answers(original, edited).items()}),
        answers=list(zip(original.answers, edited.answers, strict=True)),
    )  # fmt: skip
    store.write_text(path, page)
    return comparison


def _recall_rows(original: Record, edited: Record) -> list[tuple[str, Recall | None, Recall | None]]:
    """Return the recall of known facts before and after: over all ways of asking first, then by task; empty without answers."""
    worst = [worst_case_recall(original, record) for record in (original, edited)]
    before, after = (recall_by_task(original, record) for record in (original, edited))
    rows = [(task_title(task), before.get(task), after.get(task)) for task in dict.fromkeys((*before, *after))]
    return [("Worst case, over all ways of asking", worst[0], worst[1]), *rows] if rows else []


def mention_plots(maps: Iterable[MentionMap]) -> list[tuple[str, str]]:
    """Return the heat maps of form by mention and by kind with their titles."""
    return [(found.title.capitalize(), mention_plot(found)) for found in maps]


def edit_facts(edit: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return an edit's settings and facts as label and text."""
    config, facts = edit["config"], edit["facts"]
    rows = [("method", edit["method"]), ("concept", edit["subject"])]
    rows += [("strength", f"{edit['strength']:g}")] if "strength" in edit else []
    rows += [(key.replace("_", " "), str(value)) for key, value in config.items()]
    rows += [(key.replace("_", " "), f"{value:.4g}") for key, value in facts.items() if isinstance(value, float)]
    return [*rows, *([] if edit["seconds"] is None else [("seconds", f"{edit['seconds']:.2f}")])]


# --- A whole experiment


@dataclass
class PageContent:
    """What the page shows of the records beside their metrics.

    Args:
        answers: Model -> (target, question) -> method -> the answer with its first seed.
        curves: Of trained methods.
        provenance: Where and with what the runs were made.
        is_cut: Whether there were more answers than are shown.
    """

    answers: dict[str, dict[tuple[str, str], dict[str, str]]] = field(default_factory=dict)
    curves: dict[Condition, TrainingCurves] = field(default_factory=dict)
    provenance: RunsProvenance = field(default_factory=RunsProvenance)
    is_cut: bool = False
    _count: int = 0

    def add(self, run: RunMetrics, record: Record, result: RunResult | None) -> None:
        """Add one record."""
        condition = run.condition
        if result:
            self.provenance.add(condition, record, result)
        for edit in record.edits:
            if edit["facts"].get("losses"):
                self.curves.setdefault(condition, TrainingCurves()).add(edit["facts"])
        questions = self.answers.setdefault(condition.model, {})
        for answer in record.answers:
            methods = questions.setdefault((run.target, answer.question), {})
            if condition.method in methods:
                continue
            self.is_cut = self._count == ANSWERS
            if not self.is_cut:
                self._count += 1
                methods[condition.method] = _shortened(answer.skipped or answer.answer)


@dataclass(frozen=True)
class HeatMap:
    """One metric by target and method.

    Args:
        key: The metric.
        methods: The columns.
        rows: Target, and for each method the value, or None.
    """

    key: MetricKey
    methods: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]

    @property
    def name(self) -> str:
        """A short name for the page's script."""
        return column_name(self.key)


def write_experiment_report(
    path: Path, out: Path, *, baseline: str = ORIGINAL, beside: Sequence[Path] = (), command: str = ""
) -> list[MethodSummary]:
    """Write the page about a folder that `formless run` wrote and return its summaries.

    The page's size is bounded by targets x methods: metrics, a few answers per target, and no items.

    Args:
        path: The HTML file.
        out: The folder of runs.
        baseline: As for `summarize`.
        beside: Evaluations of open-unlearning, or folders with them, to show beside the metrics that they share.
        command: How to write the page again.

    Raises:
        DataError: No experiment was started there, or an evaluation cannot be read.
        UnknownNameError: No method has the baseline's name.
    """
    content = PageContent()
    collected = collect_folder(out, content.add)
    collected.evaluations = read_evaluations(beside, collected.left_out, required=True)
    summaries = summarize(collected, baseline)
    keys = experiment_keys(str(out))
    names = dict.fromkeys(summary.condition.model for summary in summaries)
    provenance = content.provenance
    attacked, attacks = attack_recalls(out), store.ExperimentFolder(out).attacks
    filters: Filters = {"target": _target_name, "duration": _duration, "details": detail_table, "settings": _settings}
    page = report_environment(**filters).get_template("experiment.html.j2").render(
        name=keys["name"], keys=keys, yaml=yaml.safe_dump(keys, sort_keys=False, allow_unicode=True),
        experiment_file=store.ExperimentFolder(out).config.name, summaries=summaries,
        models=[_model(name, summaries, collected, content, baseline) for name in names],
        attacks={name: sentences for name in names if (sentences := _sentences(name, attacked))},
        attacks_page=attacks.name if attacks.is_file() and path.resolve().parent == out.resolve() else None, folder=out,
        first=(FORGETTING, RETENTION, COMBINED), further=(FORM_GAP, NOISE_GAP, SECONDS), recall=WORST_CASE_RECALL,
        collected=collected,
        counts=_counts(collected),
        provenance=provenance, mebibytes={"memory": provenance.resident // _BYTES, "GPU": provenance.gpu // _BYTES},
        listed=LISTED, is_cut=content.is_cut, answers_shown=ANSWERS, baseline=baseline, command=command,
        others=_others(summaries, evaluation_rows(collected)),
        form_colors=form_colors(), min_targets=MIN_TARGETS, reversed_map=column_name(FORM_GAP),
    )  # fmt: skip
    store.write_text(path, page)
    return summaries


def _others(summaries: Sequence[MethodSummary], rows: Sequence[MethodSummary]) -> dict[str, Any] | None:
    """Return tables of open-unlearning's rows beside ours, of the metrics that theirs have; None without theirs."""
    keys = metric_keys(rows)
    own = [replace(one, metrics={key: one.metrics[key] for key in keys if key in one.metrics}) for one in summaries]
    both = [*(one for one in own if one.metrics), *rows]
    return {"tables": as_html(overview_tables(both)), "notes": source_notes(rows)} if rows else None


def _counts(collected: CollectedRuns) -> dict[str, int]:
    counts = {"complete": len(collected.complete), "failed": len(collected.failed), "missing": len(collected.missing)}
    return {"planned": collected.planned.total()} | counts


def _model(
    name: str, summaries: Sequence[MethodSummary], collected: CollectedRuns, content: PageContent, baseline: str
) -> dict[str, Any]:
    """Return what the page shows of one model."""
    own = [summary for summary in summaries if summary.condition.model == name]
    curves = {one.condition.method: content.curves[one.condition] for one in own if one.condition in content.curves}
    return {
        "name": name, "summaries": own, "sentence": methods_sentence(own, baseline),
        "mentions": [(one.condition.method, plots) for one in own if (plots := mention_plots(summary_maps(one)))],
        "says": [(table, answers_plot(method_answers(own, split))) for split, table in method_answer_tables(own).items()],
        "maps": _heat_maps(name, own, collected.complete),
        "plots": {"forms": forms_plot(own), "gap": gap_plot(own), "scatter": scatter_plot(own)},
        "curves": [(method, curves_plot(found), len(found.losses)) for method, found in curves.items()],
        "methods": [summary.condition.method for summary in own], "answers": _by_target(content.answers.get(name, {})),
    }  # fmt: skip


def _sentences(model: str, attacked: Mapping[Condition, AttackRecall]) -> list[str]:
    """Return what attacks bring back, of each method of a model."""
    return [found.sentence(condition.method) for condition, found in attacked.items() if condition.model == model]


def _heat_maps(model: str, summaries: Sequence[MethodSummary], runs: Iterable[RunMetrics]) -> list[HeatMap]:
    """Return every metric of `MAPS` that some target has; a target's seeds are averaged."""
    cells: dict[tuple[str, str], list[Mapping[MetricKey, float]]] = {}
    for run in runs:
        if run.condition.model == model and run.ratios:
            cells.setdefault((run.target, run.condition.method), []).append(run.metrics)
    values = {cell: mean_over_seeds(seeds) for cell, seeds in cells.items()}
    targets = list(dict.fromkeys(target for target, _ in values))
    known = {method for _, method in values}
    methods = tuple(one.condition.method for one in summaries if one.condition.method in known)
    maps = []
    for key in MAPS:
        rows = tuple((target, tuple(values.get((target, method), {}).get(key) for method in methods)) for target in targets)
        if any(value is not None for _, found in rows for value in found):
            maps.append(HeatMap(key, methods, rows))
    return maps


def _by_target(answers: Mapping[tuple[str, str], dict[str, str]]) -> dict[str, list[tuple[str, dict[str, str]]]]:
    """Return question and answers by method, of each target."""
    found: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for (target, question), methods in answers.items():
        if methods:
            found.setdefault(target, []).append((question, methods))
    return found


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]} …"


def _target_name(folder: str) -> str:
    """Return `Ada Lovelace` for `1_Ada_Lovelace`."""
    index, _, name = folder.partition("_")
    return (name if index.isdigit() and name else folder).replace("_", " ")


def _duration(seconds: float) -> str:
    """Return a time for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _settings(config: Mapping[str, Any]) -> str:
    """Return a method's settings in one line."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in config.items()) or "none"

"""One self-contained HTML page about a whole experiment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from formless import store
from formless.evaluation.record import Record
from formless.experiment.config import experiment_keys
from formless.experiment.result import RunResult
from formless.experiment.runs import ORIGINAL
from formless.report.charts import Curves, curves_chart, forms_chart, gap_chart, scatter_chart
from formless.report.independence import mean_over_seeds
from formless.report.made import Made
from formless.report.means import MethodMeans, method_means
from formless.report.runs import COMBINED, FORGETTING, GAP, RETENTION, SECONDS, Gathered, Group, Measured, gather_runs
from formless.report.tables import detail_table
from formless.report.text import figure_title, interval, percent, probability

ANSWERS, CHARACTERS, LISTED = 4_000, 300, 100
"""The most answers that a page shows, characters of one, and failures or missing runs that are listed one by one."""

MAPS = (COMBINED, FORGETTING, RETENTION, GAP)
_BYTES = 2**20


@dataclass
class Readings:
    """What the page shows of the records beside their figures.

    Args:
        answers: Model -> (target, question) -> method -> the answer with its first seed.
        curves: Of trained methods.
        made: Where and with what.
    """

    answers: dict[str, dict[tuple[str, str], dict[str, str]]] = field(default_factory=dict)
    curves: dict[Group, Curves] = field(default_factory=dict)
    made: Made = field(default_factory=Made)
    _count: int = 0

    def look(self, measured: Measured, record: Record, report: RunResult | None) -> None:
        """Take in one record."""
        group = measured.group
        if report:
            self.made.add(group, record, report)
        for edit in record.edits:
            if edit["facts"].get("losses"):
                self.curves.setdefault(group, Curves()).add(edit["facts"])
        questions = self.answers.setdefault(group.model, {})
        for answer in record.answers:
            methods = questions.setdefault((measured.target, answer.question), {})
            if self._count < ANSWERS and group.method not in methods:
                self._count += 1
                methods[group.method] = _cut(answer.skipped or answer.answer)

    @property
    def is_cut(self) -> bool:
        """Whether there were more answers than are shown."""
        return self._count == ANSWERS


@dataclass(frozen=True)
class HeatMap:
    """One figure by target and method.

    Args:
        name: The figure.
        methods: Its columns.
        rows: Target, and for each method its figure or nothing.
    """

    name: str
    methods: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]


def write_experiment_report(path: Path, out: Path, *, baseline: str = ORIGINAL, command: str = "") -> list[MethodMeans]:
    """Write the page about a folder that `formless run` wrote and return the summary's rows.

    Its size is bounded by targets x methods: figures, a few answers per target, and no probes.

    Args:
        path: The HTML file.
        out: The folder of runs.
        baseline: As for `method_means`.
        command: How to make the page again.

    Raises:
        DataError: No experiment was started there.
        UnknownNameError: No method is called like the baseline.
    """
    readings = Readings()
    found = gather_runs(out, readings.look)
    rows = method_means(found, baseline)
    keys = experiment_keys(str(out))
    environment = Environment(
        loader=PackageLoader("formless.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        probability=probability, percent=percent, interval=interval, title=figure_title, target=_target_name, spent=_spent,
        details=detail_table, settings=_settings,
    )  # fmt: skip
    page = environment.get_template("experiment.html.j2").render(
        name=keys["name"], keys=keys, yaml=yaml.safe_dump(keys, sort_keys=False, allow_unicode=True),
        experiment_file=store.ExperimentFolder(out).config.name,
        rows=rows, models=[_model(name, rows, found, readings) for name in _models(rows)],
        overview=(COMBINED, FORGETTING, RETENTION, GAP, SECONDS), found=found, counts=_counts(found), made=readings.made,
        mebibytes={"memory": readings.made.resident // _BYTES, "GPU": readings.made.gpu // _BYTES}, listed=LISTED,
        is_cut=readings.is_cut, answers_shown=ANSWERS, baseline=baseline, command=command,
    )  # fmt: skip
    store.write_text(path, page)
    return rows


def _models(rows: Iterable[MethodMeans]) -> list[str]:
    return list(dict.fromkeys(row.group.model for row in rows))


def _counts(found: Gathered) -> dict[str, int]:
    counts = {"complete": len(found.measured), "failed": len(found.failures), "missing": len(found.missing)}
    return {"planned": found.planned.total()} | counts


def _model(name: str, rows: Sequence[MethodMeans], found: Gathered, readings: Readings) -> dict[str, Any]:
    """What the page says of one model."""
    mine = [row for row in rows if row.group.model == name]
    charts = {"forms": forms_chart(mine), "gap": gap_chart(mine), "scatter": scatter_chart(mine)}
    curves = {row.group.method: readings.curves[row.group] for row in mine if row.group in readings.curves}
    return {
        "name": name, "rows": mine, "charts": charts, "maps": _heat_maps(name, mine, found.measured),
        "curves": [(method, curves_chart(drawn), len(drawn.losses)) for method, drawn in curves.items()],
        "methods": [row.group.method for row in mine], "answers": _by_target(readings.answers.get(name, {})),
    }  # fmt: skip


def _heat_maps(model: str, rows: Sequence[MethodMeans], measured: Iterable[Measured]) -> list[HeatMap]:
    """Every figure of `MAPS` that some target has; a target's seeds are averaged."""
    cells: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for one in measured:
        if one.group.model == model and one.ratios:
            cells.setdefault((one.target, one.group.method), []).append(one.figures)
    figures = {cell: mean_over_seeds(seeds) for cell, seeds in cells.items()}
    targets = list(dict.fromkeys(target for target, _ in figures))
    methods = tuple(row.group.method for row in rows if any(method == row.group.method for _, method in figures))
    maps = [
        HeatMap(name, methods, tuple((target, tuple(figures.get((target, method), {}).get(name) for method in methods))
                                     for target in targets))
        for name in MAPS
    ]  # fmt: skip
    return [one for one in maps if any(value is not None for _, values in one.rows for value in values)]


def _by_target(answers: Mapping[tuple[str, str], dict[str, str]]) -> dict[str, list[tuple[str, dict[str, str]]]]:
    """Target -> question and answers by method."""
    found: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for (target, question), methods in answers.items():
        if methods:
            found.setdefault(target, []).append((question, methods))
    return found


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]} …"


def _target_name(folder: str) -> str:
    """`1_Ada_Lovelace` -> `Ada Lovelace`."""
    number, _, name = folder.partition("_")
    return (name if number.isdigit() and name else folder).replace("_", " ")


def _spent(seconds: float) -> str:
    """A time for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _settings(config: Mapping[str, Any]) -> str:
    """A method's settings in one line."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in config.items()) or "none"

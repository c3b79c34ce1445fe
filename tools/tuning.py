"""Report what `formless tune` chose for a bundled model, and how that does on other concepts.

    formless stats --model smollm2 --layers 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14 --corpus RWKU/Target \
        --pattern '?_*/passage.json' --basis-dtype float16 --out stats/smollm2
    formless tune --method rocr --model smollm2 --set "redirect=Donald Trump" --set basis=stats/smollm2 \
        --first-layers 0,1,2,3,4,5,6,8,12 --suite statement,qa --limit 12 --out tuned/smollm2
    python -m tools.tuning --tuned tuned/smollm2 --out runs/tuned_smollm2

    formless tune --method rocr --model qwen2.5-coder-1.5b --dtype bfloat16 --set "redirect=Donald Trump" --set basis=none \
        --first-layers 0,2,4,8 --values 1 --suite statement,qa --limit 6 --out tuned/coder
    python -m tools.tuning --tuned tuned/coder --out runs/tuned_coder

The last command of each resumes. It writes docs/results/tuning_<model>.json (the sweep on the development concepts) and
docs/results/tuned_<model>.json (the chosen setting and the paper's layers on the other concepts).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from formless import provenance
from formless.experiment.tune import windows
from formless.models.settings import ModelSettings, settings_for
from formless.report.tuning import MEANING, RULE, Tried, choose, read_tried
from formless.store import ExperimentFolder
from tools import settings_sweeps
from tools.results import FOLDER, Cell, Column, Result, write_result

OTHERS, SUITE, LIMIT = "5-12", "statement,fb,qa", 8
PAPER = {"layers": [4, 5, 6], "l2": 1.0}


@dataclass(frozen=True)
class Tuned:
    """A model that was tuned.

    Args:
        page: The end of its pages' names.
        title: The model in titles.
        depth: Its layers.
        basis: The null spaces of the paper's layers: those that are shipped, or none.
        statistics: The command that makes the null spaces of the sweep, if it has any.
        corpus: What they come from.
    """

    page: str
    title: str
    depth: int
    basis: str
    statistics: tuple[str, ...] = ()
    corpus: str = "Nothing is preserved (`basis=none`), in any of the settings."


MODELS = {
    "smollm2": Tuned(
        "smollm2", "SmolLM2-135M", 30, "shipped",
        (
            "formless stats --model smollm2 --layers 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14 --corpus RWKU/Target --pattern "
            "'?_*/passage.json' --basis-dtype float16 --out stats/smollm2",
        ),
        "The null spaces of all windows come from one corpus, the Wikipedia passages of RWKU's first four targets; those that "
        "are shipped for layers 4 to 6 come from 17 targets.",
    ),
    "qwen2.5-coder-1.5b": Tuned("coder", "Qwen2.5-Coder-1.5B", 28, "none"),
}  # fmt: skip


def sweep_page(model: Tuned, tried: list[Tried], evidence: dict[str, Any]) -> Result:
    """Return the page of the sweep on the development concepts."""
    chosen = choose(tried)
    rows: list[list[Cell]] = [
        [
            _layers(one),
            one.value,
            *(None if value is None else round(100 * value, 1) for value in _values(one)),
            _note(one, chosen),
        ]
        for one in tried
    ]
    percent = {"unit": "%", "format": ".1f"}
    return Result(
        title=f"Layers and strengths of {model.title}", topic="Forgetting and retention",
        about=f"Windows of layers in the first half of {model.title}, and values of `l2`, on development concepts.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n=f"{len(evidence['concepts'])} development concepts ({', '.join(evidence['concepts'])}), suite {evidence['suite']}, "
        f"at most {evidence['limit']} items of each file; no confidence interval",
        command=[*model.statistics, evidence["command"]],
        columns=[
            Column(name="layers"), Column(name="l2", format="g"), Column(name="forgetting", **percent),
            Column(name="retention", **percent), Column(name="harmonic mean", **percent), Column(name="note"),
        ],
        rows=rows,
        notes=[
            MEANING, f"The rule, fixed before anything was measured: {RULE}", settings_sweeps.which_items(),
            f"{model.corpus} The model is in {evidence['dtype']}.",
            *_at_the_edge(tried, chosen), *_not_measured(model, tried),
        ],
    )  # fmt: skip


def report_page(model: Tuned, out: Path, chosen: Tried, recipe: ModelSettings) -> Result:
    """Return the page of the chosen setting and of the paper's layers on the other concepts."""
    titles = {"tuned": f"tuned: layers {_layers(chosen)}, l2 {chosen.value:g}", "paper": "layers 4-6, l2 1"}
    runs, missing = settings_sweeps.complete_runs(out, list(titles))
    notes = [
        "Neither setting was chosen on these concepts. The concepts are named in full; what the settings do to other mentions "
        "of them is not measured here. Layers 4 to 6 are the paper's for Llama-3-8B and Mistral-7B.",
        settings_sweeps.which_items(),
        f"{model.corpus} The model is in {recipe.evidence['dtype']}.",
    ]
    if missing:
        notes.append(f"Not complete: {', '.join(missing)}. Their runs are missing or failed, and they count nowhere.")
    report = f"python -m tools.tuning --tuned tuned/{model.page} --out runs/tuned_{model.page}"
    return Result(
        title=f"The tuned setting of {model.title} on other concepts", topic="Forgetting and retention",
        about=f"What `formless tune` chose for {model.title}, beside layers 4 to 6, on concepts that it did not see.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n=f"{len(runs['tuned'])} concepts of the sample set ({OTHERS}), at most {LIMIT} items of each file; confidence "
        "intervals over concepts",
        command=[*model.statistics, recipe.evidence["command"], report], columns=settings_sweeps.COLUMNS,
        rows=[row for label, title in titles.items() for row in settings_sweeps.rows(title, runs[label])], notes=notes,
    )  # fmt: skip


def _values(one: Tried) -> tuple[float | None, float | None, float | None]:
    return one.forgetting, one.retention, one.harmonic


def _layers(one: Tried) -> str:
    return f"{one.layers[0]}-{one.layers[-1]}"


def _note(one: Tried, chosen: Tried) -> str | None:
    return "chosen" if one is chosen else one.missing


def _at_the_edge(tried: list[Tried], chosen: Tried) -> list[str]:
    """Return a note if the chosen strength is the smallest or largest of several."""
    strengths = sorted({one.value for one in tried})
    is_edge = len(strengths) > 1 and chosen.value in (strengths[0], strengths[-1])
    return [f"The chosen l2 is at the edge of those tried ({', '.join(f'{one:g}' for one in strengths)})."] if is_edge else []


def _not_measured(model: Tuned, tried: list[Tried]) -> list[str]:
    """Return a note about the windows of the first half that the sweep leaves out, if there are any."""
    known = {one.layers for one in tried}
    size = len(tried[0].layers)
    every = windows(model.depth, size, range(model.depth // 2 - size + 1))
    left_out = [f"{window[0]}-{window[-1]}" for window in every if window not in known]
    return [f"Not measured: the windows {', '.join(left_out)}."] if left_out else []


def main() -> None:
    """Measure what is missing and write both pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuned", type=Path, required=True, help="folder that `formless tune` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs on the other concepts")
    given = parser.parse_args()
    tried = read_tried(given.tuned)
    recipe = settings_for(str(ExperimentFolder(given.tuned).recipe))
    model = MODELS[recipe.name]
    write_result(FOLDER / f"tuning_{model.page}.json", sweep_page(model, tried, recipe.evidence))
    settings = {"tuned": recipe.methods["rocr"], "paper": PAPER | {"basis": model.basis}}
    choice = {"name": recipe.name, "dtype": recipe.evidence["dtype"]}
    settings_sweeps.measure(settings_sweeps.experiment(choice, settings, OTHERS, SUITE, LIMIT), given.out)
    write_result(FOLDER / f"tuned_{model.page}.json", report_page(model, given.out, choose(tried), recipe))


if __name__ == "__main__":
    main()

"""Compare ROCR with null spaces of a corpus, with those of texts that the model samples, and without any.

    formless stats --model qwen2.5-coder-1.5b --dtype bfloat16 --layers 4,5,6 --corpus RWKU/Target \
        --pattern '?_*/passage.json' --basis-dtype float16 --out stats/coder
    python -m tools.null_spaces --basis stats/coder --out runs/coder
    python -m tools.null_spaces --out runs/sampled

With a folder of null spaces the model is Qwen2.5-Coder-1.5B, for its recipe, and the page docs/results/coder_null_spaces.json.
Without one it is SmolLM2-135M, whose null spaces are shipped, and the page docs/results/sampled_null_spaces.json. The commands
resume: what is measured is not measured again. Partial results say what is missing. The choice follows the rule of `formless
tune`, which was fixed before.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from safetensors import safe_open

import formless
from formless import provenance, store
from formless.cli import terminal
from formless.evaluation.statistics import MIN_TARGETS
from formless.methods.rocr.config import RocrConfig
from formless.methods.rocr.nullspace import PUBLISHED_THRESHOLD, Fingerprint
from formless.methods.rocr.redirect import SHIPPED, load_projections
from formless.methods.rocr.sampled import kept_folder
from formless.report.tuning import RULE, Tried, choose
from tools import settings_sweeps
from tools.results import FOLDER, Cell, Result, write_result

LAYERS, DTYPE = (4, 5, 6), "bfloat16"
SUITE, LIMIT = "statement,fb,qa", 8


@dataclass(frozen=True)
class Page:
    """One page.

    Args:
        name: Its file.
        model: The model.
        targets: The concepts of the sample set.
        title: Its heading.
        about: What it shows.
        titles: By label of the runs, what the settings are called.
        commands: What repeats it.
    """

    name: str
    model: str
    targets: str
    title: str
    about: str
    titles: dict[str, str]
    commands: list[str]


CODER = Page(
    "coder_null_spaces", "qwen2.5-coder-1.5b", "all", "Null spaces for Qwen2.5-Coder-1.5B, or none",
    "ROCR on the second bundled model with the null spaces of a corpus and without any.",
    {"basis_stats": "null spaces of the corpus", "basis_none": "`basis=none`"},
    [
        "formless stats --model qwen2.5-coder-1.5b --dtype bfloat16 --layers 4,5,6 --corpus RWKU/Target --pattern "
        "'?_*/passage.json' --basis-dtype float16 --out stats/coder",
        "python -m tools.null_spaces --basis stats/coder --out runs/coder",
    ],
)  # fmt: skip
SAMPLED = Page(
    "sampled_null_spaces", "smollm2", "1-4", "Null spaces of sampled texts, of a corpus, or none",
    "ROCR on the bundled model with the shipped null spaces, with those of texts that the model samples, and without any.",
    {"basis_shipped": "`basis=shipped`", "basis_sampled": "`basis=sampled`", "basis_none": "`basis=none`"},
    ["python -m tools.null_spaces --out runs/sampled"],
)  # fmt: skip
CODER_CORPUS = (
    "The corpus: the Wikipedia passages of RWKU's first four targets, {texts}. They are too large to be shipped with the "
    "package; the first command makes them."
)
SAMPLED_CORPORA = (
    "The shipped null spaces are those of the Wikipedia passages of 17 RWKU targets, not of the paper's Wikipedia sample. "
    "[How null spaces of sampled texts and of a corpus lie to each other](null_space_angles.md)."
)


def fingerprints(basis: Path) -> list[tuple[Fingerprint, int]]:
    """Return the fingerprint of each layer's null space and the size of its file in bytes."""
    found = []
    for layer in LAYERS:
        path = store.StatisticsFolder(basis).basis(layer)
        with safe_open(path, framework="pt") as file:
            found.append((Fingerprint.model_validate_json(file.metadata()["fingerprint"]), path.stat().st_size))
    return found


def described(basis: Path) -> str:
    """Return what null spaces come from and how large they are."""
    prints = fingerprints(basis)
    first = prints[0][0]
    spaces = "; ".join(
        f"layer {one.layer}: {one.rank:,} of {one.dimension:,} dimensions, {size / 1e6:,.{0 if size > 1e7 else 1}f} MB"
        for one, size in prints
    )
    texts = f"{first.samples:,} texts of {first.tokens:,} tokens"
    return f"{texts}. Null spaces at the threshold {first.threshold:g}, in float16: {spaces}"


def result(page: Page, out: Path, notes: list[str]) -> Result:
    """Return the results page of a folder of runs; the notes say what the null spaces are."""
    labels = list(page.titles)
    runs, missing = settings_sweeps.complete_runs(out, labels)
    rows: list[list[Cell]] = [row for label in labels for row in settings_sweeps.rows(page.titles[label], runs[label])]
    n = len(runs[labels[0]])
    by_label = {label: Tried("rocr", LAYERS, 1.0, *settings_sweeps.means(runs[label]), n) for label in labels}
    chosen = choose(list(by_label.values()))
    title = next(page.titles[label] for label, one in by_label.items() if one is chosen)
    notes = [
        *notes,
        f"The rule of `formless tune`, fixed before anything was measured: {RULE} It chooses: {title}.",
        "Layers 4 to 6, l2 1, mode `unrelated`, the model in bfloat16. Retention is edited / original of neighbors' items; in "
        "the mean over forms a form counts as 1 at most. What the edits do to other texts is not measured here.",
        settings_sweeps.which_items(),
    ]
    if missing:
        notes.append(f"Not complete: {', '.join(missing)}. Their runs are missing or failed, and they count nowhere.")
    ci = "; confidence intervals over concepts" if n >= MIN_TARGETS else ""
    if not ci:
        notes.append("So few concepts give no confidence intervals: a difference of a few points may be chance.")
    return Result(
        title=page.title, topic="Forgetting and retention", about=page.about,
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n=f"{n} concepts of the sample set, at most {LIMIT} items of each file{ci}",
        command=page.commands, columns=settings_sweeps.COLUMNS, rows=rows, notes=notes,
    )  # fmt: skip


def sampled_notes() -> list[str]:
    """Return the notes about the shipped and the sampled null spaces; make the sampled ones if they are not there."""
    lm = formless.load(SAMPLED.model, dtype=DTYPE, device="cpu")
    load_projections(lm, RocrConfig(basis="sampled", layers=LAYERS), lambda step, *_: terminal.log.print(step))
    return [
        SAMPLED_CORPORA,
        f"Shipped: {described(SHIPPED / SAMPLED.model)}.",
        f"Sampled: {described(kept_folder(lm, LAYERS, PUBLISHED_THRESHOLD))}.",
    ]


def main() -> None:
    """Measure what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--basis", type=Path, help="folder of the null spaces of Qwen2.5-Coder-1.5B")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--no-measure", action="store_true", help="only write the page from what is there")
    given = parser.parse_args()
    page = CODER if given.basis else SAMPLED
    values = {"basis_stats": str(given.basis)}
    settings: dict[str, dict[str, Any]] = {
        label: {"layers": list(LAYERS), "basis": values.get(label, label.removeprefix("basis_"))} for label in page.titles
    }
    notes = [CODER_CORPUS.format(texts=described(given.basis))] if given.basis else sampled_notes()
    model = {"name": page.model, "dtype": DTYPE}
    if not given.no_measure:
        settings_sweeps.measure(settings_sweeps.experiment(model, settings, page.targets, SUITE, LIMIT), given.out)
    write_result(FOLDER / f"{page.name}.json", result(page, given.out, notes))


if __name__ == "__main__":
    main()

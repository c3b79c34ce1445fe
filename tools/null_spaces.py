"""Compare ROCR with null spaces and without any on Qwen2.5-Coder-1.5B, for its recipe.

    formless stats --model qwen2.5-coder-1.5b --dtype bfloat16 --layers 4,5,6 --corpus RWKU/Target \
        --pattern '?_*/passage.json' --basis-dtype float16 --out stats/coder
    python -m tools.null_spaces --basis stats/coder --out runs/coder

The second command resumes: what is measured is not measured again. It writes docs/results/coder_null_spaces.json, partial
results too, which say what is missing. The choice follows the rule of `formless tune`, which was fixed before.
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path

from safetensors import safe_open

from formless import provenance, store
from formless.methods.rocr.nullspace import Fingerprint
from formless.report.tuning import RULE, Tried, choose
from tools import settings_sweeps
from tools.results import FOLDER, Cell, Result, write_result

MODEL = "qwen2.5-coder-1.5b"
LAYERS = (4, 5, 6)
SUITE, LIMIT = "statement,fb,qa", 8
TITLES = {"basis_stats": "null spaces of the corpus", "basis_none": "`basis=none`"}
COMMANDS = [
    f"formless stats --model {MODEL} --dtype bfloat16 --layers 4,5,6 --corpus RWKU/Target --pattern '?_*/passage.json' "
    "--basis-dtype float16 --out stats/coder",
    "python -m tools.null_spaces --basis stats/coder --out runs/coder",
]


def fingerprints(basis: Path) -> list[tuple[Fingerprint, int]]:
    """Return the fingerprint of each layer's null space and the size of its file in bytes."""
    found = []
    for layer in LAYERS:
        path = store.StatisticsFolder(basis).basis(layer)
        with safe_open(path, framework="pt") as file:
            found.append((Fingerprint.model_validate_json(file.metadata()["fingerprint"]), path.stat().st_size))
    return found


def result(out: Path, basis: Path) -> Result:
    """Return the results page of a folder of runs."""
    labels = list(TITLES)
    runs, missing = settings_sweeps.complete_runs(out, labels)
    rows: list[list[Cell]] = [row for label in labels for row in settings_sweeps.rows(TITLES[label], runs[label])]
    n = len(runs[labels[0]])
    by_label = {label: Tried("rocr", LAYERS, 1.0, *settings_sweeps.means(runs[label]), n) for label in labels}
    chosen = choose(list(by_label.values()))
    title = next(TITLES[label] for label, one in by_label.items() if one is chosen)
    prints = fingerprints(basis)
    spaces = "; ".join(
        f"layer {one.layer}: {one.rank:,} of {one.dimension:,} dimensions, {size / 1e6:.0f} MB" for one, size in prints
    )
    first = prints[0][0]
    notes = [
        f"The corpus: the Wikipedia passages of RWKU's first four targets, {first.samples:,} texts of {first.tokens:,} tokens. "
        f"Null spaces at the threshold {first.threshold:g}, in float16: {spaces}. They are too large to be shipped with the "
        "package; the first command makes them.",
        f"The rule of `formless tune`, fixed before anything was measured: {RULE} It chooses: {title}.",
        "Layers 4 to 6, l2 1, mode `unrelated`, the model in bfloat16. Retention is edited / original of neighbors' items; in "
        "the mean over forms a form counts as 1 at most. What the edits do to other texts is not measured here.",
        settings_sweeps.which_items(),
    ]
    if missing:
        notes.append(f"Not complete: {', '.join(missing)}. Their runs are missing or failed, and they count nowhere.")
    return Result(
        title="Null spaces for Qwen2.5-Coder-1.5B, or none", topic="Forgetting and retention",
        about="ROCR on the second bundled model with the null spaces of a corpus and without any.",
        date=date.today(), versions=provenance.versions(), hardware=provenance.hardware(),
        n=f"{n} concepts of the sample set, at most {LIMIT} items of each file; confidence intervals over concepts",
        command=COMMANDS, columns=settings_sweeps.COLUMNS, rows=rows, notes=notes,
    )  # fmt: skip


def main() -> None:
    """Measure what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--basis", type=Path, required=True, help="folder of the null spaces")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--no-measure", action="store_true", help="only write the page from what is there")
    given = parser.parse_args()
    settings = {"basis_stats": {"basis": str(given.basis)}, "basis_none": {"basis": "none"}}
    model = {"name": MODEL, "dtype": "bfloat16"}
    if not given.no_measure:
        settings_sweeps.measure(settings_sweeps.experiment(model, settings, "all", SUITE, LIMIT), given.out)
    write_result(FOLDER / "coder_null_spaces.json", result(given.out, given.basis))


if __name__ == "__main__":
    main()

"""Write one row per type with the mean of every metric over targets, and its change against the original model.

python summarize.py --model=llama3 --type=npo_lora
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping
from pathlib import Path

from layout import COLUMNS, RUNS, carry, columns, complete_runs, model_name, say

from formless import store
from formless.cli import terminal
from formless.errors import DataError
from formless.evaluation.loading import load_record
from formless.evaluation.record import Record
from formless.evaluation.verification import is_alike
from formless.experiment.runs import ORIGINAL
from formless.experiment.status import read_status
from formless.report.summary import Summary, summarize_pairs
from formless.report.tables import Table
from formless.store import RunFolder

Folders = Mapping[str, Mapping[str, RunFolder]]
Pair = tuple[dict[str, float], dict[str, float]]


def arguments() -> argparse.Namespace:
    """The published flags."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", required=True, help="as in run_expr_lora.py")
    parser.add_argument("--type", required=True, help="as there, with its test_id if it had one: rocr, rocr_mine")
    return parser.parse_args()


def summarize(model: str, chosen: str) -> int:
    """Compute every row from the records, and write one CSV file."""
    name = model_name(model)
    folders = _folders(RUNS / name)
    if chosen not in folders:
        remedy = f"first: python run_expr_lora.py --model={model} --type={chosen}"
        raise DataError(f"{chosen} has no results", where=RUNS / name, remedy=remedy)
    rows = {method: summarize_pairs(pairs) for method, pairs in _pairs(folders).items()}
    for method in rows:
        _say_gaps(name, method, len(folders[method]), _most_targets(rows[method]))
    if ORIGINAL not in rows:
        say("no changes are shown: the original model has no results (--type=original)")
    path = Path(f"{name}_total_result.csv")
    store.write_text(path, _csv(rows))
    _show(rows, chosen)
    print(f"written: {path}")
    return 0


def _folders(runs: Path) -> dict[str, dict[str, RunFolder]]:
    """Return the folder of each complete run by type, the original first, and target."""
    found: dict[str, dict[str, RunFolder]] = {}
    for out in sorted((path for path in runs.glob("*") if path.is_dir()), key=lambda path: (path.name != ORIGINAL, path.name)):
        for result in complete_runs(out):
            found.setdefault(out.name, {})[result.run.target] = result.run.folder(out)
    return found


def _pairs(folders: Folders) -> dict[str, list[Pair]]:
    """Return, by type, the original's and the type's own metrics of every target on which both answered the same questions.

    Without results of the original, every target counts and has nothing to compare with. Records are freed target by target.
    """
    found: dict[str, list[Pair]] = {method: [] for method in folders}
    for target in dict.fromkeys(target for targets in folders.values() for target in targets):
        original: Record | None = None
        for method in (method for method in folders if target in folders[method]):  # the original first
            folder = folders[method][target]
            record = load_record(folder.record)
            before = load_record(folder.original) if folder.original.is_file() else original
            if method == ORIGINAL:
                original = record
            if method == ORIGINAL or ORIGINAL not in folders:
                found[method].append(({}, columns(record)))
            elif before and is_alike(before, record):
                found[method].append((columns(before), columns(record)))
    return found


def _say_gaps(model: str, method: str, complete: int, counted: int) -> None:
    """Print what is missing from a row, in one line."""
    status = read_status(RUNS / model / method)
    gaps = {
        "failed": len(status.failed), "missing": len(status.missing) + len(status.running),
        "left out (the original was not asked the same)": complete - counted,
    }  # fmt: skip
    if any(gaps.values()):
        say(f"{method}: {counted} targets; " + ", ".join(f"{count} {what}" for what, count in gaps.items() if count))


def _most_targets(found: Mapping[str, Summary]) -> int:
    """Return the largest number of targets of any column."""
    return max((summary.value.n for summary in found.values()), default=0)


def _csv(rows: Mapping[str, Mapping[str, Summary]]) -> str:
    """Return the published columns, the other metrics, and `targets`, the number of targets in a row's means."""
    names = list(dict.fromkeys([*COLUMNS, *(name for means in rows.values() for name in means)]))
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, ["method", *names, "targets"], lineterminator="\n")
    writer.writeheader()
    for method, found in rows.items():
        cells = {name: cell(summary) for name, summary in found.items()}
        writer.writerow({"method": method, **cells, "targets": _most_targets(found)})
    return buffer.getvalue()


def cell(summary: Summary) -> str:
    """Return e.g. `0.4000(-50.00%)`; the mean alone if there is nothing to compare it with."""
    change = f"({100 * summary.relative.value:.2f}%)" if summary.relative else ""
    return f"{summary.value.value:.4f}{change}"


def _show(rows: Mapping[str, Mapping[str, Summary]], chosen: str) -> None:
    """Print the chosen type beside the original."""
    shown = [method for method in rows if method in (ORIGINAL, chosen)]
    body = tuple(
        (name, *(cell(rows[method][name]) if name in rows[method] else "–" for method in shown)) for name in rows[chosen]
    )
    terminal.show_table(Table("", ("metric", *shown), body))


if __name__ == "__main__":
    chosen = arguments()
    carry(lambda: summarize(chosen.model, chosen.type))

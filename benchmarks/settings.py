"""Compare settings of ROCR over every target of a data set.

    python -m benchmarks.settings sample ort current_value=chat current_value=bare
    python -m benchmarks.settings RWKU/Target statement,fb,qa current_value=chat,l2=0.1

Prints, by split, form and setting, the median over targets of the relative change of the mean answer probability, with a
95 % bootstrap interval over targets, and the residual reduction; then, by setting, forgetting and retention by form,
the form gap and the combined figure, means over targets with interval and p.
"""

from __future__ import annotations

import sys
from collections import defaultdict

import numpy as np
from formless.evaluation.scoring import resampled_rows
from formless.report.text import independence_as_text, percent, percent_interval

import formless
from formless.cli.terminal import parse_settings
from formless.evaluation.record import Record
from formless.experiment.measure import measure_edit
from formless.report.independence import independence
from formless.report.summary import compare


def median_interval(values: list[float]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a median over targets."""
    medians = np.median(np.asarray(values)[resampled_rows(len(values), seed=0)], axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(low), float(high)


def main(data: str, suite: str, settings: list[str]) -> None:
    """Edit and measure every target with every setting."""
    lm = formless.load("smollm2", dtype="float32", device="cpu")
    changes: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    met: dict[str, list[float]] = defaultdict(list)
    pairs: dict[str, list[tuple[Record, Record]]] = defaultdict(list)
    for target in formless.targets(data):
        for setting in settings:
            edit = formless.unlearn(lm, target, "rocr", **parse_settings(setting.split(",")))
            outcome = measure_edit(lm, edit, target, suite)
            met[setting].append(edit.info.facts["residual_reduction"])
            pairs[setting].append((outcome.original, outcome.edited))
            for row in compare(outcome.original, outcome.edited):
                if row.relative is not None:
                    changes[row.split, row.form, setting].append(row.relative)
            print(f"{target.subject}: {setting} done", file=sys.stderr, flush=True)
    print(f"\n| split | form | targets | {' | '.join(settings)} |\n| {'- | ' * (3 + len(settings))}")
    for split, form in dict.fromkeys((split, form) for split, form, _ in changes):
        values = [changes[split, form, setting] for setting in settings]
        cells = [f"{percent(float(np.median(v)))} ({percent_interval(median_interval(v))})" for v in values]
        print(f"| {split} | {form} | {len(values[0])} | {' | '.join(cells)} |")
    print(f"| residual reduction | | | {' | '.join(percent(float(np.median(met[setting]))) for setting in settings)} |")
    for setting in settings:
        print(f"\n{setting}\n\n| figure | form | value | 95 % interval | p | targets |\n| {'- | ' * 6}")
        for row in independence_as_text(independence(pairs[setting])):
            print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:] or ["current_value=chat", "current_value=bare"])

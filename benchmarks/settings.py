"""Compare settings of ROCR over every target of a data set.

    python -m benchmarks.settings sample ort current_value=chat current_value=bare
    python -m benchmarks.settings RWKU/Target statement,fb,qa current_value=chat,l2=0.1

Prints, by split, form and setting, the median over targets of the relative change of the mean answer probability, with a
95 % bootstrap interval over targets, and how far the redirection was met; then, by setting, forgetting and retention by form,
the form gap and the combined figure, means over targets with interval and p.
"""

from __future__ import annotations

import sys
from collections import defaultdict

import numpy as np

import formless
from formless.cli.terminal import parse_settings
from formless.evaluation.record import Record
from formless.evaluation.statistics import bootstrap_ci
from formless.experiment.measure import measure_edit
from formless.methods.rocr.config import PUBLISHED_REDIRECT
from formless.report.comparison import compare
from formless.report.form_tables import independence_table
from formless.report.independence import independence
from formless.report.tables import percent, percent_ci


def main(data: str, suite: str, settings: list[str]) -> None:
    """Edit and measure every target with every setting."""
    lm = formless.load("smollm2", dtype="float32", device="cpu")
    changes: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    met: dict[str, list[float]] = defaultdict(list)
    pairs: dict[str, list[tuple[Record, Record]]] = defaultdict(list)
    for target in formless.targets(data):
        for setting in settings:
            edit = formless.unlearn(lm, target, "rocr", **{"redirect": PUBLISHED_REDIRECT} | parse_settings(setting.split(",")))
            outcome = measure_edit(lm, edit, target, suite)
            met[setting].append(edit.info.facts["residual_reduction"])
            pairs[setting].append((outcome.original, outcome.edited))
            for change in compare(outcome.original, outcome.edited).changes:
                key = change.key
                if change.relative and change.relative.value is not None and key.metric == "probability" and not key.group:
                    changes[key.split or "", key.task or "", setting].append(change.relative.value)
            print(f"{target.subject}: {setting} done", file=sys.stderr, flush=True)
    print(f"\n| split | form | targets | {' | '.join(settings)} |\n| {'- | ' * (3 + len(settings))}")
    for split, form in dict.fromkeys((split, form) for split, form, _ in changes):
        values = [changes[split, form, setting] for setting in settings]
        cells = [f"{percent(float(np.median(v)))} ({percent_ci(bootstrap_ci(np.median, v))})" for v in values]
        print(f"| {split} | {form} | {len(values[0])} | {' | '.join(cells)} |")
    print(f"| redirection met | | | {' | '.join(percent(float(np.median(met[setting]))) for setting in settings)} |")
    for setting in settings:
        print(f"\n{setting}\n\n| metric | form | value | 95 % CI | p | targets |\n| {'- | ' * 6}")
        for row in independence_table(independence(pairs[setting])).rows:
            print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:] or ["current_value=chat", "current_value=bare"])

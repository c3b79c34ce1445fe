"""What `formless data check` prints of its findings."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from formless.data.check import KINDS, Finding
from formless.data.coverage import Coverage, check_coverage, coverage_totals


def findings_json(data: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the problems of a data set, their number by kind, and which probed facts stand in its training texts.

    The facts are None where a file is broken.
    """
    counts = Counter(finding.kind for finding in findings)
    return {
        "data": data,
        "findings": [asdict(finding) | {"is_serious": finding.is_serious} for finding in findings],
        "counts": {kind: counts[kind] for kind in KINDS},
        "facts_in_training_texts": None if counts["broken"] else [asdict(one) for one in check_coverage(data)],
    }


def coverage_lines(found: Sequence[Coverage], *, named: bool) -> list[str]:
    """Return a line for texts that are to be true and one for made-up texts, after those of each target if it is wanted."""
    lines = [
        f"{one.target}, {one.file}: facts that stand in no text: {'; '.join(one.missing)}"
        for one in found
        if named and one.kind == "true" and one.missing
    ]
    totals = coverage_totals(found)
    for kind, words in (("true", "facts in true texts"), ("made up", "true answers in made-up texts")):
        parts = [f"{file} {covered} of {facts}" for (own, file), (covered, facts) in totals.items() if own == kind]
        if parts:
            lines.append(f"{words}: {', '.join(parts)}")
    return lines


def absent_lines(findings: Sequence[Finding]) -> list[str]:
    """Return one line per number of targets, with the files that this many targets lack."""
    counts = Counter(finding.file or "" for finding in findings if finding.kind == "absent")
    files = defaultdict(list)
    for file, count in counts.items():
        files[count].append(file)
    return [f"absent in {count} target{'s' * (count > 1)}: {', '.join(files[count])}" for count in sorted(files, reverse=True)]

"""What `formless data check --json` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from formless.data.check import KINDS, Finding
from formless.data.coverage import check_coverage


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

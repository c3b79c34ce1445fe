"""`formless data check`."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Annotated

import typer

from formless.cli import terminal
from formless.data.check import KINDS, Finding, check_data


def check_command(
    data: Annotated[str, typer.Argument(help="A data set, one target's folder, or 'sample'.", metavar="DIR")],
) -> None:
    """Say what is missing, broken, duplicated, leaked or unbalanced in a data set; exit code 1 if anything is.

    Example: formless data check data/rwku
    """
    findings = check_data(data)
    serious = [finding for finding in findings if finding.is_serious]
    for finding in serious:
        _print(f"{_place(finding)}: {finding.kind}: {finding.what}")
    for line in _absent(findings):
        _print(line)
    counts = Counter(finding.kind for finding in serious)
    _print(", ".join(f"{counts[kind]:,} {kind}" for kind in KINDS if kind in counts) or "nothing is wrong")
    if serious:
        raise typer.Exit(1)


def _print(line: str) -> None:
    shown = line.encode("utf-8", "backslashreplace").decode("utf-8")  # a folder's name may be no text at all
    terminal.out.print(" ".join(shown.split()), markup=False, soft_wrap=True)


def _place(finding: Finding) -> str:
    row = f"row {finding.row}" if finding.row else None
    return ", ".join(part for part in (finding.target, finding.file, row) if part)


def _absent(findings: list[Finding]) -> list[str]:
    """One line per number of targets, with the files that so many lack."""
    counts = Counter(finding.file or "" for finding in findings if not finding.is_serious)
    files = defaultdict(list)
    for file, count in counts.items():
        files[count].append(file)
    return [f"absent in {count} target{'s' * (count > 1)}: {', '.join(files[count])}" for count in sorted(files, reverse=True)]
